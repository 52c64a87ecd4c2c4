"""`kumo verify` and `kumo repair`: what can be wrong is found by its name, and mended only where that is safe."""

from __future__ import annotations

import json
import socket
from datetime import timedelta
from pathlib import Path

import pytest
from compute_cloud import COMPUTE, add_image, add_network, build_server
from sqlalchemy import select

from web.cli import main
from web.models import Host, Image, Port, Run, Server, now
from web.reconcile.lease import build_worker_name
from web.reconcile.run import Outcome
from web.verification import find_host_faults

GONE = "aaaaaaaa-0000-4000-8000-000000000001"


@pytest.fixture
def kumo(cloud, tmp_path, capsys, monkeypatch):
    """The words of a command → (exit status, both outputs); ``kumo.look`` is what every host's check mode says."""
    config = tmp_path / "kumo.conf"
    config.write_text(
        f"[kumo]\nstate_dir = {cloud.settings.kumo.state_dir}\nrun_dir = {tmp_path}\nlog_dir =\n"
        f"[database]\nurl = {cloud.settings.database.url}\n[identity]\nkey_dir = {cloud.settings.identity.key_dir}\n"
        f"[image]\nstore_dir = {tmp_path}/images\n[policy]\nfile =\n"
    )

    def run(words: str) -> tuple[int, str]:
        capsys.readouterr()
        code = main(["--config", str(config), *words.split()])
        said = capsys.readouterr()
        return code, said.out + said.err

    run.look = Outcome(ok=True, result={"observed": {}, "actions": []})
    run.images = tmp_path / "images"
    monkeypatch.setattr("web.reconcile.run.run_host", lambda *_, check: run.look)
    return run


def list_faults(kumo) -> list[tuple[str, str, str]]:
    found = json.loads(kumo("verify --json")[1])
    return sorted((one["where"], one["kind"], one["problem"]) for one in found)


def test_nothing_is_wrong(cloud, kumo):
    assert kumo("verify") == (0, "nothing is wrong\n")
    assert kumo("verify nowhere")[0] == 1
    assert kumo("repair --plan")[0] == 0


def test_rows_that_belong_to_nothing(cloud, kumo):
    network = add_network(cloud)
    body = build_server(add_image(cloud, status="queued"), networks=[{"uuid": network}])
    with cloud.database.write.begin() as session:
        session.scalar(select(Image)).status = "active"
    answer = cloud.post(f"{COMPUTE}/servers", body, version="2.96")
    assert answer.status_code == 202, answer.text
    (kumo.images).mkdir()
    with cloud.database.write.begin() as session:
        image, server = session.scalar(select(Image)), session.scalar(select(Server))
        (kumo.images / image.id).write_bytes(b"x")
        server.gone_at = now()
    assert list_faults(kumo) == [("rows", "port", "the server it is for is gone")]
    with cloud.database.write.begin() as session:
        port = session.scalar(select(Port).where(Port.device_owner.startswith("compute")))
        port.device_owner = "network:router_interface"
    assert list_faults(kumo) == [("rows", "port", "the router it is for is gone")]
    code, said = kumo("repair --apply")
    assert code == 3
    assert "0 mended or given to the worker, 1 left to you" in said
    with cloud.database.read() as session:
        assert session.scalar(select(Port.id).where(Port.device_owner == "network:router_interface")), (
            "nothing is deleted"
        )


def test_bytes_and_images(cloud, kumo):
    lost = add_image(cloud)
    kumo.images.mkdir()
    (kumo.images / GONE).write_bytes(b"x")
    assert list_faults(kumo) == [
        ("files", "image", "its bytes are missing from the store"),
        ("files", "image", "no image has these bytes in the store"),
    ]
    assert lost in kumo("verify")[1]
    assert GONE in kumo("verify")[1]
    folder = Path(cloud.settings.worker.runs_dir, "run-left")
    folder.mkdir(parents=True)
    assert ("files", "run folder", "no run is under way that it is of") in list_faults(kumo)


@pytest.mark.parametrize("owner", ["gone", "expired", "mine"])
def test_leases(cloud, kumo, owner):
    """Released where its worker is gone or has let it expire, and never while somebody is at work."""
    name = f"{socket.gethostname()}:1:1" if owner == "gone" else build_worker_name()
    expires = now() + timedelta(seconds=-1 if owner == "expired" else 60)
    with cloud.database.write.begin() as session:
        host = session.scalar(select(Host))
        host.lease_owner, host.lease_expires_at, host.fence = name, expires, 4
        session.add(Run(host_id=host.id, generation=1, fence=3, worker=name))
        session.add(Run(host_id=host.id, generation=1, fence=4, worker=name))
    expected = [("rows", "run", f"it is under way, and {name} no longer holds its host")]
    if owner != "mine":
        problem = f"its worker {name} is gone" if owner == "gone" else f"{name} has let it expire"
        expected.insert(0, ("rows", "lease", problem))
    assert list_faults(kumo) == expected
    code, said = kumo("repair")
    assert code == 3
    assert "to mend, 0 that are left to you" in said
    assert list_faults(kumo) == expected, "a plan changes nothing"
    code, said = kumo("repair --apply")
    assert code == 0, said
    with cloud.database.read() as session:
        host = session.scalar(select(Host))
        assert host.lease_owner == (name if owner == "mine" else None)
        states = {run.fence: run.state for run in session.scalars(select(Run))}
        assert states[3] == "lost"
    if owner == "mine":
        assert states[4] == "running"
        assert list_faults(kumo) == []
    else:
        # The lease is nobody's now, and so the run that was under it is found.
        assert [kind for _, kind, _ in list_faults(kumo)] == ["run"]


HOST = Host(name="node1")
SERVER = {"id": "s", "wanted": "present"}
VOLUME = {"id": "v", "wanted": "present", "exports": [{"id": "e"}]}


@pytest.mark.parametrize(
    ("changes", "observed", "actions", "found"),
    [
        ({}, {}, [], []),
        ({}, {"orphans": {"domains": ["kumo-x"], "disks": []}}, [], ["domain kumo-x"]),
        ({}, {"orphans": {"disks": ["x"], "bridges": ["kbr1"]}}, [], ["bridge kbr1", "disk x"]),
        ({"servers": [SERVER]}, {}, [], ["server s"]),
        ({"servers": [SERVER]}, {"servers": {"s": {}}}, [], []),
        ({"servers": [{**SERVER, "wanted": "absent"}]}, {}, [], []),
        ({"servers": [{**SERVER, "incoming": {}}]}, {}, [], []),
        ({"volumes": [VOLUME]}, {"volumes": {"v": {}}}, [], ["export e"]),
        ({"volumes": [VOLUME]}, {"exports": {"e": {}}}, [], ["volume v"]),
        ({"snapshots": [{"id": "n", "wanted": "present"}]}, {}, [], ["snapshot n"]),
        ({}, {}, [{"section": "firewall", "object_id": "a", "verb": "apply_rules"}], ["firewall a"]),
        ({"servers": [SERVER]}, {}, [{"section": "servers", "object_id": "s", "verb": "create"}], ["server s"]),
    ],
)  # fmt: skip
def test_what_a_host_has_and_lacks(changes, observed, actions, found):
    document = {"servers": [], "volumes": [], "snapshots": [], **changes}
    look = Outcome(ok=True, result={"observed": observed, "actions": actions})
    assert [f"{one.kind} {one.id}" for one in find_host_faults(HOST, document, look)] == found


def test_a_host_that_cannot_be_looked_at(cloud, kumo):
    kumo.look = Outcome(ok=False, error="cannot be reached over ssh: no route to host")
    code, said = kumo("verify")
    assert code == 3
    assert "it cannot be looked at: cannot be reached over ssh: no route to host" in said


def test_a_host_that_differs_is_looked_at_again(cloud, kumo):
    kumo.look = Outcome(
        ok=True, result={"observed": {}, "actions": [{"section": "dhcp", "object_id": "n", "verb": "start"}]}
    )
    with cloud.database.write.begin() as session:
        session.scalar(select(Host)).next_run_at = now() + timedelta(hours=1)
    code, said = kumo("repair --apply")
    assert (code, "1 mended or given to the worker" in said) == (0, True)
    with cloud.database.read() as session:
        assert session.scalar(select(Host.next_run_at)) is None
