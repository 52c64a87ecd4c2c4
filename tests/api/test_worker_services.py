"""Worker processes as services: who lists them, when one counts as up, and what cannot be asked of one."""

from __future__ import annotations

import socket
from datetime import timedelta

import pytest
from compute_cloud import COMPUTE
from sqlalchemy import update

from web.models import WorkerProcess, now
from web.reconcile.alive import note_alive
from web.reconcile.lease import build_worker_name
from web.reconcile.loop import Worker

DEAD = f"{socket.gethostname()}:1:1"  # no process of this machine began at that moment


def read(cloud, path: str, version: str = "2.96"):
    return cloud.get(f"{COMPUTE}{path}", user="admin", version=version)


def note(cloud, name: str, zones=()) -> None:
    with cloud.database.write.begin() as session:
        note_alive(session, name, zones)


@pytest.fixture
def worker(cloud):
    found = Worker(cloud.settings, cloud.database, run=None)
    yield found
    found.pool.shutdown()
    found.imports.pool.shutdown()


def test_a_worker_tells_that_it_lives(cloud, worker):
    """With its clean-up; `openstack compute service list` shows it, os-hosts and the zones' details too."""
    worker._clean()
    (service,) = read(cloud, "/os-services?binary=nova-conductor").json["services"]
    machine = socket.gethostname()
    shown = {name: service[name] for name in ("host", "zone", "status", "state", "forced_down", "disabled_reason")}
    assert shown == {
        "host": machine, "zone": "internal", "status": "enabled", "state": "up",
        "forced_down": False, "disabled_reason": None,
    }  # fmt: skip
    assert [one["binary"] for one in read(cloud, "/os-services").json["services"]] == ["nova-compute", "nova-conductor"]
    assert read(cloud, f"/os-services?binary=nova-conductor&host={machine}x").json["services"] == []
    row = {"host_name": machine, "service": "conductor", "zone": "internal"}
    hosts = read(cloud, "/os-hosts", "2.42").json["hosts"]
    assert (len(hosts), hosts[1]) == (2, row)
    assert read(cloud, "/os-hosts?service=conductor", "2.42").json["hosts"] == [row]
    assert read(cloud, "/os-hosts?zone=internal", "2.42").json["hosts"] == [row]
    zones = read(cloud, "/os-availability-zone/detail").json["availabilityZoneInfo"]
    assert [zone["zoneName"] for zone in zones] == ["nova", "internal"]
    assert zones[1]["hosts"][machine]["nova-conductor"]["available"] is True
    listed = cloud.get(f"{COMPUTE}/os-availability-zone").json["availabilityZoneInfo"]
    assert [zone["zoneName"] for zone in listed] == ["nova"], "no server can be asked for there"


def test_a_worker_that_is_silent_is_down(cloud):
    note(cloud, build_worker_name())
    with cloud.database.write.begin() as session:
        session.execute(update(WorkerProcess).values(seen_at=now() - timedelta(minutes=4)))
    assert read(cloud, "/os-services?binary=nova-conductor").json["services"][0]["state"] == "down"
    note(cloud, build_worker_name())
    assert read(cloud, "/os-services?binary=nova-conductor").json["services"][0]["state"] == "up"


def test_a_restart_makes_no_further_service(cloud):
    """A worker takes over the row of one that has ended on its machine, and no other's."""
    note(cloud, DEAD)
    note(cloud, "elsewhere:1:1")
    before = {one["host"]: one["id"] for one in read(cloud, "/os-services?binary=nova-conductor").json["services"]}
    note(cloud, build_worker_name(), ["b", "a"])
    after = read(cloud, "/os-services?binary=nova-conductor").json["services"]
    assert {one["host"]: one["id"] for one in after} == before
    with cloud.database.read() as session:
        row = session.get(WorkerProcess, before[socket.gethostname()])
        assert (row.name, row.zones) == (build_worker_name(), ["a", "b"])


def test_what_cannot_be_asked_of_a_worker(cloud):
    """It is not disabled nor forced down (400), and is forgotten on request until it is heard of again."""
    note(cloud, build_worker_name())
    (service,) = read(cloud, "/os-services?binary=nova-conductor").json["services"]
    path, machine = f"{COMPUTE}/os-services", socket.gethostname()
    answer = cloud.put(f"{path}/{service['id']}", {"status": "disabled"}, user="admin", version="2.53")
    assert (answer.status_code, "Only nova-compute services" in answer.text) == (400, True)
    body = {"host": machine, "binary": "nova-conductor"}
    assert cloud.put(f"{path}/disable", body, user="admin", version="2.52").status_code == 400
    assert cloud.put(f"{path}/disable", {**body, "host": "nope"}, user="admin", version="2.52").status_code == 404
    number = read(cloud, "/os-services?binary=nova-conductor", "2.52").json["services"][0]["id"]
    assert cloud.delete(f"{path}/{number}", version="2.52").status_code == 403
    assert cloud.delete(f"{path}/{number}", user="admin", version="2.52").status_code == 204
    assert read(cloud, "/os-services?binary=nova-conductor").json["services"] == []


def test_rows_of_workers_long_gone_are_pruned(cloud, worker):
    note(cloud, "elsewhere:1:1")
    with cloud.database.write.begin() as session:
        long_ago = now() - timedelta(days=cloud.settings.kumo.keep_deleted_days, minutes=1)
        session.execute(update(WorkerProcess).values(seen_at=long_ago))
    worker.prune()
    assert read(cloud, "/os-services?binary=nova-conductor").json["services"] == []
