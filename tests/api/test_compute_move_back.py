"""A server that moves back, or is moved again after a failure, before its other host was seen without it: it waits."""

from __future__ import annotations

import pytest
from move_calls import Hosts

from web.reconcile.migration_status import compute_move


@pytest.fixture
def hosts(cloud):
    found = Hosts(cloud)
    yield found
    found.worker.pool.shutdown()


@pytest.fixture
def moved(hosts):
    """A server that has come from a to b alive; a cannot remove what it still has of it."""
    server = hosts.boot()
    hosts.fakes["a"].holding = {"gone"}
    hosts.live(server, "b")
    hosts.settle()
    assert hosts.where(server) == ("b", "ACTIVE", None)
    assert hosts.read_move(server).phase == "cleaning"
    return server


def read_wanted(hosts, host: str, server: str) -> dict:
    """What the host's last document says of the server."""
    return next(one for one in hosts.fakes[host].documents[-1]["servers"] if one["id"] == server)


def let_go(hosts) -> None:
    hosts.fakes["a"].holding = set()
    hosts.turn()
    hosts.settle()


@pytest.mark.parametrize(("host", "version"), [("a", "2.1"), ("a", "2.96"), (None, "2.96")])
def test_a_live_migration_back_is_taken_at_once(hosts, moved, host, version):
    if host is None:
        hosts.set_host("c", enabled=False)
    old = {"host": host, "block_migration": True, "disk_over_commit": False}
    hosts.act(moved, "os-migrateLive", old if version == "2.1" else {"host": host, "block_migration": "auto"},
              version=version, expected=202)  # fmt: skip
    hosts.settle()
    assert hosts.where(moved) == ("b", "MIGRATING", "migrating")
    assert read_wanted(hosts, "a", moved)["wanted"] == "absent", "nothing is made before the old one is removed"
    let_go(hosts)
    assert hosts.where(moved) == ("a", "ACTIVE", None)
    assert hosts.fakes["a"].disks == {moved: "what the guest wrote"}
    assert moved not in hosts.fakes["b"].disks
    assert [name for name, done, error in hosts.read_actions(moved) if done and not error].count("live-migration") == 2


def test_a_cold_migration_back_waits_with_its_copy(hosts, moved):
    hosts.act(moved, "migrate", {"host": "a"}, expected=202)
    hosts.settle()
    assert read_wanted(hosts, "a", moved)["wanted"] == "absent"
    assert read_wanted(hosts, "b", moved)["power"] == "off"
    let_go(hosts)
    assert hosts.where(moved) == ("a", "VERIFY_RESIZE", None)
    hosts.act(moved, "confirmResize")
    hosts.settle()
    assert hosts.where(moved) == ("a", "ACTIVE", None)
    assert hosts.fakes["a"].disks == {moved: "what the guest wrote"}


def test_what_waits_is_called_off(hosts, moved):
    hosts.live(moved, "a")
    hosts.settle()
    path = f"/compute/v2.1/servers/{moved}/migrations/{hosts.read_move(moved).id}"
    assert hosts.cloud.delete(path, user="admin", version="2.65").status_code == 202
    hosts.settle()
    assert hosts.where(moved) == ("b", "ACTIVE", None)
    let_go(hosts)
    assert (hosts.read_move(moved).phase, hosts.read_move(moved).status) == ("ended", "cancelled")
    assert hosts.where(moved) == ("b", "ACTIVE", None)
    assert moved not in hosts.fakes["a"].disks


def test_a_server_that_waits_is_deleted(hosts, moved):
    hosts.live(moved, "a")
    hosts.settle()
    assert hosts.cloud.delete(f"/compute/v2.1/servers/{moved}", user="admin").status_code == 204
    hosts.settle()
    let_go(hosts)
    assert all(moved not in fake.disks for fake in hosts.fakes.values())
    assert hosts.read_move(moved) is None or hosts.read_move(moved).phase == "ended"


def test_another_try_after_one_that_failed(hosts):
    """The destination is asked again before it was seen without what the failed move left there."""
    server = hosts.boot()
    hosts.fakes["b"].broken = {"ready": "the disk is full"}
    hosts.fakes["b"].holding = {"gone"}
    hosts.live(server, "b")
    hosts.settle()
    failed = hosts.read_move(server)
    assert (failed.status, failed.phase, compute_move(failed)) == ("error", "undoing", None)
    hosts.live(server, "b", expected=202)
    hosts.settle()
    assert read_wanted(hosts, "b", server)["wanted"] == "absent"
    hosts.fakes["b"].broken, hosts.fakes["b"].holding = {}, set()
    hosts.turn()
    hosts.settle()
    assert hosts.where(server) == ("b", "ACTIVE", None)
