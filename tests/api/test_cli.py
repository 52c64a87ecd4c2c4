"""The `kumo` command over rows: what operators read, and how it says what is wrong."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml
from compute_cloud import add_image, add_network, build_server
from fake_host import FakeHost
from sqlalchemy import select

from web.cli import build_parser, main
from web.models import Host, Run, Server, now, touch
from web.reconcile.loop import Worker
from web.reconcile.run import Outcome


@pytest.fixture
def kumo(cloud, tmp_path, capsys):
    """A function: the words of a command → (exit status, standard output, standard error)."""
    config = tmp_path / "kumo.conf"
    config.write_text(
        f"[kumo]\nstate_dir = {cloud.settings.kumo.state_dir}\nrun_dir = {tmp_path}\nlog_dir =\n"
        f"[database]\nurl = {cloud.settings.database.url}\n[identity]\nkey_dir = {cloud.settings.identity.key_dir}\n"
        f"[api]\nlisten = 127.0.0.1:1\n[policy]\nfile =\n"
    )

    def run(words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["--config", str(config), *words.split()])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture
def host(cloud):
    return FakeHost()


@pytest.fixture
def worker(cloud, host):
    worker = Worker(cloud.settings, cloud.database, run=host)
    yield worker
    worker.pool.shutdown()


def read_host(cloud) -> Host:
    with cloud.database.read() as session:
        return session.scalar(select(Host))


def test_every_command_has_help(capsys):
    for words in ([], ["serve"], ["run"], ["run", "list"], ["logs"], ["plan"], ["host", "list"], ["config", "check"]):
        with pytest.raises(SystemExit) as ended:
            build_parser().parse_args([*words, "--help"])
        assert ended.value.code == 0
    assert "usage: kumo" in capsys.readouterr().out


def test_from_a_request_to_its_run_and_log(cloud, kumo, worker, host):
    add_network(cloud)
    body = build_server(add_image(cloud, os_hash_algo="sha512", os_hash_value="0"), networks="auto")
    answer = cloud.post("/compute/v2.1/servers", body, version="2.60")
    assert answer.status_code == 202, answer.text
    request = answer.headers["X-Openstack-Request-Id"]
    server = answer.json["server"]["id"]
    code, out, _ = kumo(f"logs request {request}")
    assert code == 0
    assert "waits for host" in out
    worker.run_once(read_host(cloud).id)
    code, out, _ = kumo(f"logs request {request}")
    assert "POST /compute/v2.1/servers  202" in out
    assert "succeeded" in out
    run = kumo("run list")[1].splitlines()[1].split()[0]
    code, out, _ = kumo(f"run show {run[:8]}")
    assert code == 0
    assert request in out
    host.fail[server] = "no space left"
    with cloud.database.write.begin() as session:
        touch(session, session.scalar(select(Server)).host_id)
    worker.run_once(read_host(cloud).id)
    assert "no space left" in kumo("logs errors")[1]


def test_show_document_is_a_host_vars_file(cloud, kumo):
    name = read_host(cloud).name
    code, out, _ = kumo(f"show-document {name}")
    assert code == 0
    assert yaml.safe_load(out)["kumo_document"]["host"] == name


def test_host_show_has_what_was_seen(cloud, kumo, worker, host):
    worker.run_once(read_host(cloud).id)
    code, out, _ = kumo(f"host show {read_host(cloud).name}")
    seen = yaml.safe_load(out)
    assert code == 0
    assert seen["orphans"] == {"domains": [], "disks": []}
    assert seen["observed_generation"] == seen["generation"]


def test_host_list(cloud, kumo):
    code, out, _ = kumo("host list")
    assert code == 0
    assert read_host(cloud).name in out


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("show-document nosuch", 1, "no host 'nosuch'"),
        ("host show nosuch", 1, "no host 'nosuch'"),
        ("plan nosuch", 1, "no host 'nosuch'"),
        ("run show nosuch", 1, "no run begins"),
        ("logs request req-0", 1, "nothing is recorded"),
        ("bootstrap --passwords-file /nonexistent", 2, "[passwords]"),
    ],
)
def test_mistakes_are_told(kumo, words, code, said):
    got, _, err = kumo(words)
    assert got == code
    assert said in err


def test_status_says_what_is_down(kumo):
    code, out, _ = kumo("status")
    assert code == 1
    assert "api        DOWN" in out
    assert "database   alive" in out
    assert "worker     DOWN" in out


def test_config_check(cloud, kumo, tmp_path):
    assert kumo("config check")[0] in (0, 1)
    (tmp_path / "bad.conf").write_text("[api]\nlissten = x\n")
    assert main(["--config", str(tmp_path / "bad.conf"), "config", "check"]) == 2
    (tmp_path / "bad.conf").write_text("[api]\nworkers = many\n")
    assert main(["--config", str(tmp_path / "bad.conf"), "config", "check"]) == 2
    assert main(["--config", str(tmp_path / "missing.conf"), "config", "check"]) == 2


ACTION = {"section": "firewall", "object_id": "a", "verb": "apply_rules"}
DIFF = {"before": "flushed\n", "after": "rules\n", "before_header": "firewall a", "after_header": "firewall a"}
DRIFTED = Outcome(ok=True, result={"actions": [ACTION], "diff": [DIFF]})


@pytest.mark.parametrize(
    ("outcome", "code", "printed"),
    [
        (Outcome(ok=True, result={"actions": [], "diff": []}), 0, "nothing differs"),
        (DRIFTED, 3, "firewall  a       apply rules"),
        (Outcome(ok=False, error="no route to host"), 1, "could not be looked at: no route to host"),
    ],
)
def test_drift_says_what_differs(cloud, kumo, monkeypatch, outcome, code, printed):
    asked = []

    def look(settings, name, connection, document, *, check):
        asked.append((name, check, document["generation"]))
        return outcome

    monkeypatch.setattr("web.reconcile.run.run_host", look)
    status, out, err = kumo("drift")
    assert (status, printed in out + err) == (code, True), out + err
    before = read_host(cloud)
    assert asked == [(before.name, True, before.generation)]
    assert json.loads(kumo(f"drift {before.name} --json")[1])[0]["name"] == before.name
    status, out, _ = kumo("drift --diff")
    assert ("flushed" in out) == (outcome is DRIFTED)
    assert read_host(cloud).generation == before.generation
    assert kumo("drift nowhere")[0] == 1
    assert f"known: {before.name}" in kumo("drift nowhere")[2]


def test_a_run_is_cancelled(cloud, kumo):
    """By its worker, which is told within a turn of its loop; the host is due again, and has not failed."""
    started = threading.Event()

    def wait(settings, name, connection, document, cancelled):
        started.set()
        deadline = time.monotonic() + 20
        while not cancelled():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return Outcome(ok=False, error="the run was cancelled", cancelled=True)

    worker = Worker(cloud.settings, cloud.database, run=wait)
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(worker.run_once, read_host(cloud).id)
        assert started.wait(20)
        (line,) = kumo("run list")[1].splitlines()[1:]
        told = pool.submit(kumo, f"run cancel {line[:8]}")
        deadline = time.monotonic() + 20
        while not running.done():
            assert time.monotonic() < deadline
            worker._read_cancels()
            time.sleep(0.05)
        code, said, _ = told.result()
    worker.pool.shutdown()
    assert code == 0
    assert "cancelled; its host is due again by itself" in said
    assert "cancelled" in kumo("run list")[1]
    host = read_host(cloud)
    assert (host.failures, host.error, host.lease_owner) == (0, None, None)
    assert 0 < (host.next_run_at - now()).total_seconds() <= 10
    assert kumo(f"run cancel {line[:8]}") == (1, "", f"kumo: run {line.split()[0]} is not under way: it is cancelled\n")
    assert kumo("run cancel nothing")[0] == 1


def test_a_cancelled_run_whose_worker_is_gone_is_told(cloud, kumo):
    with cloud.database.write.begin() as session:
        run = Run(host_id=session.scalar(select(Host.id)), generation=1, fence=1, worker="gone:1:1")
        session.add(run)
        session.flush()
        run_id = run.id
    code, _, said = kumo(f"run cancel {run_id} --wait 0")
    assert code == 1
    assert "is its worker alive? `kumo status`" in said
