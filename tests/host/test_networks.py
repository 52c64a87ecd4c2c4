"""Networks, routers and DHCP for real: a machine of its own per test, and traffic through it."""

import json
import shutil
import tempfile
import time
from pathlib import Path

import pytest
from network_lab import (
    PUBLIC,
    PYTHON,
    Machine,
    add_floating,
    build_cloud,
    build_network,
    build_reservation,
    build_subnet,
)


@pytest.fixture
def machine():
    folder = Path(tempfile.mkdtemp(prefix="kumo-test-networks-"))
    folder.chmod(0o711)  # dnsmasq reads its files as its own user
    made = Machine(folder)
    try:
        yield made
    finally:
        made.end()
        shutil.rmtree(folder, ignore_errors=True)


EMPTY = {"networks": [], "routers": []}


def test_guest_gets_its_address_and_reaches_out(machine):
    """DHCP gives the reserved address, route and MTU; SNAT carries a guest to the public address and back."""
    document = build_cloud()
    network, router = document["networks"][1], document["routers"][0]
    machine.converge(document)
    guest = machine.add_guest("a", network, network["reservations"][0])
    lease = guest.lease()
    assert lease["ip"] == "10.0.0.5"
    assert lease["router"] == "10.0.0.1"
    assert lease["mtu"] == "1450"
    assert lease["dns"] == "10.0.0.1"
    assert lease["domain"] == "kumo.internal"
    assert lease["hostname"] == "web1"
    assert guest.ping("10.0.0.1")
    assert guest.ping("172.31.255.1")
    assert guest.ping("169.254.169.254")
    answer = guest.run("busybox", "nslookup", "web1.kumo.internal", "10.0.0.1").stdout
    assert "10.0.0.5" in answer
    result = machine.apply(document)
    assert result["observed"]["networks"][network["id"]] == {"state": "active"}
    assert result["observed"]["routers"][router["id"]] == {"state": "active"}


def test_unreserved_mac_gets_nothing(machine):
    """Only reservations are answered."""
    document = build_cloud()
    network = document["networks"][1]
    machine.converge(document)
    guest = machine.add_guest("x", network, build_reservation("10.0.0.99"))
    argv = ["busybox", "udhcpc", "-f", "-q", "-n", "-t", "2", "-T", "1", "-i", "eth0", "-s", "/bin/true"]
    assert guest.run(*argv, check=False).returncode != 0


def test_floating_address(machine):
    """A floating address leads in and out, also between guests of one router, and not any more once removed."""
    document = build_cloud()
    network, router = document["networks"][1], document["routers"][0]
    row = add_floating(router, "172.31.255.20", "10.0.0.5")
    result = machine.converge(document)
    assert result["observed"]["floating_ips"] == {row["id"]: {"state": "active"}}
    first, second = (machine.add_guest(n, network, r) for n, r in zip("ab", network["reservations"], strict=True))
    first.lease()
    second.lease()
    assert machine.ping("172.31.255.20")
    assert second.ping("172.31.255.20"), "a neighbour through the router"
    assert first.ping("172.31.255.20"), "a guest to its own floating address"
    namespace = "kumo-r-" + router["id"]
    tracked = machine.run("ip", "netns", "exec", namespace, "conntrack", "-L").stdout
    assert "172.31.255.20" in tracked
    router["floating_ips"] = []
    machine.converge(document)
    assert not machine.ping("172.31.255.20", wait=1)
    tracked = machine.run("ip", "netns", "exec", namespace, "conntrack", "-L").stdout
    assert "172.31.255.20" not in tracked
    assert first.ping("172.31.255.1")


ECHO = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
    end.bind(("0.0.0.0", 7))
    while True:
        end.sendto(sys.argv[1].encode(), end.recvfrom(64)[1])
"""
ASK = """
import socket, sys, time
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
    end.bind(("172.31.255.1", 40000))
    end.settimeout(0.5)
    for _ in range(20):
        end.sendto(b"who", (sys.argv[1], 7))
        try:
            print(end.recv(64).decode())
            break
        except (TimeoutError, OSError):
            time.sleep(0.1)
"""


def test_s22_recycled_floating_address(machine):
    """A floating address that moves to another guest takes a flow that is under way with it, to the new guest."""
    document = build_cloud()
    network, router = document["networks"][1], document["routers"][0]
    add_floating(router, "172.31.255.20", "10.0.0.5")
    machine.converge(document)
    for name, reservation in zip("ab", network["reservations"], strict=True):
        guest = machine.add_guest(name, network, reservation)
        guest.lease()
        guest.run("sh", "-c", f"setsid {PYTHON} -c '{ECHO}' {name} </dev/null >/dev/null 2>&1 &")
    assert machine.run(PYTHON, "-c", ASK, "172.31.255.20").stdout == "a\n"
    router["floating_ips"][0]["fixed_address"] = "10.0.0.6"
    machine.converge(document)
    assert machine.run(PYTHON, "-c", ASK, "172.31.255.20").stdout == "b\n"
    tracked = machine.run("ip", "netns", "exec", "kumo-r-" + router["id"], "conntrack", "-L").stdout
    assert not [line for line in tracked.splitlines() if "10.0.0.5" in line and "40000" in line]


def test_s22_a_lost_external_leg_is_forgotten(machine):
    """A router that leaves its external network and comes back under another address uses the new one at once."""
    document = build_cloud()
    network, router = document["networks"][1], document["routers"][0]
    machine.converge(document)
    guest = machine.add_guest("a", network, network["reservations"][0])
    guest.lease()
    assert guest.ping("172.31.255.1")
    external, router["external"] = router["external"], None
    machine.converge(document)
    tracked = machine.run("ip", "netns", "exec", "kumo-r-" + router["id"], "conntrack", "-L").stdout
    assert "172.31.255." not in tracked
    assert not guest.ping("172.31.255.1", wait=1)
    router["external"] = external | {"addresses": ["172.31.255.99/24"]}
    machine.converge(document)
    assert guest.ping("172.31.255.1")


def test_s22_killed_run_forgets_later(machine):
    """What a run that was killed had noted to remove from connection tracking, the next one removes."""
    document = build_cloud()
    network, router = document["networks"][1], document["routers"][0]
    machine.converge(document)
    guest = machine.add_guest("a", network, network["reservations"][0])
    guest.lease()
    assert guest.ping("172.31.255.1")
    note = machine.state_dir / "routers" / f"{router['id']}.forget"
    note.parent.mkdir(exist_ok=True)
    note.write_text('["172.31.255.10"]')
    assert [row["verb"] for row in machine.converge(document)["actions"]] == ["forget"]
    tracked = machine.run("ip", "netns", "exec", "kumo-r-" + router["id"], "conntrack", "-L").stdout
    assert "172.31.255.10" not in tracked
    assert not note.exists()


def test_two_state_directories_on_one_machine(machine):
    """A document for one state directory removes nothing of another's."""
    first = machine.state_dir
    network = build_network([build_subnet("10.6.0.0/24", "10.6.0.1")])
    machine.converge({"networks": [network], "routers": []})
    machine.state_dir = machine.folder / "other"
    machine.state_dir.mkdir(mode=0o711)
    machine.apply(EMPTY)
    machine.state_dir = first
    assert "kbr" + network["id"].replace("-", "")[:11] in machine.links()
    assert "kumo-n-" + network["id"] in machine.run("ip", "netns").stdout
    assert len(machine.dnsmasq_pids()) == 1


def test_nothing_comes_in_untranslated(machine):
    """From the public network a tenant's address, a router's resolver and its metadata address are not reached."""
    document = build_cloud()
    network = document["networks"][1]
    machine.converge(document)
    guest = machine.add_guest("a", network, network["reservations"][0])
    guest.lease()
    for address in ("10.0.0.0/24", "169.254.169.254/32"):
        machine.run("ip", "route", "add", address, "via", "172.31.255.10")
    assert machine.ping("172.31.255.10"), "the router's own address answers"
    assert not machine.ping("10.0.0.5", wait=1)
    assert not machine.ping("10.0.0.1", wait=1)
    assert not machine.ping("169.254.169.254", wait=1)


def test_the_host_is_not_on_a_tenants_bridge(machine):
    """A guest that sends frames to its bridge's own MAC reaches neither the host nor what it forwards to."""
    document = build_cloud()
    network = document["networks"][1]
    machine.converge(document)
    guest = machine.add_guest("a", network, network["reservations"][0])
    guest.run("ip", "addr", "add", "10.0.0.5/24", "dev", "eth0")
    bridge = "kbr" + network["id"].replace("-", "")[:11]
    mac = machine.links()[bridge]["address"]
    machine.run("ip", "route", "add", "10.0.0.5/32", "dev", bridge)  # so that an answer could come back
    guest.run("ip", "neigh", "add", "10.0.0.77", "lladdr", mac, "dev", "eth0")
    guest.run("ip", "route", "add", "172.31.255.1/32", "via", "10.0.0.77")
    assert not guest.ping("172.31.255.1", wait=1)
    assert machine.links()[bridge]["addr_info"] == []


def test_two_routers_with_one_range(machine):
    """Tenants with the same addresses live side by side; each floating address leads to its own guest."""
    document = build_cloud(tenants=2)
    for number, router in enumerate(document["routers"]):
        add_floating(router, f"172.31.255.{20 + number}", "10.0.0.5")
    machine.converge(document)
    guests = []
    for number, network in enumerate(document["networks"][1:]):
        guests.append(machine.add_guest(f"t{number}", network, network["reservations"][0]))
        assert guests[-1].lease()["ip"] == "10.0.0.5"
    assert machine.ping("172.31.255.20")
    assert machine.ping("172.31.255.21")
    assert guests[0].ping("172.31.255.21")
    assert guests[1].ping("172.31.255.20")
    guests[1].end()
    assert not machine.ping("172.31.255.21", wait=1)
    assert machine.ping("172.31.255.20")


@pytest.mark.parametrize(
    "damage",
    [
        "kill -9 $(pidof dnsmasq)",
        "ip link del {bridge}",
        "ip netns del {namespace}",
        "ip -n {namespace} addr del 10.0.0.1/24 dev {inner}",
        "ip -n {namespace} link del {inner}",
        "ip -n {namespace} route del default",
        "ip netns exec {namespace} iptables -t nat -F",
        "ip netns exec {namespace} sysctl -w net.ipv4.ip_forward=0",
        "ip link del " + PUBLIC,
        "iptables -t nat -F POSTROUTING; iptables -F FORWARD; sysctl -w net.ipv4.ip_forward=0",
        "ip link set {bridge} down; ip link set {bridge} mtu 1400",
    ],
)
def test_repair(machine, damage):
    """Whatever a hand or another tool took away, the next run brings back; the run after it has nothing to do."""
    document = build_cloud()
    network, router = document["networks"][1], document["routers"][0]
    add_floating(router, "172.31.255.20", "10.0.0.5")
    machine.converge(document)
    names = {
        "bridge": "kbr" + network["id"].replace("-", "")[:11],
        "inner": "kvi" + router["interfaces"][0]["port"].replace("-", "")[:11],
        "namespace": "kumo-r-" + router["id"],
    }
    machine.run("sh", "-c", damage.format(**names))
    result = machine.converge(document)
    assert result["changed"]
    guest = machine.add_guest("a", network, network["reservations"][0])
    assert guest.lease()["ip"] == "10.0.0.5"
    assert guest.ping("172.31.255.1")
    assert machine.ping("172.31.255.20")


def test_s35_reservations_change_without_a_restart(machine):
    """A new guest is a reload; a guest that is gone gives its address back at once, to another MAC."""
    document = build_cloud()
    network = document["networks"][1]
    machine.converge(document)
    pids = machine.dnsmasq_pids()
    third = build_reservation("10.0.0.7", hostname="x\ndhcp-option=3,6.6.6.6 *")
    network["reservations"].append(third)
    result = machine.converge(document)
    assert [row["verb"] for row in result["actions"]] == ["reload"]
    assert machine.dnsmasq_pids() == pids
    guest = machine.add_guest("c", network, third)
    lease = guest.lease()
    assert (lease["ip"], lease["router"]) == ("10.0.0.7", "10.0.0.1")
    assert lease["hostname"] == "x-dhcp-option-3-6-6-6-6"
    guest.end()
    network["reservations"][-1] = build_reservation("10.0.0.7", hostname="next")
    machine.converge(document)
    assert machine.add_guest("d", network, network["reservations"][-1]).lease()["ip"] == "10.0.0.7"


@pytest.mark.parametrize(("options", "verb"), [([], "reload"), ([{"name": "bootfile-name", "value": "a"}], "restart")])
@pytest.mark.parametrize("six", [False, True])
def test_reservations_change_after_a_lease(machine, options, verb, six):
    """A dnsmasq that has given a tagged host its lease would crash as it reads the hosts again (2.90)."""
    document = build_cloud()
    network, router = document["networks"][1], document["routers"][0]
    if six:
        network["subnets"].append(build_subnet("fd00:5::/64", "fd00:5::1", ipv6_mode="dhcpv6-stateful"))
        router["interfaces"][0]["addresses"].append("fd00:5::1/64")
        network["reservations"][0]["addresses"].append("fd00:5::5")
    network["reservations"][0]["options"] = options
    machine.converge(document)
    guest = machine.add_guest("a", network, network["reservations"][0])
    for number in (7, 8):
        pids = machine.dnsmasq_pids()
        assert guest.lease()["ip"] == "10.0.0.5"
        network["reservations"].append(build_reservation(f"10.0.0.{number}", hostname=f"web{number}"))
        result = machine.converge(document)
        assert [row["verb"] for row in result["actions"]] == [verb]
        assert len(machine.dnsmasq_pids()) == 1
        assert (machine.dnsmasq_pids() == pids) == (verb == "reload")


def test_isolated_network(machine):
    """A network without a router has DHCP and metadata of its own, and routes of its own where it has no gateway."""
    guest_row = build_reservation("10.5.0.9")
    routes = [{"destination": "10.9.0.0/24", "nexthop": "10.5.0.77"}]
    subnet = build_subnet("10.5.0.0/24", None, dhcp_address="10.5.0.2", host_routes=routes)
    network = build_network([subnet], [guest_row])
    machine.converge({"networks": [network], "routers": []})
    guest = machine.add_guest("i", network, guest_row)
    lease = guest.lease()
    assert lease["ip"] == "10.5.0.9"
    assert "router" not in lease
    assert lease["staticroutes"].split() == ["169.254.169.254/32", "10.5.0.2", "10.9.0.0/24", "10.5.0.77"]
    assert guest.ping("169.254.169.254")
    assert not machine.ping("10.5.0.9", wait=1)


def test_home_moves(machine):
    """A network that gains a router moves its gateway and DHCP there, and back when it loses it."""
    document = build_cloud()
    network, router = document["networks"][1], document["routers"][0]
    interface = router["interfaces"].pop()
    network["home"] = {"kind": "network", "id": network["id"]}
    machine.converge(document)
    assert "kumo-n-" + network["id"] in machine.run("ip", "netns").stdout
    router["interfaces"].append(interface)
    network["home"] = {"kind": "router", "id": router["id"]}
    machine.converge(document)
    assert "kumo-n-" not in machine.run("ip", "netns").stdout
    guest = machine.add_guest("m", network, network["reservations"][0])
    guest.lease()
    assert guest.ping("172.31.255.1")
    router["interfaces"].pop()
    network["home"] = {"kind": "network", "id": network["id"]}
    machine.converge(document)
    assert len(machine.dnsmasq_pids()) == 1
    # Should the old gateway ask for the guest once more after the new one has announced itself, the guest sends to a
    # MAC that nobody has until it asks again: supposed of a failure under load, where one ping was all.
    assert any(guest.ping("10.0.0.1") for _ in range(6))


@pytest.mark.parametrize("mode", ["slaac", "dhcpv6-stateless", "dhcpv6-stateful"])
def test_ipv6(machine, mode):
    """Router advertisements give a guest its address and default route (stateful: only the route)."""
    document = build_cloud()
    network, router = document["networks"][1], document["routers"][0]
    network["subnets"].append(build_subnet("fd00:5::/64", "fd00:5::1", ipv6_mode=mode))
    router["interfaces"][0]["addresses"].append("fd00:5::1/64")
    network["reservations"][0]["addresses"].append("fd00:5::5")
    machine.converge(document)
    guest = machine.add_guest("six", network, network["reservations"][0])
    deadline = time.monotonic() + 15
    wanted = "default via fe80:" if mode == "dhcpv6-stateful" else "fd00:5::"
    seen = ""
    while wanted not in seen and time.monotonic() < deadline:
        seen = guest.run("ip", "-6", "route").stdout
        if mode != "dhcpv6-stateful":
            seen = guest.run("ip", "-6", "addr", "show", "scope", "global", "-tentative").stdout
        time.sleep(0.2)
    assert wanted in seen
    assert "default via fe80:" in guest.run("ip", "-6", "route").stdout
    if mode != "dhcpv6-stateful":
        assert guest.ping("fd00:5::1")


def test_disabled_router(machine):
    """A router that is switched off keeps DHCP and forwards nothing; switched on it forwards again."""
    document = build_cloud()
    network, router = document["networks"][1], document["routers"][0]
    router["enabled"] = False
    result = machine.converge(document)
    assert result["observed"]["routers"][router["id"]] == {"state": "down"}
    guest = machine.add_guest("a", network, network["reservations"][0])
    assert guest.lease()["ip"] == "10.0.0.5"
    assert not guest.ping("172.31.255.1", wait=1)
    router["enabled"] = True
    machine.converge(document)
    assert guest.ping("172.31.255.1")


def test_an_empty_document_leaves_nothing(machine):
    """Links, namespaces, chains, settings and processes are as before; a stranger's are untouched."""
    machine.run("ip", "link", "add", "kbr0123456789a", "type", "bridge")
    before = {
        "links": sorted(machine.links()),
        "rules": machine.run("iptables-save").stdout.count("-A"),
        "forward": machine.run("sysctl", "-n", "net.ipv4.ip_forward").stdout,
    }
    document = build_cloud(tenants=2)
    document["networks"].append(build_network([build_subnet("10.5.0.0/24", None, dhcp_address="10.5.0.2")]))
    add_floating(document["routers"][0], "172.31.255.20", "10.0.0.5")
    machine.converge(document)
    assert len(machine.dnsmasq_pids()) == 3
    machine.converge(EMPTY)
    after = {
        "links": sorted(machine.links()),
        "rules": machine.run("iptables-save").stdout.count("-A"),
        "forward": machine.run("sysctl", "-n", "net.ipv4.ip_forward").stdout,
    }
    assert after == before
    assert "kumo-" not in machine.run("iptables-save").stdout
    assert machine.run("ip", "netns").stdout == ""
    assert machine.dnsmasq_pids() == []


def test_bridge_with_a_guest_is_kept(machine):
    """A bridge on which a guest's tap hangs is an orphan, and goes once the tap has gone."""
    document = build_cloud()
    network = document["networks"][1]
    bridge = "kbr" + network["id"].replace("-", "")[:11]
    machine.converge(document)
    guest = machine.add_guest("a", network, network["reservations"][0])
    result = machine.converge(EMPTY)
    assert result["observed"]["orphans"]["bridges"] == [bridge]
    guest.end()
    machine.converge(EMPTY)
    assert bridge not in machine.links()


def test_check_mode_changes_nothing(machine):
    """Check mode names what would be done, and does none of it."""
    document = build_cloud()
    before = sorted(machine.links())
    result = machine.apply(document, check_mode=True)
    assert {"create_physical", "create_bridge", "create_namespace", "connect", "start"} <= {
        row["verb"] for row in result["actions"]
    }
    assert sorted(machine.links()) == before


def test_one_bad_network_stops_no_other(machine):
    """A network on a physical network that there is not fails by name; its neighbour is served."""
    document = build_cloud()
    bad = build_network([], segmentation={"type": "flat", "physical_network": "nowhere"})
    document["networks"].append(bad)
    result = machine.apply(document)
    assert "nowhere" in result["objects"]["networks"][bad["id"]]["error"]
    network = document["networks"][1]
    assert result["objects"]["dhcp"] == {}
    assert machine.add_guest("a", network, network["reservations"][0]).lease()["ip"] == "10.0.0.5"


def test_vxlan(machine):
    """A VXLAN network floods to its peers and to those only; peers may change."""
    network = build_network([], home=None)
    network["home"] = None
    network["segmentation"] = {"type": "vxlan", "id": 77, "local": "127.0.0.1", "peers": ["192.0.2.7", "192.0.2.8"]}
    machine.converge({"networks": [network], "routers": []})
    network["segmentation"]["peers"] = ["192.0.2.8", "192.0.2.9"]
    machine.converge({"networks": [network], "routers": []})
    name = "kvx" + network["id"].replace("-", "")[:11]
    rows = json.loads(machine.run("bridge", "-j", "fdb", "show", "dev", name).stdout)
    assert sorted(row["dst"] for row in rows if "dst" in row) == ["192.0.2.8", "192.0.2.9"]
