"""What an operator reads and repairs: the `kumo` command on a running cloud, and drift made by another tool."""

from __future__ import annotations

import os
import signal
import socket
import subprocess

import openstack as sdk
import pytest
from client import ask, find_pids, openstack, wait_for

KUMO = "/opt/kumo/bin/kumo"
HOST = socket.gethostname()


def kumo(words: str, code: int = 0) -> str:
    done = subprocess.run([KUMO, *words.split()], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == code, f"kumo {words}: {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout + done.stderr


@pytest.fixture(scope="module", autouse=True)
def _a_guest():
    """The first server runs, so that this host has bridges and chains."""
    wait_for("the first server", lambda: ask("server show first")["status"] == "ACTIVE", 60)


def read_chains() -> str:
    return subprocess.run(["iptables-save"], capture_output=True, text=True, check=True).stdout


def test_status_hosts_and_configuration():
    assert "DOWN" not in kumo("status")
    assert HOST in kumo("host list")
    assert "virt_type" in kumo(f"host show {HOST}")
    assert "the configuration is good" in kumo("config check")


def test_from_a_request_id_to_its_run():
    request = (
        sdk.connect(cloud="kumo")
        .compute.post(f"/servers/{ask('server show first')['id']}/action", json={"reboot": {"type": "HARD"}})
        .headers["X-Compute-Request-Id"]
    )
    wait_for("the run", lambda: "succeeded" in kumo(f"logs request {request}"), 60)
    run = kumo("run list --limit 1").splitlines()[1].split()[0]
    assert HOST in kumo(f"run show {run}")
    wait_for("ACTIVE", lambda: ask("server show first")["status"] == "ACTIVE", 60)


def test_a_dry_run_shows_what_this_host_would_do_and_does_nothing():
    """By Ansible's check mode, in a second or two; then the same request under a key, twice, makes one server."""
    cloud = sdk.connect(cloud="kumo-admin")
    image, network = ask("image show kumo-guest")["id"], ask("network show private")["id"]
    flavor = ask("flavor show m1.nano")["id"]
    server = {"name": "tried", "imageRef": image, "flavorRef": flavor, "networks": [{"uuid": network}]}
    words = {"json": {"server": server}, "microversion": "2.60"}
    tried = cloud.compute.post("/servers", headers={"Kumo-Dry-Run": "true"}, **words).json()["dry_run"]
    assert tried["status"] == 202
    (host,) = tried["hosts"]
    assert (host["name"], host["error"]) == (HOST, None)
    number = tried["body"]["server"]["id"]
    mine = [action["verb"] for action in host["actions"] if action["object_id"] == number]
    assert "create" in mine
    assert number in str(host["diff"])
    assert not list(cloud.compute.servers(all_projects=True, name="tried"))
    assert number not in subprocess.run(["virsh", "list", "--all"], capture_output=True, text=True, check=True).stdout
    answers = [cloud.compute.post("/servers", headers={"Idempotency-Key": number}, **words) for _ in range(2)]
    assert answers[0].json() == answers[1].json()
    assert [len(list(cloud.compute.servers(all_projects=True, name="tried")))] == [1]
    cloud.compute.delete_server(answers[0].json()["server"]["id"])


def stop_idle(worker: int) -> bool:
    """Stop the worker; False, and it goes on, where it was in the middle of a run."""
    os.kill(worker, signal.SIGSTOP)
    if " running " not in kumo("run list --limit 3"):
        return True
    os.kill(worker, signal.SIGCONT)
    return False


def test_plan_shows_drift_and_the_loop_repairs_it():
    chain = next(line.split()[1] for line in read_chains().splitlines() if line.startswith("-A kumo-egress"))
    wait_for("nothing to do", lambda: "changed=0" in kumo(f"plan {HOST}"), 60, 2)
    (worker,) = find_pids("/opt/kumo/venv/bin/kumo", "worker")
    # Or its timer might repair it before it was looked at; and so might a run that is under way just now.
    wait_for("the worker to be stopped with no run under way", lambda: stop_idle(worker), 30, 1)
    try:
        subprocess.run(["iptables", "-F", chain], check=True)
        planned = kumo(f"plan {HOST}")
        drifted = kumo("drift --diff", code=3)
        assert "firewall" in kumo("verify", code=3)
        session = sdk.connect(cloud="kumo-admin").session
        told = session.get(f"{session.get_endpoint(service_type='kumo-admin')}/hosts/{HOST}/drift").json()["drift"]
        assert "changed=1" in planned
        assert "firewall" in planned
        assert "firewall" in drifted
        assert chain in drifted
        assert (told["name"], told["error"]) == (HOST, None)
        assert "firewall" in {action["section"] for action in told["actions"]}
        assert chain in str(told["diff"])
        assert f"-A {chain} " not in read_chains()
    finally:
        os.kill(worker, signal.SIGCONT)
    openstack("server set --property nudged=yes first")
    wait_for("the rules are back", lambda: f"-A {chain} " in read_chains(), 75)


def test_a_run_that_hangs_is_cancelled_and_nothing_of_it_is_left():
    """libvirtd is stopped under it: neither Ansible nor root's helper on the host outlives the run."""
    wait_for("nothing under way", lambda: "running" not in kumo("run list --limit 3"), 60)
    daemons = find_pids("libvirtd")
    assert daemons
    for pid in daemons:
        os.kill(pid, signal.SIGSTOP)
    try:
        openstack("server set --property looked=at first")
        wait_for("root's helper to hang", lambda: find_pids("kumo_root.py", "apply"), 30, 0.1)
        run = next(line.split()[0] for line in kumo("run list --limit 3").splitlines() if " running " in line)
        assert "cancelled" in kumo(f"run cancel {run}")
        wait_for("its end", lambda: not find_pids("kumo_root.py", "apply") and not find_pids("apply_host.yml"), 3, 0.1)
        assert "cancelled" in kumo(f"run show {run}")
    finally:
        for pid in daemons:
            os.kill(pid, signal.SIGCONT)
    assert "DOWN" not in kumo("status")
    wait_for("the wish to be carried out", lambda: HOST in kumo("host list") and has_seen_all(), 60)


def has_seen_all() -> bool:
    line = next(line for line in kumo("host list").splitlines() if line.startswith(HOST))
    seen, wanted = line.split()[4].split("/")
    return seen == wanted


def test_the_document_is_a_file_that_ansible_takes():
    text = kumo(f"show-document {HOST}")
    assert text.startswith("kumo_document:")
    assert "kumo-public" in text


def test_aggregates_zones_and_services():
    assert ask("aggregate create --zone nova --property ssd=true agg-e2e", "kumo-admin")["name"] == "agg-e2e"
    try:
        openstack(f"aggregate add host agg-e2e {HOST}", "kumo-admin")
        assert ask("aggregate show agg-e2e", "kumo-admin")["hosts"] == [HOST]
        assert "agg-e2e" in {row["Name"] for row in ask("aggregate list", "kumo-admin")}
        assert {"Zone Name": "nova", "Zone Status": "available"} in ask("availability zone list")
        openstack(f"aggregate remove host agg-e2e {HOST}", "kumo-admin")
    finally:
        openstack("aggregate delete agg-e2e", "kumo-admin")
    openstack(f"compute service set --disable --disable-reason test {HOST} nova-compute", "kumo-admin")
    try:
        (service,) = ask(f"compute service list --host {HOST} --service nova-compute", "kumo-admin")
        assert service["Status"] == "disabled"
    finally:
        openstack(f"compute service set --enable {HOST} nova-compute", "kumo-admin")
