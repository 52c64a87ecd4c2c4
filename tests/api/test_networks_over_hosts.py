"""Networks over two hosts, from requests to both hosts' documents: tunnels, far ports, legs outside, who is told."""

from __future__ import annotations

import jsonschema
import pytest
from compute_cloud import COMPUTE, add_image, build_server
from fake_host import FakeHost
from network_calls import Network
from sqlalchemy import event, select

from web.desired import build_document, read_rows
from web.desired.document import SCHEMA
from web.models import FloatingIP, Host, Migration, Port, Server, now
from web.models.networks import ROUTER_GATEWAY, ROUTER_HOST_GATEWAY
from web.models.reach import join_ties, touch_port
from web.moves import enter_phase, start_move
from web.reconcile.loop import Worker
from web.router_legs import plan_legs

TUNNELS = {"one": "10.77.0.1", "two": "10.77.0.2", "three": "10.77.0.3"}


class Hosts:
    """Three hosts (``one`` is the bootstrapped one), the Network API, guests placed by name."""

    def __init__(self, cloud):
        self.cloud, self.net = cloud, Network(cloud)
        cloud.settings.network.tenant_type = "vxlan"
        self.fakes = {name: FakeHost() for name in TUNNELS}
        self.worker = Worker(cloud.settings, cloud.database, run=self._run)
        with cloud.database.write.begin() as session:
            first = session.scalar(select(Host))
            first.name, first.settings = "one", {"tunnel_address": TUNNELS["one"]}
            for name in ("two", "three"):
                row = Host(name=name, roles=["hypervisor"], settings={"tunnel_address": TUNNELS[name]})
                row.observed, row.observed_at, row.zone = first.observed, now(), first.zone
                session.add(row)
        self.image = add_image(cloud)

    def _run(self, settings, name, connection, document, cancelled=None):
        return self.fakes[name](settings, name, connection, document)

    def id_of(self, name: str) -> str:
        with self.cloud.database.read() as session:
            return session.scalar(select(Host.id).where(Host.name == name))

    def boot(self, host: str, *networks: str, status: int = 202, **port) -> dict:
        """A guest on a host; its ports by network id (or the answer, where it is refused)."""
        nics = [{"uuid": network} | port for network in networks]
        zone = f"nova:{host}"
        body = build_server(self.image, networks=nics, availability_zone=zone)
        answer = self.cloud.post(f"{COMPUTE}/servers", body, user="admin", version="2.96")
        assert answer.status_code == status, answer.text
        if status != 202:
            return answer.json
        server_id = answer.json["server"]["id"]
        ports = self.net.list("ports", f"device_id={server_id}", user="admin")
        return {"id": server_id} | {port["network_id"]: port for port in ports}

    def end(self, server: dict, host: str) -> None:
        """The guest is deleted, and its host seen without it."""
        assert self.cloud.delete(f"{COMPUTE}/servers/{server['id']}", user="admin").status_code == 204
        self.worker.run_once(self.id_of(host))

    def document(self, name: str) -> dict:
        with self.cloud.database.read() as session:
            host = session.scalar(select(Host).where(Host.name == name))
            document = build_document(read_rows(session, host), self.cloud.settings)
        jsonschema.validate(document, SCHEMA)
        return document

    def network(self, name: str, network_id: str) -> dict:
        return next(row for row in self.document(name)["networks"] if row["id"] == network_id)

    def generations(self) -> dict[str, int]:
        with self.cloud.database.read() as session:
            return {row.name: row.generation for row in session.scalars(select(Host))}

    def legs(self, router: str) -> dict[str, str]:
        """{host: device_owner} of the router's legs outside; a gateway port of no host is under ""."""
        with self.cloud.database.read() as session:
            names = dict(session.execute(select(Host.id, Host.name)).all())
            ports = session.scalars(
                select(Port).where(Port.device_id == router, Port.device_owner != "network:router_interface")
            )
            return {names.get(port.host_id, ""): port.device_owner for port in ports}

    def make_site(self) -> dict:
        """A network behind a router that leads outside, and a second network that is not behind it yet."""
        net = self.net
        public = net.public()["id"]
        router = net.make("routers", user="admin", external_gateway_info={"network_id": public})["id"]
        made = {"router": router, "public": public}
        for name, cidr in (("near", "10.1.0.0/24"), ("far", "10.2.0.0/24")):
            network = net.make("networks", user="admin", name=name)
            subnet = net.make("subnets", user="admin", network_id=network["id"], ip_version=4, cidr=cidr)
            made |= {name: network["id"], f"{name}_subnet": subnet["id"]}
        self.join(made, "near")
        return made

    def join(self, site: dict, name: str, verb: str = "add") -> None:
        path = f"/routers/{site['router']}/{verb}_router_interface"
        answer = self.net.send("PUT", path, {"subnet_id": site[f"{name}_subnet"]}, user="admin")
        assert answer.status_code == 200, answer.text


@pytest.fixture
def hosts(cloud):
    made = Hosts(cloud)
    yield made
    made.worker.pool.shutdown()


def test_tunnels_and_far_ports(hosts):
    """A network has its own host's tunnel address, those of the others that have it, and the ports there."""
    site = hosts.make_site()
    first = hosts.boot("one", site["near"])
    alone = hosts.network("one", site["near"])
    assert alone["segmentation"] == {"type": "vxlan", "id": 1, "local": TUNNELS["one"], "peers": []}
    assert alone["elsewhere"] == []
    assert alone["mtu"] == 1450
    second = hosts.boot("two", site["near"])
    near = {name: hosts.network(name, site["near"]) for name in ("one", "two")}
    for name, other, guest in (("one", "two", second), ("two", "one", first)):
        assert near[name]["segmentation"]["local"] == TUNNELS[name]
        assert near[name]["segmentation"]["peers"] == [TUNNELS[other]]
        port = guest[site["near"]]
        addresses = [one["ip_address"] for one in port["fixed_ips"]]
        far = {"port": port["id"], "mac": port["mac_address"], "addresses": addresses, "tunnel": TUNNELS[other]}
        assert near[name]["elsewhere"] == [far]
        assert [row["port"] for row in near[name]["reservations"]] != [port["id"]]
    assert hosts.document("three")["networks"] == []


def test_a_host_reaches_a_network_through_a_router(hosts):
    """A guest on one network makes its host one of the others that the router ties to it."""
    site = hosts.make_site()
    hosts.boot("one", site["near"])
    guest = hosts.boot("two", site["far"])
    assert hosts.network("one", site["near"])["segmentation"]["peers"] == []
    hosts.join(site, "far")
    near, far = (hosts.network("one", site[name]) for name in ("near", "far"))
    assert near["segmentation"]["peers"] == far["segmentation"]["peers"] == [TUNNELS["two"]]
    assert [row["port"] for row in far["elsewhere"]] == [guest[site["far"]]["id"]]
    assert near["elsewhere"] == []
    # Another tenant's networks with the same ranges are not tied to these.
    other = hosts.make_site()
    hosts.boot("three", other["near"])
    assert hosts.network("one", site["near"])["segmentation"]["peers"] == [TUNNELS["two"]]
    assert hosts.network("three", other["near"])["segmentation"] == {
        "type": "vxlan", "id": 3, "local": TUNNELS["three"], "peers": [],
    }  # fmt: skip


def test_each_host_has_a_leg_of_its_own(hosts):
    """The first host takes the gateway port, a further one a port of its own; floating addresses go with guests."""
    site = hosts.make_site()
    assert hosts.legs(site["router"]) == {"": ROUTER_GATEWAY}
    first = hosts.boot("one", site["near"])
    second = hosts.boot("two", site["near"])
    assert hosts.legs(site["router"]) == {"one": ROUTER_GATEWAY, "two": ROUTER_HOST_GATEWAY}
    seen = {}
    for name, guest in (("one", first), ("two", second)):
        port = guest[site["near"]]["id"]
        floating = hosts.net.make("floatingips", user="admin", floating_network_id=site["public"], port_id=port)
        (router,) = hosts.document(name)["routers"]
        assert [row["id"] for row in router["floating_ips"]] == [floating["id"]]
        assert router["external"]["gateways"] == ["172.24.4.1"]
        seen[name] = (router["external"]["port"], router["external"]["mac"], *router["external"]["addresses"])
    assert not set(seen["one"]) & set(seen["two"])
    shown = hosts.net.read("routers", site["router"], user="admin")["external_gateway_info"]["external_fixed_ips"]
    assert [f"{one['ip_address']}/24" for one in shown] == [seen["one"][2]]
    hosts.net.refuse(409, "NetworkInUse", "DELETE", f"/networks/{site['public']}", user="admin")


def test_legs_go_when_they_are_not_needed(hosts):
    """With the last guest of a host; with an interface that tied it; with the gateway; with the router."""
    site = hosts.make_site()
    first, second = hosts.boot("one", site["near"]), hosts.boot("two", site["near"])
    hosts.end(second, "two")
    assert hosts.legs(site["router"]) == {"one": ROUTER_GATEWAY}
    hosts.boot("two", site["far"])
    assert hosts.legs(site["router"]) == {"one": ROUTER_GATEWAY}
    hosts.join(site, "far")
    assert hosts.legs(site["router"]) == {"one": ROUTER_GATEWAY, "two": ROUTER_HOST_GATEWAY}
    hosts.end(first, "one")
    # The host that is left keeps its address; the gateway port waits for the next one.
    assert hosts.legs(site["router"]) == {"": ROUTER_GATEWAY, "two": ROUTER_HOST_GATEWAY}
    hosts.boot("three", site["near"])
    assert hosts.legs(site["router"]) == {"three": ROUTER_GATEWAY, "two": ROUTER_HOST_GATEWAY}
    hosts.join(site, "far", "remove")
    assert hosts.legs(site["router"]) == {"three": ROUTER_GATEWAY}
    hosts.join(site, "far")
    hosts.net.change("routers", site["router"], user="admin", external_gateway_info={})
    assert hosts.legs(site["router"]) == {}
    assert hosts.document("two")["routers"][0]["external"] is None
    hosts.net.change("routers", site["router"], user="admin", external_gateway_info={"network_id": site["public"]})
    assert sorted(hosts.legs(site["router"]).values()) == [ROUTER_GATEWAY, ROUTER_HOST_GATEWAY]


def test_no_address_left_outside(hosts):
    """A guest whose host's leg finds no address is refused in words, and nothing of it is left."""
    public = hosts.net.make("networks", user="admin", **{"router:external": True})["id"]
    pools = [{"start": "198.51.100.10", "end": "198.51.100.10"}]
    hosts.net.make(
        "subnets", user="admin", network_id=public, ip_version=4, cidr="198.51.100.0/24", allocation_pools=pools
    )
    site = hosts.make_site()
    hosts.net.change("routers", site["router"], user="admin", external_gateway_info={"network_id": public})
    hosts.boot("one", site["near"])
    answer = hosts.boot("two", site["near"], status=409)
    message = answer["conflictingRequest"]["message"]
    assert f"No more IP addresses available on network {public}" in message
    assert site["router"] in message
    assert hosts.document("two")["servers"] == []
    assert hosts.legs(site["router"]) == {"one": ROUTER_GATEWAY}
    other = hosts.boot("two", site["far"])
    message = hosts.net.refuse(
        409, "IpAddressGenerationFailure", "PUT", f"/routers/{site['router']}/add_router_interface",
        {"subnet_id": site["far_subnet"]}, user="admin",
    )  # fmt: skip
    assert f"No more IP addresses available on network {public}" in message
    assert other[site["far"]]["id"] in str(hosts.document("two")["ports"])


def test_who_is_told(hosts):
    """Every host that has the network hears of a guest's port that comes, changes and goes, on whichever host."""
    site = hosts.make_site()
    hosts.join(site, "far")
    first = hosts.boot("one", site["near"])

    def told(act) -> set[str]:
        before = hosts.generations()
        act()
        return {name for name, number in hosts.generations().items() if number > before[name]}

    made = []
    assert told(lambda: made.append(hosts.boot("two", site["far"]))) == {"one", "two"}
    assert told(lambda: made.append(hosts.boot("three", site["near"]))) == {"one", "two", "three"}
    port = made[0][site["far"]]["id"]
    change = {"fixed_ips": [{"subnet_id": site["far_subnet"], "ip_address": "10.2.0.77"}]}
    assert told(lambda: hosts.net.change("ports", port, user="admin", **change)) == {"one", "two", "three"}
    assert hosts.network("one", site["far"])["elsewhere"][0]["addresses"] == ["10.2.0.77"]
    assert told(lambda: hosts.end(made[1], "three")) == {"one", "two", "three"}
    assert hosts.network("one", site["near"])["segmentation"]["peers"] == [TUNNELS["two"]]
    given = hosts.net.make("ports", user="admin", network_id=site["near"])
    before = hosts.generations()
    body = build_server(hosts.image, networks=[{"port": given["id"]}], availability_zone="nova:three")
    assert hosts.cloud.post(f"{COMPUTE}/servers", body, user="admin", version="2.96").status_code == 202
    assert all(number > before[name] for name, number in hosts.generations().items())
    assert hosts.legs(site["router"])["three"] == ROUTER_HOST_GATEWAY
    alone = hosts.net.make("networks", user="admin")
    hosts.net.make("subnets", user="admin", network_id=alone["id"], ip_version=4, cidr="10.3.0.0/24")
    assert told(lambda: hosts.boot("two", alone["id"], fixed_ip="10.3.0.9")) >= {"two"}
    assert first["id"] in str(hosts.document("one")["servers"])


def test_a_host_without_a_tunnel_address(hosts):
    """It is nobody's peer; its own document says null, and the host says the sentence."""
    with hosts.cloud.database.write.begin() as session:
        session.scalar(select(Host).where(Host.name == "two")).settings = {}
    site = hosts.make_site()
    hosts.boot("one", site["near"])
    hosts.boot("two", site["near"])
    assert hosts.network("two", site["near"])["segmentation"] == {
        "type": "vxlan", "id": 1, "local": None, "peers": [TUNNELS["one"]],
    }  # fmt: skip
    near = hosts.network("one", site["near"])
    assert near["segmentation"]["peers"] == []
    assert [row["tunnel"] for row in near["elsewhere"]] == [None]


def test_a_guest_that_moves(hosts):
    """Until it has arrived its port has no tunnel on any host; all hosts that know it are told, its next one too."""
    site = hosts.make_site()
    hosts.boot("one", site["near"])
    guest = hosts.boot("two", site["near"])
    floating = hosts.net.make(
        "floatingips", user="admin", floating_network_id=site["public"], port_id=guest[site["near"]]["id"]
    )
    before = hosts.generations()
    with hosts.cloud.database.write.begin() as session:
        server = session.scalar(select(Server).where(Server.id == guest["id"]))
        dest = hosts.id_of("three")
        start_move(session, hosts.cloud.settings, server, "live-migration", dest, user_id="u", project_id="p")
    assert hosts.legs(site["router"])["three"] == ROUTER_HOST_GATEWAY
    assert all(number > before[name] for name, number in hosts.generations().items())
    before = hosts.generations()
    with hosts.cloud.database.write.begin() as session:
        touch_port(session, session.get(Port, guest[site["near"]]["id"]))
    assert all(number > before[name] for name, number in hosts.generations().items())
    for name in TUNNELS:
        near = hosts.network(name, site["near"])
        far = {row["port"]: row["tunnel"] for row in near["elsewhere"]}
        assert far[guest[site["near"]]["id"]] is None
        assert near["segmentation"]["peers"] == sorted(set(TUNNELS.values()) - {TUNNELS[name]})
        rows = [row for router in hosts.document(name)["routers"] for row in router["floating_ips"]]
        follows = [(row["id"], row["follows"]) for row in rows]
        assert follows == ([] if name == "one" else [(floating["id"], guest["id"])])
    with hosts.cloud.database.write.begin() as session:
        server = session.scalar(select(Server).where(Server.id == guest["id"]))
        enter_phase(
            session, hosts.cloud.settings, session.scalar(select(Migration)), server, "cleaning", "completed"
        )  # fmt: skip
    assert hosts.legs(site["router"]) == {"one": ROUTER_GATEWAY, "three": ROUTER_HOST_GATEWAY}
    assert [row["tunnel"] for row in hosts.network("one", site["near"])["elsewhere"]] == [TUNNELS["three"]]
    (router,) = hosts.document("three")["routers"]
    assert [(row["id"], row["follows"]) for row in router["floating_ips"]] == [(floating["id"], None)]
    assert [row for router in hosts.document("two")["routers"] for row in router["floating_ips"]] == []


def test_a_cloud_from_before_gets_its_legs(hosts):
    """A gateway port that no host has: the worker gives routers their legs when it starts."""
    site = hosts.make_site()
    hosts.boot("one", site["near"])
    with hosts.cloud.database.write.begin() as session:
        session.scalar(select(Port).where(Port.device_owner == ROUTER_GATEWAY)).host_id = None
    assert hosts.document("one")["routers"][0]["external"] is None
    hosts.worker.recover()
    assert hosts.legs(site["router"]) == {"one": ROUTER_GATEWAY}
    assert hosts.document("one")["routers"][0]["external"]["snat"] is True


def test_the_number_of_queries_does_not_grow(hosts):
    """A document of eight far ports is read in as many queries as one of two."""
    site = hosts.make_site()
    hosts.boot("one", site["near"])
    counted = []

    def count() -> int:
        counted.clear()
        hosts.document("one")
        return len(counted)

    event.listen(hosts.cloud.database.engine, "before_cursor_execute", lambda *_: counted.append(1))
    hosts.boot("two", site["near"])
    hosts.boot("three", site["near"])
    few = count()
    for host in ("two", "three") * 3:
        hosts.boot(host, site["near"])
    assert count() == few


def test_vlan_over_a_trunk(hosts):
    """A provider VLAN is on the hosts' physical network by name; its far ports need no tunnel."""
    trunk = {"trunk": {"bridge": "kumo-trunk", "interface": "eth2", "addresses": [], "masquerade": False}}
    with hosts.cloud.database.write.begin() as session:
        for host in session.scalars(select(Host)):
            host.settings = {**host.settings, "physical_networks": trunk}
    provider = {"provider:network_type": "vlan", "provider:physical_network": "trunk", "provider:segmentation_id": 7}
    network = hosts.net.make("networks", user="admin", **provider)
    hosts.net.make("subnets", user="admin", network_id=network["id"], ip_version=4, cidr="10.9.0.0/24")
    assert network["mtu"] == 1500
    hosts.boot("one", network["id"])
    hosts.boot("two", network["id"])
    row = hosts.network("one", network["id"])
    assert row["segmentation"] == {"type": "vlan", "physical_network": "trunk", "id": 7}
    assert [one["tunnel"] for one in row["elsewhere"]] == [None]
    wrong = provider | {"provider:physical_network": "nowhere", "provider:segmentation_id": 8}
    assert "nowhere" in hosts.net.refuse_new(400, "InvalidInput", "networks", user="admin", **wrong)


@pytest.mark.parametrize(
    ("needing", "first", "held", "plan"),
    [
        ((), None, (), (None, [], [])),
        (("a",), None, (), ("a", [], [])),
        (("a", "b"), None, (), ("a", ["b"], [])),
        (("a", "b"), "b", (), ("b", ["a"], [])),
        (("b",), "a", ("b",), (None, [], [])),
        (("b", "c"), "a", ("b",), ("c", [], [])),
        ((), "a", ("b",), (None, [], ["b"])),
        (("a",), "a", ("a",), ("a", [], ["a"])),
    ],
)
def test_plan_legs(needing, first, held, plan):
    assert plan_legs(set(needing), first, held) == plan


def test_join_ties():
    joined = join_ties([("n1", "r1"), ("n2", "r1"), ("n3", "r2"), ("n4", "r3"), ("n2", "r3"), ("n5", "r4")])
    assert joined["n1"] == joined["n2"] == joined["n4"] == {"n1", "n2", "n4"}
    assert (joined["n3"], joined["n5"]) == ({"n3"}, {"n5"})
    assert join_ties([]) == {}


def test_floating_rows_are_untouched_by_legs(hosts):
    """A router's further leg is no floating address's, and none is lost when it goes."""
    site = hosts.make_site()
    first, second = hosts.boot("one", site["near"]), hosts.boot("two", site["near"])
    made = hosts.net.make(
        "floatingips", user="admin", floating_network_id=site["public"], port_id=first[site["near"]]["id"]
    )
    hosts.end(second, "two")
    with hosts.cloud.database.read() as session:
        assert session.scalar(select(FloatingIP.port_id).where(FloatingIP.id == made["id"])) is not None
