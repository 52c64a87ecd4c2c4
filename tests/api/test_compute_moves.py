"""Guests that move between hosts made of dicts: every way, from the request to the last look."""

from __future__ import annotations

import pytest
from compute_cloud import COMPUTE, read_server
from move_calls import Hosts


@pytest.fixture
def hosts(cloud):
    found = Hosts(cloud)
    yield found
    found.worker.pool.shutdown()


def test_a_live_migration(hosts):
    server = hosts.boot()
    hosts.live(server)
    assert hosts.where(server) == ("a", "MIGRATING", "migrating")
    hosts.settle()
    assert hosts.where(server) == ("b", "ACTIVE", None)
    move = hosts.read_move(server)
    assert (move.phase, move.outcome, move.error) == ("ended", "completed", None)
    assert hosts.fakes["b"].disks[server] == "what the guest wrote"
    assert server not in hosts.fakes["a"].state
    assert hosts.read_actions(server)[-1] == ("live-migration", True, None)
    hosts.turn()
    assert hosts.where(server) == ("b", "ACTIVE", None)


def test_a_guest_that_moves_alive_is_never_shown_as_stopped(hosts):
    server = hosts.boot()
    hosts.live(server)
    shown = []
    for _ in range(20):
        shown.append(hosts.where(server)[1])
        if shown[-1] != "MIGRATING":
            break
        hosts.turn()
    assert shown[-1] == "ACTIVE"
    assert set(shown) == {"MIGRATING", "ACTIVE"}


@pytest.mark.parametrize(("power", "end"), [("on", "ACTIVE"), ("off", "SHUTOFF")])
@pytest.mark.parametrize("answer", ["confirmResize", "revertResize"])
def test_a_cold_migration(hosts, answer, power, end):
    server = hosts.boot()
    if power == "off":
        hosts.act(server, "os-stop")
        hosts.settle()
    hosts.act(server, "migrate", {"host": "c"})
    assert hosts.where(server) == ("a", "RESIZE", "resize_migrating")
    hosts.settle()
    assert hosts.where(server) == ("c", "VERIFY_RESIZE", None)
    assert hosts.fakes["c"].disks[server] == hosts.fakes["a"].disks[server] == "what the guest wrote"
    assert hosts.read_actions(server)[-1] == ("migrate", True, None)
    hosts.fakes["c"].disks[server] = "written since"
    hosts.act(server, answer)
    hosts.settle()
    host, disk = ("c", "written since") if answer == "confirmResize" else ("a", "what the guest wrote")
    assert hosts.where(server) == (host, end, None)
    assert {name: fake.disks.get(server) for name, fake in hosts.fakes.items() if server in fake.disks} == {host: disk}
    assert hosts.read_move(server).phase == "ended"
    assert hosts.read_actions(server)[-1] == (answer, True, None)


def test_s15_delete_during_a_resize_stops_the_copy_and_returns_the_quota(hosts):
    server = hosts.boot()
    hosts.set_host("a", enabled=False)
    hosts.set_host("c", enabled=False)
    hosts.fakes["b"].holding = {"received"}
    hosts.act(server, "resize", {"flavorRef": "2"})
    hosts.settle(5)
    assert hosts.fakes["b"].moves[server]["state"] == "receiving"
    assert hosts.cloud.delete(f"{COMPUTE}/servers/{server}", user="admin").status_code == 204
    hosts.turn("b")
    document = next(one for one in hosts.fakes["b"].documents[-1]["servers"] if one["id"] == server)
    assert (document["wanted"], "incoming" in document) == ("absent", False)
    assert hosts.fakes["b"].moves == {}
    hosts.settle()
    limits = hosts.cloud.get(f"{COMPUTE}/limits", user="admin").json["limits"]["absolute"]
    assert (limits["totalInstancesUsed"], limits["totalCoresUsed"], limits["totalRAMUsed"]) == (0, 0, 0)
    assert hosts.read_usage() == {}


@pytest.mark.parametrize("answer", ["confirmResize", "revertResize"])
def test_a_resize_on_one_host(hosts, answer):
    server = hosts.boot()
    hosts.act(server, "resize", {"flavorRef": "2"}, user="admin")
    hosts.settle()
    assert hosts.where(server) == ("a", "VERIFY_RESIZE", None)
    assert read_server(hosts.cloud, server).flavor_id == "2"
    hosts.fakes["a"].disks[server] = "written since"
    hosts.act(server, answer)
    hosts.settle()
    assert hosts.where(server) == ("a", "ACTIVE", None)
    assert read_server(hosts.cloud, server).flavor_id == ("2" if answer == "confirmResize" else "1")
    assert hosts.fakes["a"].disks[server] == ("written since" if answer == "confirmResize" else "what the guest wrote")
    assert (hosts.read_move(server).phase, hosts.fakes["a"].backups) == ("ended", {})
