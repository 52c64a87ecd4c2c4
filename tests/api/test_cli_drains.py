"""`kumo host drain|fence|evacuate`: the plan, the moves, what is left; asked once, twice and in the wrong way."""

from __future__ import annotations

import pytest
from compute_cloud import COMPUTE, read_server
from move_calls import VERSION, Hosts
from sqlalchemy import select

from web.cli import build_parser
from web.commands import drains
from web.commands.runs import list_errors
from web.draining import choose_way
from web.models import Migration, RequestLog, Volume, VolumeAttachment, now


@pytest.fixture
def hosts(cloud):
    found = Hosts(cloud)
    yield found
    found.worker.pool.shutdown()


@pytest.fixture
def stored(cloud):
    found = Hosts(cloud, storage=True)
    yield found
    found.worker.pool.shutdown()


def call(hosts, *words: str) -> int:
    args = build_parser().parse_args(["host", *words])
    return args.function(args, hosts.cloud.settings)


def turn_while_waiting(hosts, monkeypatch) -> None:
    """The worker works while the command waits."""
    monkeypatch.setattr(drains.time, "sleep", lambda seconds: hosts.turn())


def fill(hosts) -> dict[str, str]:
    """A running guest, a stopped one, and one whose resize nobody has confirmed, all on host a."""
    found = {name: hosts.boot(name=name) for name in ("runs", "stopped", "resized")}
    hosts.act(found["stopped"], "os-stop")
    hosts.act(found["resized"], "resize", {"flavorRef": "2"})
    hosts.settle()
    return found


def test_the_plan_changes_nothing(hosts, capsys):
    found = fill(hosts)
    before = {name: host.generation for name, host in hosts.read_hosts().items()}
    assert call(hosts, "drain", "a", "--plan") == 1
    printed = capsys.readouterr().out
    lines = {line.split()[0]: line for line in printed.splitlines() if line.split()[0] in found}
    assert " live " in lines["runs"]
    assert " cold " in lines["stopped"]
    assert "openstack server resize confirm" in lines["resized"]
    assert "2 of 3 guests would go; nothing was changed" in printed
    assert {name: host.generation for name, host in hosts.read_hosts().items()} == before
    assert hosts.read_hosts()["a"].enabled
    assert hosts.read_move(found["runs"]) is None


def test_a_drain_empties_the_host_and_never_stops_a_guest(hosts, monkeypatch, capsys):
    found = fill(hosts)
    turn_while_waiting(hosts, monkeypatch)
    states = set()
    hosts.fakes["a"].before = lambda document: states.update(
        (one["id"], one["power"]) for one in document["servers"] if one["wanted"] == "present"
    )
    assert call(hosts, "drain", "a", "--wait") == 1
    assert (found["runs"], "off") not in states
    printed = capsys.readouterr().out
    assert f"resized ({found['resized']}) stays" in printed
    assert "2 of 3 gone" in printed
    assert hosts.where(found["runs"])[1:] == ("ACTIVE", None)
    assert hosts.where(found["stopped"])[1:] == ("SHUTOFF", None)
    assert {hosts.where(found[name])[0] for name in ("runs", "stopped")} <= {"b", "c"}
    assert hosts.read_move(found["stopped"]).status == "confirmed"
    assert not hosts.read_hosts()["a"].enabled
    hosts.act(found["resized"], "confirmResize")
    hosts.settle()
    assert call(hosts, "drain", "a", "--wait") == 0
    assert "host a has no guests any more" in capsys.readouterr().out
    assert hosts.fakes["a"].disks == {}
    with hosts.cloud.database.read() as session:
        paths = session.scalars(select(RequestLog.path).where(RequestLog.service == "kumo")).all()
        assert "kumo host drain a" in paths
    assert call(hosts, "drain", "a") == 0  # a third time: the same
    assert "host a has no guests" in capsys.readouterr().out


def test_asked_twice_it_is_one_drain(hosts, capsys):
    server = hosts.boot()
    assert call(hosts, "drain", "a") == 0
    assert "1 guests are on their way" in capsys.readouterr().out
    first = hosts.read_move(server).id
    assert call(hosts, "drain", "a") == 0
    assert "on its way" in capsys.readouterr().out
    assert hosts.read_move(server).id == first
    hosts.settle()
    assert hosts.where(server)[0] != "a"


def test_hosts_that_are_drained_too_are_no_destination(hosts, capsys):
    server = hosts.boot()
    hosts.set_host("b", enabled=False)
    hosts.set_host("c", enabled=False)
    assert call(hosts, "drain", "a", "--plan") == 1
    printed = capsys.readouterr().out
    assert "b: it is disabled; c: it is disabled" in printed
    assert read_server(hosts.cloud, server).status == "ACTIVE"


def test_a_guest_that_will_not_go_stays_and_is_told(hosts, monkeypatch, capsys):
    server = hosts.boot()
    turn_while_waiting(hosts, monkeypatch)
    for name in "bc":
        hosts.fakes[name].broken["ready"] = "no bridge"
    assert call(hosts, "drain", "a", "--wait") == 1
    assert "stays: its move failed: no bridge" in capsys.readouterr().out
    assert list_errors(build_parser().parse_args(["logs", "errors"]), hosts.cloud.settings) == 0
    assert f"live-migration of {server}: no bridge" in capsys.readouterr().out
    assert hosts.where(server) == ("a", "ACTIVE", None)


def test_as_many_at_a_time_as_were_asked_for(hosts, monkeypatch):
    servers = [hosts.boot(name=f"s{number}") for number in range(4)]
    most = []

    def turn(seconds):
        with hosts.cloud.database.read() as session:
            most.append(sum(one.phase in ("preparing", "sending") for one in session.scalars(select(Migration))))
        hosts.turn()

    monkeypatch.setattr(drains.time, "sleep", turn)
    assert call(hosts, "drain", "a", "--wait", "--parallel", "2") == 0
    assert max(most) == 2
    assert all(hosts.where(server)[0] != "a" for server in servers)


@pytest.mark.parametrize("verb", ["drain", "fence", "unfence", "evacuate"])
def test_an_unknown_host_is_named(hosts, capsys, verb):
    more = ["--it-is-off"] if verb == "fence" else []
    assert call(hosts, verb, "nowhere", *more) == 1
    assert "no host 'nowhere'; known: a, b, c" in capsys.readouterr().err


def test_a_host_is_evacuated_only_once_it_is_fenced(hosts, monkeypatch, capsys):
    runs, stopped = hosts.boot(name="runs"), hosts.boot(name="stopped")
    hosts.act(stopped, "os-stop")
    hosts.settle()
    assert call(hosts, "evacuate", "a") == 1
    assert "still in use" in capsys.readouterr().err
    hosts.set_host("a", observed_at=now().replace(year=2020), failures=9)
    hosts.fakes["a"].down = "ssh: no route to host"
    assert call(hosts, "evacuate", "a") == 1
    assert "kumo host fence a" in capsys.readouterr().err
    assert call(hosts, "drain", "a") == 1
    assert "is down" in capsys.readouterr().err
    assert call(hosts, "fence", "a") == 1
    assert "--it-is-off" in capsys.readouterr().err
    fence = hosts.read_hosts()["a"].fence
    assert call(hosts, "fence", "a", "--it-is-off") == 0
    assert hosts.read_hosts()["a"].fence > fence
    assert call(hosts, "fence", "a", "--it-is-off") == 0
    assert "already" in capsys.readouterr().out
    hosts.fakes["a"].state.clear()  # its power is cut; its disks are still there
    turn_while_waiting(hosts, monkeypatch)
    assert call(hosts, "evacuate", "a", "--plan") == 0
    assert call(hosts, "evacuate", "a", "--wait") == 0
    hosts.settle()
    assert hosts.where(runs)[1:] == ("ACTIVE", None)
    assert hosts.where(stopped)[1:] == ("SHUTOFF", None)
    assert {hosts.where(server)[0] for server in (runs, stopped)} <= {"b", "c"}
    assert hosts.read_move(runs).status == "done"
    assert set(hosts.fakes["a"].disks) == {runs, stopped}
    # It comes back: what is made anew elsewhere is removed there, and nothing of it is started.
    hosts.fakes["a"].down = None
    assert call(hosts, "unfence", "a") == 0
    hosts.turn()
    hosts.settle()
    assert (hosts.fakes["a"].disks, hosts.fakes["a"].state) == ({}, {})
    assert hosts.read_move(runs).status == "completed"
    assert set(hosts.read_usage()) <= {"b", "c"}


@pytest.mark.parametrize(("version", "status"), [("2.94", "ACTIVE"), ("2.95", "SHUTOFF")])
def test_evacuation_by_the_api(hosts, version, status):
    server = hosts.boot()
    services = hosts.cloud.get(f"{COMPUTE}/os-services?host=a", user="admin", version=VERSION).json["services"]
    hosts.act(server, "evacuate", {}, version=version, expected=400)
    hosts.fakes["a"].down = "ssh: no route to host"
    hosts.turn("a")
    hosts.set_host("a", observed_at=now().replace(year=2020))
    hosts.act(server, "evacuate", {}, version=version, expected=409)
    path = f"{COMPUTE}/os-services/{services[0]['id']}"
    assert hosts.cloud.put(path, {"forced_down": True}, user="admin", version=VERSION).status_code == 200
    hosts.act(server, "evacuate", {"host": "c"}, version=version, expected=200)
    assert hosts.show(server)["status"] == "REBUILD"
    hosts.fakes["a"].state.clear()
    hosts.turn()
    hosts.turn()
    assert hosts.where(server) == ("c", status, None)
    assert hosts.fakes["c"].disks[server] != "what the guest wrote"  # its image again
    assert hosts.read_actions(server)[-1] == ("evacuate", True, None)
    assert hosts.cloud.delete(f"{COMPUTE}/servers/{server}", user="admin").status_code == 204
    hosts.turn()
    assert read_server(hosts.cloud, server).status == "DELETED"  # the dead host is not waited for
    hosts.fakes["a"].down = None
    hosts.turn()
    hosts.settle()
    assert all(not fake.disks for fake in hosts.fakes.values())
    assert hosts.read_move(server).phase == "ended"


def attach_volume(hosts, server: str) -> str:
    answer = hosts.cloud.post("/volume/v3/volumes", {"volume": {"size": 1}}, user="admin")
    assert answer.status_code in (200, 202), answer.text
    volume = answer.json["volume"]["id"]
    hosts.turn("s")
    path = f"{COMPUTE}/servers/{server}/os-volume_attachments"
    answer = hosts.cloud.post(path, {"volumeAttachment": {"volumeId": volume}}, user="admin", version=VERSION)
    assert answer.status_code == 200, answer.text
    hosts.turn("s", "a", "s", "a")
    return volume


def read_exports(hosts) -> list[str]:
    """Ids of the attachments that the storage host's last document has targets for."""
    return [one["id"] for volume in hosts.fakes["s"].documents[-1]["volumes"] for one in volume["exports"]]


def test_an_evacuated_guest_runs_only_when_the_old_target_is_closed(stored):
    hosts = stored
    server = hosts.boot()
    volume = attach_volume(hosts, server)
    old = read_exports(hosts)
    assert len(old) == 1
    hosts.fakes["a"].down = "dead"
    hosts.fakes["a"].state.clear()
    hosts.set_host("a", forced_down=True)
    hosts.act(server, "evacuate", {"host": "b"}, version="2.94")
    for _ in range(3):  # the storage host has not been there: nothing runs anywhere else
        hosts.turn("a", "b", "c")
        assert hosts.show(server)["OS-EXT-SRV-ATTR:host"] == "a"
        assert hosts.fakes["b"].state == {}
    hosts.turn("s")  # the new target is open, the old one closed
    assert old[0] not in read_exports(hosts)
    hosts.turn("s", "b")
    hosts.settle()
    hosts.turn("b", "s")
    assert hosts.where(server) == ("b", "ACTIVE", None)
    new = read_exports(hosts)
    assert len(new) == 1
    assert new != old
    with hosts.cloud.database.read() as session:
        row = session.scalar(select(VolumeAttachment))
        assert (row.id, row.observed_attached, row.device) == (new[0], True, "/dev/vdb" if "/" in row.device else "vdb")
        assert session.get(Volume, volume).status == "in-use"
    assert hosts.fakes["b"].state[server]["volumes"] == new


def test_a_guest_with_a_volume_is_not_evacuated_while_its_storage_host_is_off(stored):
    server = stored.boot()
    attach_volume(stored, server)
    for name in "as":
        stored.set_host(name, forced_down=True)
    assert "storage host s" in stored.act(server, "evacuate", {}, expected=409).text


@pytest.mark.parametrize("phase", ["preparing", "sending"])
def test_the_death_of_a_live_migrations_source_ends_it(hosts, phase):
    server = hosts.boot()
    hosts.fakes["b" if phase == "preparing" else "a"].holding = {"ready" if phase == "preparing" else "sent"}
    hosts.live(server)
    hosts.settle(4)
    hosts.fakes["a"].down = "dead"
    hosts.turn("a")
    assert call(hosts, "fence", "a", "--it-is-off") == 0
    hosts.fakes["a"].state.clear()
    for _ in range(3):
        hosts.turn()
    move = hosts.read_move(server)
    assert (move.phase, move.status) == ("ended", "error")
    hosts.act(server, "evacuate", {"host": "b"}, version="2.94")
    hosts.turn()
    hosts.settle()
    assert hosts.where(server) == ("b", "ACTIVE", None)


def test_the_death_of_a_reverted_resizes_destination_lets_it_go(hosts):
    server = hosts.boot()
    hosts.act(server, "migrate", {"host": "b"})
    hosts.settle()
    hosts.fakes["b"].down = "dead"
    hosts.act(server, "revertResize")
    hosts.turn()
    assert hosts.where(server) == ("a", "REVERT_RESIZE", "resize_reverting")
    assert call(hosts, "fence", "b", "--it-is-off") == 0
    hosts.fakes["b"].state.clear()
    hosts.turn()
    assert hosts.where(server) == ("a", "ACTIVE", None)
    hosts.fakes["b"].down = None
    hosts.turn()
    hosts.settle()
    assert hosts.fakes["b"].disks == {}
    assert hosts.read_move(server).phase == "ended"


class Row:
    def __init__(self, **columns):
        self.__dict__ = {
            "id": "s", "deleted_at": None, "move": None, "task_state": None, "vm_state": "active", "status": "ACTIVE",
            **columns,
        }  # fmt: skip


@pytest.mark.parametrize(
    ("row", "way"),
    [
        (Row(), "live-migration"),
        (Row(vm_state="stopped"), "migration"),
        (Row(vm_state="error", status="ERROR"), "stays"),
        (Row(task_state="rebooting"), "stays"),
        (Row(move="verify", vm_state="resized"), "stays"),
        (Row(move="live", task_state="migrating"), "moving"),
        (Row(deleted_at=1, task_state="deleting"), "moving"),
    ],
)
def test_the_way_of_a_guest(row, way):
    assert choose_way(row, evacuating=False)[0] == way
    if way != "moving":
        assert choose_way(row, evacuating=True)[0] == "evacuation"
