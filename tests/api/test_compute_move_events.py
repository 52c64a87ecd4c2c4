"""Whatever happens in whatever phase of a move: no guest runs twice, none is lost, and all comes to rest.

The table is generated: kinds of move × phases × events; `Hosts.check` looks after every single run.
"""

from __future__ import annotations

import itertools
from datetime import timedelta

import pytest
from compute_cloud import COMPUTE, read_server
from move_calls import Hosts
from sqlalchemy import select

from web.models import Migration, now

REQUESTS = {
    "live": lambda hosts, server: hosts.live(server),
    "cold": lambda hosts, server: hosts.act(server, "migrate", {"host": "b"}),
    "resize": lambda hosts, server: hosts.act(server, "resize", {"flavorRef": "2"}),
    "same": lambda hosts, server: hosts.act(server, "resize", {"flavorRef": "2"}),
}
# kind: {phase: (host, the state it is kept from)}
HOLDS = {
    "live": {
        "preparing": ("b", "ready"), "sending": ("a", "sent"), "cleaning": ("a", "gone"), "undoing": ("b", "gone"),
    },
    "cold": {
        "preparing": ("a", "offered"), "sending": ("b", "received"), "resized": ("b", "-"), "cleaning": ("a", "gone"),
        "undoing": ("b", "gone"),
    },
    "same": {
        "preparing": ("a", "kept"), "resized": ("a", "-"), "cleaning": ("a", "dropped"), "undoing": ("a", "restored"),
    },
}  # fmt: skip
HOLDS["resize"] = HOLDS["cold"]
EVENTS = ("delete", "restart", "source away", "destination away", "both away")
# A resize to another host goes the way of a cold migration; what differs is its flavor.
EVENTS_OF = {"resize": ("delete", "restart")}
TABLE = [
    (kind, phase, event)
    for kind in HOLDS
    for phase, event in itertools.product(HOLDS[kind], EVENTS_OF.get(kind, EVENTS))
]
NORMAL = {"servers": 1, "vcpus": 1, "memory_mb": 512, "disk_gb": 1}


@pytest.fixture
def hosts(cloud):
    found = Hosts(cloud)
    yield found
    found.worker.pool.shutdown()


def bring_to(hosts, kind: str, phase: str) -> str:
    """The id of a server whose move stays in the phase."""
    server = hosts.boot()
    if kind == "resize":  # no room beside itself: it has to go to the only other host that is enabled
        hosts.set_host("a", enabled=False)
        hosts.set_host("c", enabled=False)
    if (kind, phase) == ("live", "undoing"):
        hosts.fakes["a"].broken["sent"] = "cut"
    name, state = HOLDS[kind][phase]
    hosts.fakes[name].holding = {state}
    REQUESTS[kind](hosts, server)
    hosts.settle(6)
    if phase in ("cleaning", "undoing") and kind != "live":
        hosts.act(server, "confirmResize" if phase == "cleaning" else "revertResize")
    hosts.settle(6)
    assert hosts.read_move(server).phase == phase
    return server


def let_go(hosts) -> None:
    for fake in hosts.fakes.values():
        fake.holding, fake.down = set(), None
    for name in hosts.fakes:
        hosts.set_host(name, next_run_at=None)
    hosts.turn()
    hosts.settle()
    hosts.turn()
    hosts.settle()


@pytest.mark.parametrize(("kind", "phase", "event"), TABLE, ids=["-".join(row).replace(" ", "-") for row in TABLE])
def test_an_event_in_a_phase(hosts, kind, phase, event):
    server = bring_to(hosts, kind, phase)
    if event == "delete":
        assert hosts.cloud.delete(f"{COMPUTE}/servers/{server}", user="admin").status_code == 204
        let_go(hosts)
        assert read_server(hosts.cloud, server).status == "DELETED"
        assert all(not (fake.state or fake.disks or fake.backups) for fake in hosts.fakes.values())
        assert hosts.read_usage() == {}
        assert hosts.read_move(server).phase == "ended"
        return
    if event == "restart":
        hosts.restart()
    else:
        for name, word in (("a", "source"), ("b", "destination")):
            if word in event or event == "both away":
                hosts.fakes[name].down = "ssh: no route to host"
        for _ in range(3):
            hosts.turn()
    let_go(hosts)
    if phase in ("preparing", "sending") and kind != "live":
        assert hosts.where(server)[1:] == ("VERIFY_RESIZE", None)
        assert hosts.read_move(server).phase == "resized"
        hosts.act(server, "confirmResize")
        let_go(hosts)
    elif phase == "resized":
        hosts.act(server, "revertResize")
        let_go(hosts)
    undone = phase in ("undoing", "resized")
    host = "a" if undone or kind == "same" else "b"
    assert hosts.where(server) == (host, "ACTIVE", None)
    assert {name: fake.disks.get(server) for name, fake in hosts.fakes.items() if server in fake.disks} == {
        host: "what the guest wrote"
    }
    assert hosts.read_move(server).phase == "ended"
    flavor = read_server(hosts.cloud, server).flavor
    assert flavor["name"] == ("m1.tiny" if undone or kind in ("live", "cold") else "m1.small")
    used = {"servers": 1, "vcpus": flavor["vcpus"], "memory_mb": flavor["ram_mb"], "disk_gb": flavor["disk_gb"]}
    assert hosts.read_usage() == {host: used}


@pytest.mark.parametrize("kind", ["live", "cold", "resize"])
def test_a_destination_that_is_silent_fails_the_move_before_its_deadline(hosts, kind):
    """Four runs there have failed: nobody waits ten minutes for it."""
    server = hosts.boot()
    hosts.set_host("c", enabled=False)
    if kind == "resize":
        hosts.set_host("a", enabled=False)
    hosts.fakes["b"].down = "libvirtd cannot be reached on this host"
    REQUESTS[kind](hosts, server)
    for _ in range(3):
        hosts.turn()
    assert hosts.read_move(server).phase == ("preparing" if kind == "live" else "sending")
    hosts.turn("b")
    move = hosts.read_move(server)
    assert move.phase == "undoing"
    assert move.error == "host b cannot take it: libvirtd cannot be reached on this host"
    hosts.fakes["b"].down = None
    let_go(hosts)
    assert hosts.where(server) == ("a", "ACTIVE", None)
    assert hosts.read_move(server).status == "error"
    assert hosts.fakes["b"].disks == {}


FAILURES = [
    ("live", "b", "preparing"), ("live", "b", "ready"), ("live", "a", "sending"), ("live", "a", "sent"),
    ("cold", "a", "stopping"), ("cold", "a", "offered"), ("cold", "b", "receiving"), ("cold", "b", "received"),
    ("resize", "a", "offered"), ("resize", "b", "received"), ("same", "a", "kept"),
]  # fmt: skip


@pytest.mark.parametrize("way", ["reported", "tries", "deadline"])
@pytest.mark.parametrize(("kind", "name", "state"), FAILURES, ids=["-".join(row) for row in FAILURES])
def test_a_failure_leaves_the_guest_where_it_was(hosts, kind, name, state, way):
    """Whether the host says so, cannot do it time after time, or does not get on: it is the migration's error."""
    server = hosts.boot()
    if kind == "resize":
        hosts.set_host("a", enabled=False)
        hosts.set_host("c", enabled=False)
    fake = hosts.fakes[name]
    if way == "reported":
        fake.broken[state] = "no space left"
    else:
        fake.holding = {state}
    REQUESTS[kind](hosts, server)
    hosts.settle(6)
    if way == "tries":
        fake.fail[server] = "no space left"
        for _ in range(4):
            hosts.turn(name)
        fake.fail.clear()
    elif way == "deadline":
        with hosts.cloud.database.write.begin() as session:
            session.scalar(select(Migration)).phase_at = now() - timedelta(seconds=601)
        hosts.turn(name)
    let_go(hosts)
    assert hosts.where(server) == ("a", "ACTIVE", None)
    assert hosts.fakes["a"].disks == {server: "what the guest wrote"}
    assert hosts.fakes["b"].disks == {}
    assert hosts.fakes["a"].backups == {}
    move = hosts.read_move(server)
    called_off = move.kind == "live-migration" and way != "reported" and move.outcome == "cancelled"
    assert (move.phase, move.status) == ("ended", "cancelled" if called_off else "error")
    assert ("took longer" if way == "deadline" else "no space left") in move.error
    assert "fault" not in hosts.show(server)
    assert hosts.read_actions(server)[-1][1:] == (True, None if called_off else "Error")
    assert hosts.read_usage() == {"a": NORMAL}
    hosts.fakes["a"].broken.clear()
    hosts.fakes["b"].broken.clear()
    hosts.live(server)  # and another one may begin
    let_go(hosts)
    assert hosts.where(server) == ("b", "ACTIVE", None)
