"""Shelving and unshelving that fail: told in the action, given up without loss, and asked for again."""

from __future__ import annotations

from datetime import timedelta

import pytest
from compute_cloud import read_server
from move_calls import Hosts
from shelve_calls import IMAGES, OFFLOADED, change, kept, last_action, settle, shelve, show
from sqlalchemy import func, select

from web.models import Image, ServerImage, now
from web.reconcile.observe import TRIES


@pytest.fixture
def hosts(cloud):
    found = Hosts(cloud)
    yield found
    found.worker.pool.shutdown()


@pytest.fixture
def server(hosts):
    return hosts.boot()


def test_an_upload_that_fails_is_told_and_can_be_asked_again(hosts, server):
    """Four attempts; then no image, the reason in its action, and the guest runs as before."""
    hosts.fakes["a"].broken = {"uploaded": "no route to host"}
    image = shelve(hosts, server)
    assert image is None
    settle(hosts)
    assert last_action(hosts, server) == ("shelve", True, "Error: no route to host")
    assert hosts.where(server) == ("a", "ACTIVE", None)
    assert hosts.fakes["a"].disks[server] == "what the guest wrote"
    with hosts.cloud.database.read() as session:
        assert session.scalar(select(func.count()).select_from(ServerImage)) == 0
        assert [row.status for row in session.scalars(select(Image).where(Image.name == "web1-shelved"))] == ["deleted"]
    hosts.fakes["a"].broken = {}
    shelve(hosts, server)
    assert hosts.where(server) == OFFLOADED


def test_a_guest_that_cannot_be_stopped_is_shelved_no_more(hosts, server):
    hosts.act(server, "shelve", expected=202)
    hosts.fakes["a"].fail[server] = "it does not hear"
    for _ in range(TRIES):
        hosts.turn("a")
    hosts.fakes["a"].fail.clear()
    settle(hosts)
    assert last_action(hosts, server) == ("shelve", True, "Error: it does not hear")
    assert hosts.where(server) == ("a", "ACTIVE", None)


def test_an_image_deleted_meanwhile_ends_it(hosts, server):
    hosts.fakes["a"].holding = {"uploaded"}
    hosts.act(server, "shelve", expected=202)
    hosts.turn("a")
    image = read_server(hosts.cloud, server).shelved_image_id
    assert hosts.cloud.delete(f"{IMAGES}/{image}", user="admin").status_code == 204
    settle(hosts)
    assert last_action(hosts, server) == ("shelve", True, "Error: the image was deleted")
    assert hosts.where(server) == ("a", "ACTIVE", None)


def test_what_cannot_be_removed_is_told_and_goes_later(hosts, server):
    hosts.fakes["a"].holding = {"gone"}
    hosts.act(server, "shelve", expected=202)
    for _ in range(4 + TRIES):
        hosts.turn("a")
    assert hosts.where(server) == ("a", "SHELVED", "shelving_offloading")
    assert last_action(hosts, server) == ("shelve", True, "Error: it cannot be removed now")
    assert read_server(hosts.cloud, server).fault_message is None
    hosts.fakes["a"].holding = set()
    hosts.turn("a")
    assert hosts.where(server) == OFFLOADED


def test_no_host_is_told_and_can_be_asked_again(hosts, server):
    """202 as ever; the action says why of each host; the server is as it was."""
    shelve(hosts, server)
    for name in "abc":
        hosts.set_host(name, enabled=False)
    hosts.act(server, "unshelve", expected=202)
    assert hosts.where(server) == OFFLOADED
    action, finished, message = last_action(hosts, server)
    assert (action, finished) == ("unshelve", True)
    assert message.startswith("Error: No valid host was found.")
    assert "b: it is disabled" in message
    hosts.set_host("c", enabled=True)
    hosts.act(server, "unshelve", expected=202)
    settle(hosts)
    assert hosts.where(server) == ("c", "ACTIVE", None)


def test_an_unshelve_that_fails_gives_the_host_back(hosts, server):
    """After four tries, or at its deadline: offloaded again, the image still there, and another host may be asked."""
    image = shelve(hosts, server)
    hosts.fakes["b"].fail[server] = "no room on the disk"
    hosts.act(server, "unshelve", {"host": "b"}, expected=202)
    for _ in range(TRIES):
        hosts.turn("b")
    assert last_action(hosts, server) == ("unshelve", True, "Error: no room on the disk")
    assert hosts.where(server) == ("b", "SHELVED_OFFLOADED", "shelving_offloading")
    hosts.fakes["b"].fail.clear()
    settle(hosts)
    assert hosts.where(server) == OFFLOADED
    assert (hosts.read_usage(), show(hosts, image)["status"]) == ({}, "active")
    hosts.act(server, "unshelve", {"host": "b"}, expected=202)
    hosts.fakes["b"].down = "unreachable"
    change(hosts, server, operation_deadline=now() - timedelta(seconds=1))
    hosts.turn("b")
    assert "deadline: unreachable" in last_action(hosts, server)[2]
    hosts.fakes["b"].down = None
    settle(hosts)
    hosts.turn("b")
    assert hosts.where(server) == OFFLOADED
    hosts.act(server, "unshelve", {"host": "c"}, expected=202)
    settle(hosts)
    assert hosts.where(server) == ("c", "ACTIVE", None)


def test_one_that_cannot_be_started_where_it_is_stays_shelved(hosts, server):
    kept(hosts)
    image = shelve(hosts, server)
    hosts.fakes["a"].fail[server] = "no memory"
    hosts.act(server, "unshelve", expected=202)
    for _ in range(TRIES):
        hosts.turn("a")
    assert hosts.where(server) == ("a", "SHELVED", None)
    assert last_action(hosts, server) == ("unshelve", True, "Error: no memory")
    hosts.fakes["a"].fail.clear()
    settle(hosts)
    assert (hosts.where(server), show(hosts, image)["status"]) == (("a", "SHELVED", None), "active")
    hosts.act(server, "unshelve", expected=202)
    settle(hosts)
    assert hosts.where(server) == ("a", "ACTIVE", None)


def test_an_image_that_is_gone_is_told_at_once(hosts, server):
    image = shelve(hosts, server)
    assert hosts.cloud.delete(f"{IMAGES}/{image}", user="admin").status_code == 204
    assert f"the image {image} cannot be found" in hosts.act(server, "unshelve", expected=409).text
    assert hosts.where(server) == OFFLOADED


def test_evacuation_ends_a_shelving(hosts, server):
    """The host that was to make the image is gone: the server is made anew, and is shelved by nobody."""
    hosts.fakes["a"].holding = {"uploaded"}
    hosts.act(server, "shelve", expected=202)
    hosts.turn("a")
    hosts.turn("a")
    hosts.fakes["a"].down = "dead"
    hosts.fakes["a"].state.clear()
    hosts.set_host("a", forced_down=True)
    hosts.act(server, "evacuate", {"host": "b"}, version="2.94")
    assert [one for one in hosts.read_actions(server) if one[0] == "shelve"] == [
        ("shelve", True, "Error: the server is evacuated")
    ]
    settle(hosts)
    assert hosts.where(server) == ("b", "ACTIVE", None)


def test_a_worker_that_dies_anywhere_on_the_way(hosts, server):
    """Whatever a run that was never stored had done, the next worker goes on from what it sees."""
    hosts.act(server, "shelve", expected=202)
    for _ in range(5):
        hosts.turn("a")
        hosts.restart()
    settle(hosts)
    assert hosts.where(server) == OFFLOADED
    hosts.act(server, "unshelve", {"host": "b"}, expected=202)
    for _ in range(2):
        hosts.restart()
        hosts.turn("b")
    settle(hosts)
    assert hosts.where(server) == ("b", "ACTIVE", None)
