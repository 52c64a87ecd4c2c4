"""The worker dies, or something in it fails, at every step of every workflow; then everything ends as it was asked.

The steps are those of an undisturbed run of the workflow: each commit and each call on a host, before it or after it. A
new step is among them by itself. Killed in a transaction is as killed after the one before; so kills come after commits
and calls, failures before them, where code can take a wrong turn. Hosts are dicts; tests/host and tests/distributed
have the same with real ones.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field

import pytest
from compute_cloud import COMPUTE, add_network, read_server
from move_calls import Hosts
from network_calls import BASE
from sqlalchemy import event, func, select, update
from volume_calls import VOLUME

from web.draining import begin_drain
from web.models import Host, Migration, Port, Run, ServerImage, VolumeAttachment

ROUNDS = 14  # of runs until everything is as asked: what "within a stated time" is where time is played
DEAD = ":999999999:1"


class Killed(BaseException):
    """What `kill -9` is to code that runs: nothing of it goes on."""


STEPS = {
    Killed: ("after a commit", "after the call"),
    RuntimeError: ("before a commit", "before the call", "after the call"),
}


@dataclass
class Steps:
    """The steps of the worker as they happen; at the one that is chosen something is raised."""

    seen: list[str] = field(default_factory=list)
    chosen: tuple[str, ...] = ()
    raising: type[BaseException] | None = None
    at: int = -1
    counting: bool = False

    def reach(self, label: str) -> None:
        if not self.counting or label not in self.chosen:
            return
        self.seen.append(label)
        if len(self.seen) - 1 == self.at:
            raise self.raising(label)

    def begin(self, raising: type[BaseException], at: int) -> None:
        self.seen, self.raising, self.at, self.counting = [], raising, at, True
        self.chosen = STEPS[raising]


class FaultyHosts(Hosts):
    """Three hypervisors and a storage host, whose worker takes note of its steps."""

    def __init__(self, cloud):
        self.steps = Steps()
        super().__init__(cloud, storage=True)
        self.network = add_network(cloud, project="admin", network_type="vxlan", segmentation_id=77)
        self.call("POST", f"{BASE}/security-groups", {"security_group": {"name": "open"}}, 201)
        self.settle()
        self.public = self.call("GET", f"{BASE}/networks?name=public")["networks"][0]["id"]

    def make_worker(self):
        worker = super().make_worker()
        play = worker.run

        def run(settings, name, connection, document, cancelled=None):
            self.steps.reach("before the call")
            outcome = play(settings, name, connection, document)
            self.steps.reach("after the call")
            return outcome

        worker.run = run
        return worker

    def settle(self, most: int = ROUNDS) -> None:
        """Until nothing is due; a run that fails in the worker is made again, as the loop does."""
        for _ in range(most):
            hosts = self.read_hosts().values()
            due = [
                one
                for one in hosts
                if one.observed_generation != one.generation or one.observed_pending or one.next_run_at is None
            ]
            if not due:
                return
            for host in due:
                self.worker._work(host.id)
                self.steps_paused(self.check)

    def steps_paused(self, function) -> None:
        counting, self.steps.counting = self.steps.counting, False
        function()
        self.steps.counting = counting

    def succeed_worker(self) -> None:
        """Another process takes over what a killed one left."""
        with self.cloud.database.write.begin() as session:
            name = self.worker.name.rsplit(":", 2)[0] + DEAD
            session.execute(update(Host).where(Host.lease_owner.is_not(None)).values(lease_owner=name))
            session.execute(update(Run).where(Run.state == "running").values(worker=name))
        self.worker.pool.shutdown()
        self.worker = self.make_worker()
        self.worker.recover()

    # what workflows begin with

    def make_server(self, **fields) -> str:
        return self.boot(networks=[{"uuid": self.network}], **fields)

    def make_volume(self) -> str:
        made = self.call("POST", f"{VOLUME}/volumes", {"volume": {"size": 1}}, 202)["volume"]["id"]
        self.settle()
        return made

    def attach(self, server: str, volume: str) -> None:
        body = {"volumeAttachment": {"volumeId": volume}}
        self.call("POST", f"{COMPUTE}/servers/{server}/os-volume_attachments", body)

    def show_volume(self, volume: str) -> str | None:
        answer = self.cloud.get(f"{VOLUME}/volumes/{volume}", user="admin")
        return answer.get_json()["volume"]["status"] if answer.status_code == 200 else None

    def remove_all(self) -> None:
        """All that tenants have, by the API; and that nothing is left of it anywhere."""
        for one in self.call("GET", f"{COMPUTE}/servers")["servers"]:
            self.call("DELETE", f"{COMPUTE}/servers/{one['id']}", status=204)
        self.settle()
        for kind in ("snapshots", "volumes"):
            for one in self.call("GET", f"{VOLUME}/{kind}")[kind]:
                self.call("DELETE", f"{VOLUME}/{kind}/{one['id']}", status=202)
            self.settle()
        for name in ("a", "b", "c"):
            self.set_host(name, enabled=True, disabled_reason=None)
        for fake in self.fakes.values():
            left = (fake.state, fake.disks, fake.backups, fake.moves, fake.volumes, fake.snapshots)
            assert not any(left), "something is left on a host"
        assert self.read_usage() == {}
        with self.cloud.database.read() as session:
            counts = {
                "ports": select(func.count()).where(Port.device_owner.startswith("compute")).select_from(Port),
                "attachments": select(func.count()).select_from(VolumeAttachment),
                "moves": select(func.count()).where(Migration.phase != "ended").select_from(Migration),
                "runs": select(func.count()).where(Run.state == "running").select_from(Run),
                "images of servers": select(func.count()).select_from(ServerImage),
                "leases": select(func.count()).where(Host.lease_owner.is_not(None)).select_from(Host),
            }
            left = {name: session.scalar(statement) for name, statement in counts.items()}
        assert not any(left.values()), left


# Workflows: what is there before, what is asked (its answer is what `end` looks at), and how it ends.


def create(hosts):
    body = {"name": "new", "flavorRef": "1", "imageRef": hosts.image, "networks": [{"uuid": hosts.network}]}
    return hosts.call("POST", f"{COMPUTE}/servers", {"server": body}, 202)["server"]["id"]


def ends(status: str, host: str | None = None):
    def end(hosts, server):
        assert hosts.show(server)["status"] == status
        assert host in (None, hosts.where(server)[0])
        state = {"ACTIVE": "running", "RESCUE": "running", "SHUTOFF": "shutoff"}.get(status, status.lower())
        assert [fake.state[server]["state"] for fake in hosts.fakes.values() if server in fake.state] == [state]

    return end


def act(name: str, body=None):
    def ask(hosts, server):
        hosts.act(server, name, body)
        return server

    return ask


def delete(hosts, server):
    hosts.call("DELETE", f"{COMPUTE}/servers/{server}", status=204)
    return server


def is_gone(hosts, server):
    assert hosts.cloud.get(f"{COMPUTE}/servers/{server}", user="admin").status_code == 404
    assert not any(server in fake.state or server in fake.disks for fake in hosts.fakes.values())


def make_stopped(hosts):
    server = hosts.make_server()
    hosts.act(server, "os-stop")
    hosts.settle()
    return server


def make_resized(hosts):
    server = hosts.make_server()
    hosts.act(server, "migrate", {"host": "c"})
    hosts.settle()
    assert hosts.where(server)[1] == "VERIFY_RESIZE"
    return server


def make_pair(hosts):
    return hosts.make_server(), hosts.make_volume()


def make_attached(hosts):
    server, volume = make_pair(hosts)
    hosts.attach(server, volume)
    hosts.settle()
    assert hosts.show_volume(volume) == "in-use"
    return server, volume


def attach(hosts, pair):
    hosts.attach(*pair)
    return pair


def detach(hosts, pair):
    server, volume = pair
    hosts.call("DELETE", f"{COMPUTE}/servers/{server}/os-volume_attachments/{volume}", status=202)
    return pair


def volume_is(status: str | None, attached: bool = False):
    def end(hosts, pair):
        server, volume = pair if isinstance(pair, tuple) else (None, pair)
        assert hosts.show_volume(volume) == status
        assert (volume in hosts.fakes["s"].volumes) == (status is not None)
        if server:
            seen = next(fake.state[server] for fake in hosts.fakes.values() if server in fake.state)
            assert len(seen["volumes"]) == attached

    return end


def create_volume(hosts, _):
    return hosts.call("POST", f"{VOLUME}/volumes", {"volume": {"size": 1}}, 202)["volume"]["id"]


def delete_volume(hosts, volume):
    hosts.call("DELETE", f"{VOLUME}/volumes/{volume}", status=202)
    return volume


def extend_volume(hosts, volume):
    hosts.call("POST", f"{VOLUME}/volumes/{volume}/action", {"os-extend": {"new_size": 3}}, 202)
    return volume


def is_extended(hosts, volume):
    assert hosts.show_volume(volume) == "available"
    assert hosts.fakes["s"].volumes[volume]["size_gb"] == 3


def create_snapshot(hosts, volume):
    body = {"snapshot": {"volume_id": volume}}
    return hosts.call("POST", f"{VOLUME}/snapshots", body, 202)["snapshot"]["id"]


def is_snapshot(hosts, snapshot):
    assert hosts.call("GET", f"{VOLUME}/snapshots/{snapshot}")["snapshot"]["status"] == "available"
    assert snapshot in hosts.fakes["s"].volumes


def add_floating_address(hosts, server):
    """With a router of its own, made for it; taken away again in the end."""
    network, router = hosts.network, {"name": "r", "external_gateway_info": {"network_id": hosts.public}}
    subnet = hosts.call("GET", f"{BASE}/subnets?network_id={network}")["subnets"][0]["id"]
    router = hosts.call("POST", f"{BASE}/routers", {"router": router}, 201)["router"]["id"]
    hosts.call("PUT", f"{BASE}/routers/{router}/add_router_interface", {"subnet_id": subnet})
    port = hosts.call("GET", f"{BASE}/ports?device_id={server}")["ports"][0]["id"]
    body = {"floatingip": {"floating_network_id": hosts.public, "port_id": port}}
    return server, router, subnet, hosts.call("POST", f"{BASE}/floatingips", body, 201)["floatingip"]["id"]


def has_floating_address(hosts, made):
    _, router, subnet, address = made
    assert hosts.call("GET", f"{BASE}/floatingips/{address}")["floatingip"]["status"] == "ACTIVE"
    document = hosts.fakes["a"].documents[-1]
    assert [row["id"] for one in document["routers"] for row in one["floating_ips"]] == [address]
    hosts.call("DELETE", f"{BASE}/floatingips/{address}", status=204)
    hosts.call("PUT", f"{BASE}/routers/{router}/remove_router_interface", {"subnet_id": subnet})
    hosts.call("DELETE", f"{BASE}/routers/{router}", status=204)


def add_rule(hosts, server):
    group = hosts.call("GET", f"{BASE}/ports?device_id={server}")["ports"][0]["security_groups"][0]
    rule = {"security_group_id": group, "direction": "ingress", "protocol": "tcp", "port_range_min": 22}
    rule["port_range_max"] = 22
    body = {"security_group_rule": rule}
    return hosts.call("POST", f"{BASE}/security-group-rules", body, 201)["security_group_rule"]["id"]


def has_rule(hosts, rule):
    groups = hosts.fakes["a"].documents[-1]["security_groups"]
    assert rule in {row["id"] for group in groups for row in group["rules"]}
    hosts.call("DELETE", f"{BASE}/security-group-rules/{rule}", status=204)


def rebuild(hosts, server):
    body = {"rebuild": {"imageRef": hosts.image}}
    hosts.call("POST", f"{COMPUTE}/servers/{server}/action", body, 202)
    return server


def is_rebuilt(hosts, server):
    """What the guest wrote is gone; it runs, and once."""
    ends("ACTIVE", "a")(hosts, server)
    assert hosts.fakes["a"].disks[server] == f"made of {hosts.image}"


def create_image(hosts, server):
    body = {"createImage": {"name": "copy"}}
    return server, hosts.call("POST", f"{COMPUTE}/servers/{server}/action", body, 202)["image_id"]


def is_image(hosts, made):
    """Whole, with what the guest wrote, and the guest goes on."""
    server, image = made
    seen = hosts.call("GET", f"/image/v2/images/{image}")
    assert (seen["status"], seen["virtual_size"]) == ("active", 1 << 30)
    assert b"what the guest wrote" in hosts.cloud.get(f"/image/v2/images/{image}/file", user="admin").data
    ends("ACTIVE", "a")(hosts, server)
    assert hosts.where(server)[2] is None
    assert hosts.read_actions(server)[-1] == ("createImage", True, None)
    hosts.call("DELETE", f"/image/v2/images/{image}", status=204)


def drain(hosts, server):
    hosts.set_host("a", enabled=False, disabled_reason="new disks")
    with hosts.cloud.database.write.begin() as session:
        begin_drain(session, hosts.cloud.settings, session.scalar(select(Host).where(Host.name == "a")), "req-drain")
    return server


def is_drained(hosts, server):
    assert hosts.where(server)[0] in ("b", "c")
    ends("ACTIVE")(hosts, server)


def make_shelved(hosts):
    pair = make_attached(hosts)
    hosts.act(pair[0], "shelve")
    hosts.settle()
    assert hosts.where(pair[0]) == (None, "SHELVED_OFFLOADED", None)
    return pair


def act_on_pair(name: str, body=None):
    def ask(hosts, pair):
        hosts.act(pair[0], name, body)
        return pair

    return ask


def is_shelved(hosts, pair):
    """On no host, its image whole, its volume reserved and open to nobody."""
    server, volume = pair
    assert hosts.where(server) == (None, "SHELVED_OFFLOADED", None)
    assert not any(server in fake.state or server in fake.disks for fake in hosts.fakes.values())
    image = read_server(hosts.cloud, server).shelved_image_id
    assert b"what the guest wrote" in hosts.cloud.get(f"/image/v2/images/{image}/file", user="admin").data
    assert hosts.show_volume(volume) == "reserved"
    assert [row.get("exports") for row in hosts.fakes["s"].documents[-1]["volumes"]] == [[]]
    assert hosts.read_actions(server)[-1] == ("shelve", True, None)


def is_unshelved(hosts, pair):
    server, _ = pair
    ends("ACTIVE", "b")(hosts, server)
    volume_is("in-use", attached=True)(hosts, pair)
    row = read_server(hosts.cloud, server)
    assert (row.shelved_at, row.shelved_image_id, hosts.where(server)[2]) == (None, None, None)
    assert hosts.read_actions(server)[-1] == ("unshelve", True, None)


NOTHING = lambda hosts: None  # noqa: E731
LIVE = {"host": "b", "block_migration": "auto"}
REBOOT = {"type": "HARD"}
WORKFLOWS = {
    "server create": (NOTHING, lambda hosts, _: create(hosts), ends("ACTIVE")),
    "server delete": (FaultyHosts.make_server, delete, is_gone),
    "server delete with a volume": (make_attached, lambda h, pair: delete(h, pair[0]), is_gone),
    "server stop": (FaultyHosts.make_server, act("os-stop"), ends("SHUTOFF", "a")),
    "server start": (make_stopped, act("os-start"), ends("ACTIVE", "a")),
    "server reboot": (FaultyHosts.make_server, act("reboot", REBOOT), ends("ACTIVE", "a")),
    "server pause": (FaultyHosts.make_server, act("pause"), ends("PAUSED", "a")),
    "server suspend": (FaultyHosts.make_server, act("suspend"), ends("SUSPENDED", "a")),
    "server rescue": (FaultyHosts.make_server, act("rescue"), ends("RESCUE", "a")),
    "live migration": (FaultyHosts.make_server, act("os-migrateLive", LIVE), ends("ACTIVE", "b")),
    "cold migration": (FaultyHosts.make_server, act("migrate", {"host": "c"}), None),
    "confirm": (make_resized, act("confirmResize"), ends("ACTIVE", "c")),
    "revert": (make_resized, act("revertResize"), ends("ACTIVE", "a")),
    "attach": (make_pair, attach, volume_is("in-use", attached=True)),
    "detach": (make_attached, detach, volume_is("available")),
    "volume create": (NOTHING, create_volume, volume_is("available")),
    "volume delete": (FaultyHosts.make_volume, delete_volume, volume_is(None)),
    "volume extend": (FaultyHosts.make_volume, extend_volume, is_extended),
    "snapshot": (FaultyHosts.make_volume, create_snapshot, is_snapshot),
    "rebuild": (FaultyHosts.make_server, rebuild, is_rebuilt),
    "image of a server": (FaultyHosts.make_server, create_image, is_image),
    "shelve": (make_attached, act_on_pair("shelve"), is_shelved),
    "unshelve": (make_shelved, act_on_pair("unshelve", {"host": "b"}), is_unshelved),
    "delete of a shelved one": (make_shelved, lambda h, pair: delete(h, pair[0]), is_gone),
    "floating address": (FaultyHosts.make_server, add_floating_address, has_floating_address),
    "security group rule": (FaultyHosts.make_server, add_rule, has_rule),
    "drain": (FaultyHosts.make_server, drain, is_drained),
}


if os.environ.get("KUMO_TEST_DATABASE_URL"):
    # What a killed process leaves is the same on PostgreSQL; a few show that its locks and connections do not matter.
    WORKFLOWS = {name: WORKFLOWS[name] for name in ("server create", "attach", "confirm")}


def is_moved_cold(hosts, server):
    assert hosts.where(server) == ("c", "VERIFY_RESIZE", None)
    assert hosts.fakes["c"].state[server]["state"] == "running"


@pytest.fixture
def hosts(cloud):
    found = FaultyHosts(cloud)

    def note(label):
        return lambda *_: found.steps.reach(label)

    listeners = [("before_commit", note("before a commit")), ("after_commit", note("after a commit"))]
    for name, listener in listeners:
        event.listen(cloud.database.write, name, listener)
    yield found
    for name, listener in listeners:
        event.remove(cloud.database.write, name, listener)
    found.worker.pool.shutdown()


@pytest.mark.parametrize("fault", [Killed, RuntimeError], ids=["killed", "failed"])
@pytest.mark.parametrize("name", WORKFLOWS)
def test_every_step(hosts, name, fault):
    prepare, ask, end = WORKFLOWS[name]
    end = end or is_moved_cold
    number, left = 0, True
    while left:  # until a run of the workflow had no such step any more, and was not disturbed
        number += 1
        asked = ask(hosts, prepare(hosts))
        hosts.steps.begin(fault, number - 1)
        with contextlib.suppress(Killed):
            hosts.settle()
        hosts.steps.counting = False
        left = len(hosts.steps.seen) >= number
        where = f"{name}, {fault.__name__} at step {number}: {hosts.steps.seen[-1]}"
        if left:
            tell_the_truth(hosts, where)
            if fault is Killed:
                hosts.succeed_worker()
        hosts.settle()
        try:
            end(hosts, asked)
            hosts.settle()
            hosts.remove_all()
        except AssertionError as error:
            raise AssertionError(f"{where}: {error}") from error
    assert number > 4, "a run alone has four steps"


def tell_the_truth(hosts, where: str) -> None:
    """What the API says in between: no error, for nothing has failed for good; and only what is so."""
    for one in hosts.call("GET", f"{COMPUTE}/servers/detail")["servers"]:
        row = read_server(hosts.cloud, one["id"])
        assert one["status"] != "ERROR", f"{where}: {one.get('fault')}"
        states = [fake.state[one["id"]] for fake in hosts.fakes.values() if one["id"] in fake.state]
        # One that has just arrived alive goes on by itself.
        running = [seen for seen in states if seen["state"] == "running" or seen["reason"] == "migration"]
        if one["status"] == "ACTIVE" and one["OS-EXT-STS:task_state"] is None and row.power == "on":
            assert running, f"{where}: it is shown as ACTIVE and runs nowhere"
    for one in hosts.call("GET", f"{VOLUME}/volumes/detail")["volumes"]:
        assert not one["status"].startswith("error"), where
        if one["status"] == "available":
            assert one["id"] in hosts.fakes["s"].volumes, f"{where}: it is shown as available and is not there"
