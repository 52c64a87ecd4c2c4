"""One tenant's networks over two hosts: traffic that must pass, and traffic that must not.

Both hosts route, translate, serve DHCP and metadata and answer floating addresses for their own guests. Nothing
here asks what Kumo thinks of it: guests ping and connect, and packets are caught on the wire.
"""

import json
import subprocess
import time

import pytest
from network_lab import PYTHON, add_floating
from two_hosts_lab import OUTSIDE, TUNNELS, Cloud, Site, build_group, build_rule

# tcpdump's words for a frame in a VXLAN packet, up to its type: 8 bytes each of UDP and VXLAN, 12 of addresses.
INNER = "udp port 4789 and udp[28:2] ="


@pytest.fixture
def site():
    made = Site()
    try:
        yield made
    finally:
        made.end()


@pytest.fixture
def pair(site):
    """A tenant with a guest on each host's first network and one on each host's second: (cloud, guests)."""
    cloud = Cloud(site)
    rows = [cloud.add_port(host, 0, network, 5 + host) for host in (0, 1) for network in (0, 1)]
    cloud.converge()
    return cloud, [cloud.start(row) for row in rows]


def count_packets(machine, nic, text, act, namespace=None) -> int:
    """How many frames on a NIC a filter of tcpdump's language matches while ``act`` runs."""
    argv = ["nsenter", "-t", str(machine.pid), "-n", "-m", "--"]
    argv += ["ip", "netns", "exec", namespace] if namespace else []
    argv += ["tcpdump", "-n", "-p", "-l", "-U", "-i", nic, text]
    caught = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        while "listening on" not in caught.stderr.readline():
            assert caught.poll() is None
        act()
        time.sleep(0.3)
        caught.terminate()
        return len([line for line in caught.communicate(timeout=10)[0].splitlines() if line])
    finally:
        caught.kill()


LISTEN = """
import socket, sys
with socket.create_server(("::", int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True) as server:
    while True:
        one, peer = server.accept()
        one.sendall(peer[0].encode())
        one.close()
"""
CONNECT = """
import socket, sys
try:
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), 1.5) as one:
        print(one.recv(100).decode().replace("::ffff:", ""))
except OSError:
    print("refused")
"""


def listen(run, port):
    run("sh", "-c", f"setsid {PYTHON} -c '{LISTEN}' {port} </dev/null >/dev/null 2>&1 &")
    time.sleep(0.3)


def connect(guest, address, port) -> str:
    """Whom the listener saw; "refused" where none answered."""
    return guest.run(PYTHON, "-c", CONNECT, address, str(port)).stdout.strip()


def test_same_network(pair):
    """Guests of one network on two hosts: both families, both directions, packets of full size."""
    _, (first, _, second, _) = pair
    assert first.ping("10.1.0.6")
    assert second.ping("10.1.0.5")
    assert first.ping("fd01::6")
    assert second.ping("fd01::5")
    full = str(1450 - 28)
    done = first.run("ping", "-c", "2", "-M", "do", "-s", full, "10.1.0.6")
    assert "2 received" in done.stdout


def test_routed_between_two_networks(pair):
    """Across the router: each host's namespace knows the other's guests; both families, all directions, TCP."""
    _, (first, near, second, far) = pair
    for one, other in ((first, 6), (second, 5)):
        assert one.ping(f"10.2.0.{other}")
        assert one.ping(f"fd02::{other}")
    assert far.ping("10.1.0.5")
    assert first.ping("10.2.0.5"), "its own host's guest, too"
    assert near.ping("10.1.0.6")
    assert "2 received" in first.run("ping", "-c", "2", "-M", "do", "-s", str(1450 - 28), "10.2.0.6").stdout
    listen(far.run, 80)
    assert connect(first, "10.2.0.6", 80) == "10.1.0.5"
    assert connect(first, "fd02::6", 80) == "fd01::5"
    assert connect(second, "10.2.0.6", 80) == "10.1.0.6"


def test_routed_frames_are_not_flooded(pair):
    """What a router sends to a guest elsewhere goes to that guest, not to every tap of its network."""
    cloud, (first, near, _, _) = pair
    tap = near.tap
    seen = count_packets(cloud.site.hosts[0], tap, "icmp and host 10.2.0.6", lambda: first.ping("10.2.0.6", count=3))
    assert seen == 0


def test_each_host_translates_with_its_own_address(pair):
    """Guests reach outside from both hosts, each by its own host's leg."""
    cloud, (first, _, second, _) = pair
    listen(cloud.site.outside.run, 8080)
    assert connect(first, OUTSIDE, 8080) == "172.31.255.10"
    assert connect(second, OUTSIDE, 8080) == "172.31.255.11"


def test_floating_addresses_on_both_hosts(pair):
    """Each floating address is answered by the host that has its guest, from outside and from the other host."""
    cloud, (first, _, second, _) = pair
    tenant = cloud.tenants[0]
    for host, guest, address in ((0, first, "172.31.255.100"), (1, second, "172.31.255.101")):
        row = add_floating({"floating_ips": []}, address, f"10.1.0.{5 + host}")
        tenant.floating.append((host, row))
        listen(guest.run, 80)
    cloud.converge()
    for address in ("172.31.255.100", "172.31.255.101"):
        assert cloud.site.outside.ping(address)
    assert connect(first, "172.31.255.101", 80) == "172.31.255.100"
    assert connect(second, "172.31.255.100", 80) == "172.31.255.101"
    listen(cloud.site.outside.run, 8080)
    assert connect(first, OUTSIDE, 8080) == "172.31.255.100"
    assert connect(second, OUTSIDE, 8080) == "172.31.255.101"


def test_dhcp_and_metadata_are_the_own_hosts(site):
    """Each guest is answered by its own host, and by nobody else; not a packet of it is on the underlay."""
    cloud = Cloud(site)
    rows = [cloud.add_port(host, 0, 0, 5 + host) for host in (0, 1)]
    cloud.converge()
    guests = [site.hosts[row["host"]].add_guest(row["name"], row["network"], row["reservation"]) for row in rows]
    leaked = count_packets(
        site.outside, "under0", f"{INNER} 0x0800 and udp[39] = 17 and udp[52:2] >= 67 and udp[52:2] <= 68",
        lambda: [guest.lease() for guest in guests],
    )  # fmt: skip
    assert leaked == 0
    for number, guest in enumerate(guests):
        assert f"10.1.0.{5 + number}/24" in guest.run("ip", "-4", "addr", "show", "eth0").stdout
        end = time.monotonic() + 5
        name = ""
        while not name and time.monotonic() < end:
            name = guest.run("curl", "-sfm2", "http://169.254.169.254/latest/meta-data/hostname", check=False).stdout
        assert name.startswith(rows[number]["name"])
    # A guest that the other host knows, and this one does not, is not served here.
    stranger = site.hosts[0].add_guest("stranger", rows[1]["network"], rows[1]["reservation"] | {"port": "f" * 36})
    argv = ["busybox", "udhcpc", "-f", "-q", "-n", "-t", "2", "-T", "1", "-i", "eth0", "-s", "/bin/true"]
    assert stranger.run(*argv, check=False).returncode != 0


def test_nothing_of_the_gateways_crosses(pair):
    """ARP and neighbour discovery for gateways, and router advertisements, stay on each host."""
    cloud, guests = pair
    site = cloud.site
    arp = f"{INNER} 0x0806"
    # From :: guests look whether their own address is free, on all hosts as they must.
    discovery = f"{INNER} 0x86dd and udp[36] = 58 and udp[70] >= 133 and udp[70] <= 137 and udp[38:4] != 0"

    def stir():
        for guest in guests:
            guest.run("ip", "neigh", "flush", "all")
            guest.ping("10.1.0.1")
            guest.ping("fd01::1")
            guest.ping("169.254.169.254")
        for host in site.hosts:
            for family, address in (("-4", "10.1.0.77"), ("-6", "fd01::77")):
                host.run(
                    "ip", "netns", "exec", f"kumo-r-{cloud.tenants[0].router}", "ping", family, "-c1", "-W1", address,
                    check=False,
                )  # fmt: skip

    assert count_packets(site.outside, "under0", arp, stir) == 0
    assert count_packets(site.outside, "under0", discovery, stir) == 0
    # The same filters see what may cross: guests that look for each other.
    guests[0].run("ip", "neigh", "flush", "all")
    assert count_packets(site.outside, "under0", arp, lambda: guests[0].ping("10.1.0.6")) > 0
    guests[0].run("ip", "neigh", "flush", "all")
    assert count_packets(site.outside, "under0", discovery, lambda: guests[0].ping("fd01::6")) > 0


def test_forged_gateways_do_not_move(pair):
    """A frame from the tunnel with a gateway's MAC changes nothing on the other host."""
    cloud, (first, _, second, _) = pair
    site, tenant = cloud.site, cloud.tenants[0]
    network = tenant.networks[0]
    mac = tenant.interfaces[0]["mac"]
    link = "kvx" + network["id"].replace("-", "")[:11]
    peer_mac = second.run("cat", "/sys/class/net/eth0/address").stdout.strip()
    # As an attacker on the first host would, below its filters: straight into the VXLAN device.
    forge = """
import socket, sys
link, gateway, target = sys.argv[1:4]
raw = lambda mac: bytes.fromhex(mac.replace(":", ""))
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); s.bind((link, 0))
arp = bytes.fromhex("00010800060400020000000000000a0100010000000000000a010006")
arp = arp[:8] + raw(gateway) + arp[14:18] + raw(target) + arp[24:]
for _ in range(3):
    s.send(b"\\xff" * 6 + raw(gateway) + b"\\x08\\x06" + arp)
"""
    seen = count_packets(
        site.hosts[1], second.tap, f"arp and ether src {mac}",
        lambda: site.hosts[0].run(PYTHON, "-c", forge, link, mac, peer_mac),
    )  # fmt: skip
    assert seen == 0
    assert second.ping("10.1.0.1")
    assert second.ping("10.2.0.5")
    bridge = "kbr" + network["id"].replace("-", "")[:11]
    rows = json.loads(site.hosts[1].run("bridge", "-j", "fdb", "show", "br", bridge).stdout)
    (at,) = {row["ifname"] for row in rows if row["mac"] == mac and "master" in row}
    assert at.startswith("kvo")
    assert first.ping("10.1.0.6")


def test_tenants_with_the_same_ranges(site):
    """Two tenants with the same addresses over the same two hosts: neither sees a packet of the other."""
    cloud = Cloud(site, tenants=2)
    rows = [[cloud.add_port(host, tenant, 0, 5 + host) for host in (0, 1)] for tenant in (0, 1)]
    lonely = cloud.add_port(0, 1, 0, 9)  # an address that only the second tenant has
    cloud.converge()
    guests = [[cloud.start(row) for row in pair] for pair in rows]
    cloud.start(lonely)
    for number, pair in enumerate(guests):
        listen(pair[1].run, 80)
        listen(pair[1].run, 81 + number)
    for pair in guests:
        assert connect(pair[0], "10.1.0.6", 80) == "10.1.0.5"
        assert connect(pair[0], "fd01::6", 80) == "fd01::5"
    for family in ("10.1.0.6", "fd01::6"):
        assert connect(guests[0][0], family, 82) == "refused"
        assert connect(guests[1][0], family, 81) == "refused"
    for address in ("10.1.0.9", "fd01::9"):
        assert not guests[0][0].ping(address, wait=1)
        assert not guests[0][1].ping(address, wait=1)
        assert guests[1][1].ping(address)
    other = guests[1][1]
    caught = count_packets(
        site.hosts[1], "eth0", "icmp", lambda: guests[0][0].ping("10.1.0.6", count=3), other.namespace
    )  # fmt: skip
    assert caught == 0


def test_security_groups_across_hosts(site):
    """What a group does not allow does not pass; a rule that names a group means its members on any host."""
    cloud = Cloud(site)
    tenant = cloud.tenants[0]
    clients = build_group([build_rule("egress"), build_rule("egress", "IPv6")])
    web = build_group(
        [build_rule("ingress", family, protocol="tcp", port_min=80, port_max=80, remote_group=clients["id"])
         for family in ("IPv4", "IPv6")]
    )  # fmt: skip
    tenant.groups += [clients, web]
    member = cloud.add_port(0, 0, 0, 5, clients)
    routed = cloud.add_port(0, 0, 1, 5, clients)
    stranger = cloud.add_port(0, 0, 0, 7)
    server = cloud.add_port(1, 0, 0, 6, web)
    for row in (member, routed):
        four, six = row["reservation"]["addresses"]
        clients["members"]["IPv4"].append(four)
        clients["members"]["IPv6"].append(six)
    cloud.converge()
    guests = [cloud.start(row) for row in (member, routed, stranger)]
    web_guest = cloud.start(server)
    listen(web_guest.run, 80)
    listen(web_guest.run, 22)
    for address, seen in (("10.1.0.6", ("10.1.0.5", "10.2.0.5")), ("fd01::6", ("fd01::5", "fd02::5"))):
        assert connect(guests[0], address, 80) == seen[0]
        assert connect(guests[1], address, 80) == seen[1]
        assert connect(guests[2], address, 80) == "refused"
        assert connect(guests[0], address, 22) == "refused"
    assert not guests[0].ping("10.1.0.6", wait=1)


def test_spoofed_frames_do_not_reach_the_wire(pair):
    """A guest that sends as the other host's guest, or as nobody, is stopped at its own tap."""
    cloud, (first, _, _, _) = pair
    first.run("ip", "addr", "add", "10.1.0.66/24", "dev", "eth0")
    false = ("ping", "-c2", "-W1", "-I", "10.1.0.66", "10.1.0.6")
    inner = f"{INNER} 0x0800 and udp[42:4] = 0x0a010042"
    assert count_packets(cloud.site.outside, "under0", inner, lambda: first.run(*false, check=False)) == 0
    first.run("ip", "addr", "del", "10.1.0.66/24", "dev", "eth0")
    known = f"{INNER} 0x0800 and udp[42:4] = 0x0a010005"
    assert count_packets(cloud.site.outside, "under0", known, lambda: first.ping("10.1.0.6", count=3)) > 0


def test_tunnels_are_the_hosts_alone(pair):
    """A guest's VXLAN packet to a host's tunnel address reaches no tenant's network, by whichever way it comes."""
    cloud, (first, _, second, _) = pair
    site = cloud.site
    network = cloud.tenants[0].networks[0]
    site.outside.run("ip", "addr", "add", "10.77.0.99/24", "dev", "under")
    site.outside.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    for number, host in enumerate(site.hosts):
        host.run("ip", "route", "add", "172.31.255.0/24", "via", "10.77.0.99")
        assert site.outside.ping(TUNNELS[number])
    send = """
import socket, struct, sys
target, vni, mac = sys.argv[1], int(sys.argv[2]), bytes.fromhex(sys.argv[3].replace(":", ""))
def head(total=0):
    ends = socket.inet_aton("10.1.0.200") + socket.inet_aton("10.1.0.6")
    return struct.pack("!HHHHHH", 0x4500, 28, 0, 0, 0x4001, total) + ends
total = sum(struct.unpack("!10H", head()))
total = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
inner = mac + bytes.fromhex("fa163e9999990800") + head(total) + bytes.fromhex("0800f7ff00000000")
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for _ in range(3):
    s.sendto(struct.pack("!II", 0x08000000, vni << 8) + inner, (target, 4789))
"""
    mac = second.run("cat", "/sys/class/net/eth0/address").stdout.strip()
    argv = [PYTHON, "-c", send, TUNNELS[1], str(network["zone"]), mac]
    watched = (site.hosts[1], second.tap, "ether src fa:16:3e:99:99:99")
    assert count_packets(*watched, lambda: site.outside.run(*argv)) == 0, "from a machine that is no host"
    assert count_packets(*watched, lambda: first.run(*argv, check=False)) == 0, "from a guest"
    host = site.hosts[0]
    assert count_packets(*watched, lambda: host.run(*argv)) > 0, "the test's own packet is a good one"


def test_a_guest_that_moves_is_found_at_once(site):
    """While a port moves (no tunnel on any host) its frames go to all hosts: wherever it runs, it is reached."""
    cloud = Cloud(site)
    still, moving = cloud.add_port(0, 0, 0, 5), cloud.add_port(1, 0, 1, 6)
    documents = [cloud.build_document(host) for host in (0, 1)]
    moving["host"] = 0
    there = cloud.build_document(0)
    for document in documents:
        row = next(n for n in document["networks"] if n["id"] == moving["network"]["id"])
        reservation = moving["reservation"]
        fields = {"port": reservation["port"], "mac": reservation["mac"], "addresses": reservation["addresses"]}
        row["elsewhere"] = [fields | {"tunnel": None}]
        row["reservations"] = [reservation]
    documents[0]["ports"], documents[0]["servers"] = there["ports"], there["servers"]
    for host, document in zip(site.hosts, documents, strict=True):
        host.converge(document)
    moving["host"] = 1
    watcher = cloud.start(still)
    guest = cloud.start(moving)
    assert watcher.ping("10.2.0.6")
    assert guest.ping("10.1.0.5")
    guest.end()
    moving["host"] = 0
    guest = cloud.start(moving)
    assert watcher.ping("10.2.0.6", wait=1)
    assert guest.ping("10.1.0.5")
    cloud.converge()
    assert watcher.ping("10.2.0.6")


def test_a_network_without_a_router(site):
    """Its own namespace is on both hosts; guests reach each other and their own gateway, metadata and DHCP."""
    cloud = Cloud(site)
    tenant = cloud.tenants[0]
    network = tenant.networks[0]
    network["home"] = {"kind": "network", "id": network["id"]}
    tenant.interfaces.pop(0)
    rows = [cloud.add_port(host, 0, 0, 5 + host) for host in (0, 1)]
    cloud.converge()
    guests = [cloud.start(row) for row in rows]
    assert guests[0].ping("10.1.0.6")
    assert guests[1].ping("fd01::5")
    for guest in guests:
        assert guest.ping("10.1.0.1")
        assert guest.ping("169.254.169.254")


@pytest.mark.parametrize(
    "damage",
    [
        "bridge fdb flush dev {vxlan}",
        "ip link del {vxlan}",
        "ip -n {namespace} neigh flush nud permanent",
        "bridge fdb del {mac} dev {outer} master",
        "ebtables -t nat -F",
        "ip6tables -F FORWARD; iptables -F INPUT",
    ],
)
def test_repair(pair, damage):
    """Whatever a hand took away of a network's way to other hosts, the next run brings back."""
    cloud, (first, _, _, far) = pair
    tenant = cloud.tenants[0]
    short = tenant.networks[1]["id"].replace("-", "")[:11]
    leg = tenant.interfaces[1]
    names = {"vxlan": f"kvx{short}", "namespace": f"kumo-r-{tenant.router}", "mac": leg["mac"]}
    names["outer"] = "kvo" + leg["port"].replace("-", "")[:11]
    cloud.site.hosts[0].run("sh", "-c", damage.format(**names))
    assert cloud.converge()[0]["changed"]
    assert first.ping("10.2.0.6")
    assert far.ping("10.1.0.5")


def test_check_mode_and_an_empty_document(site):
    """Check mode names the entries and makes none; an empty document leaves no link, chain or namespace."""
    host = site.hosts[0]
    before = sorted(host.links())
    cloud = Cloud(site)
    cloud.add_port(1, 0, 0, 6)
    document = cloud.build_document(0)
    result = host.apply(document, check_mode=True)
    (diff,) = [one for one in result["diff"] if "neighbours" in one["before_header"] and "10.1.0.6" in one["after"]]
    assert f"to {TUNNELS[1]}" in diff["after"]
    assert sorted(host.links()) == before
    host.converge(document)
    host.converge({"networks": [], "routers": []})
    assert sorted(host.links()) == before
    for tool in ("iptables-save", "ip6tables-save", "ebtables-save"):
        assert "kumo-" not in host.run(tool).stdout


def test_a_host_without_a_tunnel_address_says_so(site):
    """The network fails with a sentence; what else the document holds is brought about."""
    cloud = Cloud(site)
    cloud.add_port(0, 0, 0, 5)
    document = cloud.build_document(0)
    for network in document["networks"][1:]:
        network["segmentation"] |= {"local": None, "peers": []}
    result = site.hosts[0].apply(document)
    for network in document["networks"][1:]:
        assert "has no settings.tunnel_address" in result["objects"]["networks"][network["id"]]["error"]
    assert result["objects"]["networks"][cloud.public["id"]]["ok"]
