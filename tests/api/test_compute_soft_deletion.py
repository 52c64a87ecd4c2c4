"""Deletion that can be taken back ([compute] reclaim_instance_interval_s): off, hidden, restored, reclaimed, forced."""

from __future__ import annotations

from datetime import timedelta

import pytest
from compute_cloud import COMPUTE, add_image, add_network, boot, read_server
from fake_host import FakeHost
from move_calls import Hosts
from sqlalchemy import select
from test_compute_diagnostics import run

from web.models import Host, Port, Server, now

INTERVAL_S = 600


@pytest.fixture
def host(cloud):
    cloud.settings.compute.reclaim_instance_interval_s = INTERVAL_S
    return FakeHost()


@pytest.fixture
def server(cloud, host):
    server = boot(cloud, add_image(cloud), see=False, networks=[{"uuid": add_network(cloud)}])
    run(cloud, host)
    return server


def delete(cloud, server, user="demo"):
    return cloud.delete(f"{COMPUTE}/servers/{server}", user=user, version="2.96")


def act(cloud, server, action, user="demo"):
    return cloud.post(f"{COMPUTE}/servers/{server}/action", {action: None}, user=user, version="2.96")


def show(cloud, server) -> tuple:
    view = cloud.get(f"{COMPUTE}/servers/{server}").json["server"]
    return view["status"], view["OS-EXT-STS:vm_state"], view["OS-EXT-STS:task_state"]


def ids(cloud, query="", user="demo") -> list[str]:
    answer = cloud.get(f"{COMPUTE}/servers/detail?{query}", user=user, version="2.96")
    assert answer.status_code == 200, answer.text
    return [row["id"] for row in answer.json["servers"]]


def count_instances(cloud) -> int:
    return cloud.get(f"{COMPUTE}/limits").json["limits"]["absolute"]["totalInstancesUsed"]


def set_back(cloud, server, seconds) -> None:
    with cloud.database.write.begin() as session:
        row = session.scalar(select(Server).where(Server.id == server))
        row.soft_deleted_at = now() - timedelta(seconds=seconds)


def test_without_an_interval_it_is_gone(cloud, host, server):
    cloud.settings.compute.reclaim_instance_interval_s = 0
    assert act(cloud, server, "restore").status_code == 409
    assert delete(cloud, server).status_code == 204
    assert act(cloud, server, "restore").status_code == 409
    run(cloud, host)
    assert cloud.get(f"{COMPUTE}/servers/{server}").status_code == 404
    assert act(cloud, server, "restore").status_code == 404


def test_it_is_off_and_comes_back(cloud, host, server):
    assert delete(cloud, server).status_code == 204
    assert show(cloud, server) == ("ACTIVE", "active", "soft-deleting")
    assert act(cloud, server, "restore").status_code == 409, "not yet off"
    run(cloud, host)
    assert show(cloud, server) == ("SOFT_DELETED", "soft-delete", None)
    assert host.documents[-1]["servers"][0]["power"] == "off"
    assert host.state[server]["state"] == "shutoff"
    assert delete(cloud, server).status_code == 204, "again is once"
    assert show(cloud, server) == ("SOFT_DELETED", "soft-delete", None)
    for action in ("os-start", "reboot", "pause", "rescue", "createImage"):
        body = {"reboot": {"type": "HARD"}, "createImage": {"name": "x"}}.get(action)
        answer = cloud.post(f"{COMPUTE}/servers/{server}/action", {action: body}, version="2.96")
        assert answer.status_code == 409, answer.text
    usage = cloud.get(f"{COMPUTE}/limits").json["limits"]["absolute"]
    assert usage["totalInstancesUsed"] == 0, "as the reference counts: not what is SOFT_DELETED"
    assert act(cloud, server, "restore", user="reader").status_code == 403
    assert act(cloud, server, "restore", user="other").status_code == 404
    assert act(cloud, server, "restore").status_code == 202
    assert show(cloud, server) == ("SOFT_DELETED", "soft-delete", "restoring")
    run(cloud, host)
    assert show(cloud, server) == ("ACTIVE", "active", None)
    assert host.state[server]["state"] == "running"
    actions = cloud.get(f"{COMPUTE}/servers/{server}/os-instance-actions", version="2.96").json["instanceActions"]
    assert [(one["action"], one["message"]) for one in actions] == [
        ("restore", None),
        ("delete", None),
        ("create", None),
    ]
    with cloud.database.read() as session:
        assert session.scalar(select(Port).where(Port.device_id == server)) is not None


def test_it_is_hidden_in_lists(cloud, host, server):
    other = boot(cloud, add_image(cloud), see=False)
    run(cloud, host)
    delete(cloud, server)
    run(cloud, host)
    everywhere = "all_tenants=true"
    for query, user, listed in (
        ("", "demo", {other}),
        ("status=SOFT_DELETED", "demo", set()),
        ("deleted=true", "demo", {other}),
        ("soft_deleted=true", "demo", {other}),
        ("changes-since=2020-01-01T00:00:00Z", "demo", {server, other}),
        (everywhere, "admin", {other}),
        (f"{everywhere}&status=SOFT_DELETED", "admin", {server}),
        (f"{everywhere}&soft_deleted=true", "admin", {server, other}),
        (f"{everywhere}&deleted=true", "admin", {server}),
        (f"{everywhere}&deleted=true&soft_deleted=false", "admin", set()),
        (f"{everywhere}&deleted=false", "admin", {other}),
    ):
        assert set(ids(cloud, query, user)) == listed, (query, user)
    assert cloud.get(f"{COMPUTE}/servers?soft_deleted=maybe", user="admin", version="2.96").status_code == 400
    assert show(cloud, server)[0] == "SOFT_DELETED", "its id still finds it"


def test_it_is_reclaimed(cloud, host, server):
    delete(cloud, server)
    run(cloud, host)
    with cloud.database.read() as session:
        due = session.scalar(select(Host.next_run_at))
    assert due <= now() + timedelta(seconds=cloud.settings.worker.sweep_s)
    set_back(cloud, server, INTERVAL_S - 5)
    run(cloud, host, 1)
    with cloud.database.read() as session:
        assert session.scalar(select(Host.next_run_at)) <= now() + timedelta(seconds=6), "looked at when it is time"
    assert show(cloud, server)[0] == "SOFT_DELETED"
    set_back(cloud, server, INTERVAL_S + 1)
    cloud.settings.compute.reclaim_instance_interval_s = 0
    run(cloud, host)
    assert show(cloud, server)[0] == "SOFT_DELETED", "without an interval it stays"
    cloud.settings.compute.reclaim_instance_interval_s = INTERVAL_S
    run(cloud, host, 1)
    assert show(cloud, server) == ("SOFT_DELETED", "soft-delete", "deleting")
    assert act(cloud, server, "restore").status_code == 409
    run(cloud, host)
    assert read_server(cloud, server).status == "DELETED"
    assert server not in host.state


def test_a_host_that_is_down_is_no_way_to_stay(cloud, host, server):
    delete(cloud, server)
    run(cloud, host)
    set_back(cloud, server, INTERVAL_S + 1)
    host.down = "it does not answer"
    run(cloud, host, 1)
    assert show(cloud, server)[2] == "deleting"
    host.down = None
    run(cloud, host)
    assert read_server(cloud, server).status == "DELETED"


def test_force_delete_is_now(cloud, host, server):
    delete(cloud, server)
    run(cloud, host)
    assert act(cloud, server, "forceDelete").status_code == 202
    run(cloud, host)
    assert read_server(cloud, server).status == "DELETED"
    never = boot(cloud, add_image(cloud), see=False)
    assert delete(cloud, never).status_code == 204
    row = read_server(cloud, never)
    assert (row.soft_deleted_at, row.deleted_at is None) == (None, False), "what never ran is not kept"


def test_what_was_under_way_when_it_was_deleted(cloud, host, server):
    """A rescue is over; a server in error is kept too, and a failed soft deletion can be asked for again."""
    cloud.post(f"{COMPUTE}/servers/{server}/action", {"rescue": None})
    run(cloud, host)
    assert show(cloud, server)[0] == "RESCUE"
    delete(cloud, server)
    host.fail[server] = "it cannot be switched off"
    run(cloud, host, 5)
    row = read_server(cloud, server)
    assert (row.status, row.fault_message) == ("ERROR", "it cannot be switched off")
    del host.fail[server]
    assert delete(cloud, server).status_code == 204
    run(cloud, host)
    assert show(cloud, server) == ("SOFT_DELETED", "soft-delete", None)
    act(cloud, server, "restore")
    run(cloud, host)
    assert show(cloud, server)[0] == "ACTIVE"


def test_a_server_that_waits_for_its_confirmation_is_kept_where_it_is(cloud):
    """Its resize is confirmed by the deletion; one that moves at that moment is deleted at once."""
    cloud.settings.compute.reclaim_instance_interval_s = INTERVAL_S
    hosts = Hosts(cloud)
    server = hosts.boot()
    hosts.act(server, "resize", {"flavorRef": "2"})
    hosts.settle()
    assert hosts.where(server)[1] == "VERIFY_RESIZE"
    place = hosts.where(server)[0]
    assert delete(cloud, server, user="admin").status_code == 204
    hosts.settle()
    assert hosts.where(server) == (place, "SOFT_DELETED", None)
    assert [name for name, fake in hosts.fakes.items() if server in fake.disks] == [place], "the old host keeps nothing"
    assert act(cloud, server, "restore", user="admin").status_code == 202
    hosts.settle()
    assert hosts.where(server) == (place, "ACTIVE", None)
    assert read_server(cloud, server).flavor_id == "2"
    hosts.act(server, "migrate", None)
    assert delete(cloud, server, user="admin").status_code == 204
    assert read_server(cloud, server).deleted_at is not None
    hosts.settle()
    assert read_server(cloud, server).status == "DELETED"


def test_it_counts_against_no_quota_and_asks_for_room_when_it_is_restored(cloud, host, server):
    """Source: Nova counts no instance that is SOFT_DELETED, and checks the quota anew at its restore."""
    project = read_server(cloud, server).project_id
    limit = {"quota_set": {"instances": 1}}
    assert cloud.put(f"{COMPUTE}/os-quota-sets/{project}", limit, user="admin").status_code == 200
    delete(cloud, server)
    run(cloud, host)
    assert count_instances(cloud) == 0
    other = boot(cloud, add_image(cloud), see=False, networks=[{"uuid": add_network(cloud)}])
    run(cloud, host)
    assert count_instances(cloud) == 1
    refused = act(cloud, server, "restore")
    assert (refused.status_code, refused.json["forbidden"]["message"]) == (
        403,
        "Quota exceeded for instances: Requested 1, but already used 1 of 1 instances",
    )
    assert show(cloud, server)[0] == "SOFT_DELETED"
    cloud.settings.compute.reclaim_instance_interval_s = 0
    delete(cloud, other)
    run(cloud, host)
    cloud.settings.compute.reclaim_instance_interval_s = INTERVAL_S
    assert act(cloud, server, "restore").status_code == 202
    run(cloud, host)
    assert (show(cloud, server)[0], count_instances(cloud)) == ("ACTIVE", 1)
