"""Who may shelve what and when, where it is unshelved, what is refused then; and resizes that confirm themselves."""

from __future__ import annotations

from datetime import timedelta

import pytest
from compute_cloud import COMPUTE, find_project, read_server
from move_calls import Hosts
from shelve_calls import OFFLOADED, change, kept, last_action, settle, shelve, show
from sqlalchemy import func, select

from web.draining import choose_way
from web.models import Host, Image, Migration, Quota, Server, now


@pytest.fixture
def hosts(cloud):
    found = Hosts(cloud)
    yield found
    found.worker.pool.shutdown()


@pytest.fixture
def server(hosts):
    return hosts.boot()


def test_requests(hosts, server):
    """Versions, fields, permissions, other projects, locks, quotas: a refusal changes nothing."""
    path = f"{COMPUTE}/servers/{server}/action"
    with hosts.cloud.database.write.begin() as session:
        session.scalar(select(Server).where(Server.id == server)).project_id = find_project(hosts.cloud)
    for user, status in (("reader", 403), ("other", 404)):
        for action in ("shelve", "unshelve"):
            assert hosts.cloud.post(path, {action: None}, user=user, version="2.96").status_code == status
    hosts.act(server, "unshelve", expected=409)
    hosts.act(server, "shelveOffload", expected=409)
    hosts.act(server, "lock", {})
    hosts.act(server, "shelve", user="demo", expected=409)
    hosts.act(server, "unlock")
    with hosts.cloud.database.write.begin() as session:
        session.add(Quota(project_id=find_project(hosts.cloud), resource="image", limit=0))
    hosts.act(server, "shelve", expected=403)
    with hosts.cloud.database.write.begin() as session:
        session.execute(Quota.__table__.delete())
        assert session.scalar(select(func.count()).select_from(Image)) == 1
    assert show(hosts, shelve(hosts, server))["owner"] == find_project(hosts.cloud), "not the admin's who asked"
    with hosts.cloud.database.write.begin() as session:
        session.scalar(select(Host).where(Host.name == "b")).zone = "far"
    cases = [
        ({"availability_zone": "nope"}, "2.77", "admin", 400, "availability zone is not available"),
        ({"availability_zone": None}, "2.90", "admin", 400, "availability_zone"),
        ({"availability_zone": ""}, "2.91", "admin", 400, "availability_zone"),
        ({"availability_zone": 1}, "2.91", "admin", 400, "availability_zone"),
        ({"host": "b"}, "2.90", "admin", 400, "host"),
        ({"host": None}, "2.91", "admin", 400, "host"),
        ({"host": "b", "node": "b"}, "2.91", "admin", 400, "node"),
        ({"host": "nope"}, "2.91", "admin", 400, "Compute host nope could not be found"),
        ({"host": "b"}, "2.91", "demo", 403, "unshelve_to_host"),
        ({"host": "b", "availability_zone": "nova"}, "2.91", "admin", 409, "is not in the availability zone"),
        ([], "2.91", "admin", 400, "unshelve"),
    ]
    for body, version, user, status, said in cases:
        answer = hosts.cloud.post(path, {"unshelve": body}, user=user, version=version)
        assert (answer.status_code, said in answer.text) == (status, True), (body, version, answer.text)
    assert hosts.where(server) == OFFLOADED
    hosts.act(server, "lock", {})
    hosts.act(server, "unshelve", user="demo", expected=409)
    hosts.act(server, "unlock")
    with hosts.cloud.database.read() as session:
        assert session.scalar(select(Server.availability_zone).where(Server.id == server)) is None


@pytest.mark.parametrize(
    ("pinned", "version", "body", "host", "zone"),
    [
        ("nova", "2.76", None, "a", "nova"),
        ("nova", "2.77", None, "a", "nova"),
        ("nova", "2.77", {"availability_zone": "far"}, "b", "far"),
        (None, "2.77", {"availability_zone": "far"}, "b", "far"),
        ("far", "2.91", {"availability_zone": None}, "a", None),
        ("nova", "2.91", {"host": "b"}, 409, "nova"),
        ("nova", "2.91", {"host": "b", "availability_zone": None}, "b", None),
        ("nova", "2.91", {"host": "b", "availability_zone": "far"}, "b", "far"),
        (None, "2.91", {"host": "b"}, "b", None),
    ],
)
def test_zones(hosts, server, pinned, version, body, host, zone):
    """Where it goes, and to what it is pinned from then on (the reference's table of requests)."""
    with hosts.cloud.database.write.begin() as session:
        for row in session.scalars(select(Host)):
            row.zone, row.enabled = {"a": "nova", "b": "far", "c": "nova"}[row.name], row.name != "c"
    shelve(hosts, server)
    change(hosts, server, availability_zone=pinned)
    answer = hosts.act(server, "unshelve", body, version=version, expected=host if host == 409 else 202)
    row = read_server(hosts.cloud, server)
    assert row.availability_zone == zone
    if host != 409:
        assert hosts.where(server)[0] == host, answer.text


def test_no_move_takes_a_shelved_server(hosts, server):
    """No drain, no migration, no evacuation; its group counts it nowhere once it is offloaded."""
    kept(hosts)
    shelve(hosts, server)
    for action, body in (
        ("migrate", None), ("os-migrateLive", {"host": "b", "block_migration": "auto"}), ("evacuate", {}),
        ("createImage", {"name": "x"}), ("rescue", None), ("os-getConsoleOutput", None),
    ):  # fmt: skip
        hosts.act(server, action, body, expected=409)
    way, reason = choose_way(read_server(hosts.cloud, server), False)
    assert (way, "shelve --offload" in reason) == ("stays", True)
    hosts.act(server, "os-resetState", {"state": "error"})
    for action in ("os-stop", "evacuate", "migrate"):
        hosts.act(server, action, {} if action == "evacuate" else None, expected=409)
    hosts.act(server, "rebuild", {"imageRef": hosts.image}, expected=409)
    hosts.act(server, "os-resetState", {"state": "active"})
    assert hosts.where(server) == ("a", "SHELVED", None)


@pytest.mark.parametrize("to", ["same", "other"])
def test_a_resize_confirms_itself(hosts, server, to):
    """Not before its window, and never without one; the action is the worker's own."""
    if to == "other":
        hosts.act(server, "migrate", {"host": "b"})
    else:
        hosts.act(server, "resize", {"flavorRef": "2"})
    settle(hosts)
    assert hosts.where(server)[1] == "VERIFY_RESIZE"

    def grow_old(seconds: int) -> None:
        with hosts.cloud.database.write.begin() as session:
            session.scalar(select(Migration)).phase_at = now() - timedelta(seconds=seconds)

    grow_old(10_000)
    hosts.turn("a", "b")
    assert hosts.where(server)[1] == "VERIFY_RESIZE", "0 is never"
    hosts.cloud.settings.compute.resize_confirm_window_s = 100
    grow_old(50)
    name = "a" if to == "same" else "b"
    hosts.turn(name)
    assert hosts.where(server)[1] == "VERIFY_RESIZE"
    assert hosts.read_hosts()[name].next_run_at <= now() + timedelta(seconds=50)
    grow_old(101)
    hosts.turn(name)
    settle(hosts)
    assert hosts.where(server) == (name, "ACTIVE", None)
    assert hosts.read_move(server).phase == "ended"
    assert last_action(hosts, server) == ("confirmResize", True, None)


def test_used_hours_count_on(hosts, server):
    shelve(hosts, server)
    project = read_server(hosts.cloud, server).project_id
    usage = hosts.call("GET", f"{COMPUTE}/os-simple-tenant-usage/{project}")["tenant_usage"]["server_usages"]
    assert [(one["instance_id"], one["state"]) for one in usage] == [(server, "shelved_offloaded")]
