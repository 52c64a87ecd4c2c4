"""The firewall with real packets: namespaces as guests on the bridges of a simulated host (firewall_lab.py)."""

import copy
import socket
import struct
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from firewall_lab import (
    COUNTED,
    Lab,
    allow_out,
    connects,
    echoes_udp,
    names,
    pings,
    receives,
    rule,
    run,
)

TCP22 = {"protocol": "tcp", "port_min": 22, "port_max": 22}


@pytest.fixture
def lab(tmp_path):
    """A simulated host, removed afterwards."""
    made = Lab(tmp_path / "state")
    yield made
    made.close()


def _settled(lab):
    """The document was applied without a fault, and a second run finds nothing to do."""
    result = lab.apply()
    assert all(row["ok"] for row in result["objects"]["firewall"].values()), result["objects"]
    assert lab.apply()["actions"] == []
    return result


def test_default_group_blocks_ingress_and_rules_open_it(lab):
    """Nothing reaches a guest until a rule lets it; its own connections work; the second run has no actions."""
    network = lab.network()
    group = lab.group(*allow_out())
    _, web = lab.guest(network, "10.0.0.5", group)
    gateway = lab.gateway(network, "10.0.0.1")
    assert pings(gateway, "10.0.0.5")
    _settled(lab)
    lab.listen(web, 22)
    lab.listen(web, 80)
    lab.listen(gateway, 80)
    assert not pings(gateway, "10.0.0.5", tries=1)
    assert not connects(gateway, "10.0.0.5", 22)
    assert connects(web, "10.0.0.1", 80)
    assert pings(web, "10.0.0.1")
    group["rules"] += [rule(**TCP22), rule(protocol="icmp", port_min=8, port_max=0)]
    _settled(lab)
    assert connects(gateway, "10.0.0.5", 22)
    assert pings(gateway, "10.0.0.5")
    assert not connects(gateway, "10.0.0.5", 80)


def test_egress_rules_are_kept(lab):
    """Without egress rules a guest opens nothing (the metadata address included) but still answers."""
    network = lab.network()
    group = lab.group(rule(**TCP22))
    _, web = lab.guest(network, "10.0.0.5", group)
    gateway = lab.gateway(network, "10.0.0.1")
    _settled(lab)
    lab.listen(web, 22)
    lab.listen(gateway, 80)
    assert not connects(web, "10.0.0.1", 80)
    assert connects(gateway, "10.0.0.5", 22)
    group["rules"].append(rule("egress", protocol="tcp", port_min=80, port_max=81, remote_cidr="10.0.0.0/24"))
    _settled(lab)
    assert connects(web, "10.0.0.1", 80)


def test_remote_group_follows_its_members(lab):
    """A rule that names a group lets in its members and nobody else; a member that leaves loses its flow."""
    network = lab.network()
    clients = lab.group(*allow_out())
    servers = lab.group(*allow_out(), rule(protocol="tcp", port_min=22, port_max=22, remote_group=clients["id"]))
    _, db = lab.guest(network, "10.0.0.5", servers)
    _, friend = lab.guest(network, "10.0.0.6", clients)
    _, stranger = lab.guest(network, "10.0.0.7", servers)
    clients["members"]["IPv4"] = ["10.0.0.6"]
    servers["members"]["IPv4"] = ["10.0.0.5", "10.0.0.7"]
    _settled(lab)
    lab.listen(db, 22)
    assert connects(friend, "10.0.0.5", 22)
    assert not connects(stranger, "10.0.0.5", 22)
    flow = Flow(friend, "10.0.0.5", 22)
    assert flow.works()
    clients["members"]["IPv4"] = ["10.0.0.7"]
    _settled(lab)
    assert not flow.works()
    assert connects(stranger, "10.0.0.5", 22)
    flow.close()


class Flow:
    """A TCP connection held open from a namespace."""

    def __init__(self, namespace, address, port):
        source = f"""
            import socket, sys
            s = socket.create_connection(({address!r}, {port}), 3); s.settimeout(1)
            print("up", flush=True)
            for line in sys.stdin:
                try: s.sendall(b"x"); print(s.recv(10) != b"", flush=True)
                except OSError: print(False, flush=True)
        """
        command = ["ip", "netns", "exec", namespace, "/usr/bin/python3", "-c", textwrap.dedent(source)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout.readline() == "up\n"

    def works(self):
        """Whether a byte comes back."""
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return self.process.stdout.readline() == "True\n"

    def close(self):
        """End it."""
        self.process.kill()
        self.process.wait(5)
        self.process.stdin.close()
        self.process.stdout.close()


def test_s19_revoked_rule_ends_established_flow(lab):
    """OpenStack's old fault: a flow outlived its rule. It ends in the run that takes the rule; others go on."""
    network = lab.network()
    group = lab.group(*allow_out(), rule(**TCP22), rule(protocol="tcp", port_min=80, port_max=80))
    _, web = lab.guest(network, "10.0.0.5", group)
    gateway = lab.gateway(network, "10.0.0.1")
    _settled(lab)
    lab.listen(web, 22)
    lab.listen(web, 80)
    revoked, kept = Flow(gateway, "10.0.0.5", 22), Flow(gateway, "10.0.0.5", 80)
    assert revoked.works()
    assert kept.works()
    group["rules"] = [row for row in group["rules"] if row["port_min"] != 22]
    _settled(lab)
    assert not revoked.works()
    # the guest's own retransmissions must not open it again
    time.sleep(1)
    assert not revoked.works()
    assert kept.works()
    listing = run("conntrack", "-L", "-p", "tcp", "--dport", "22", namespace=lab.name, check=False).stdout
    assert "ESTABLISHED" not in listing
    revoked.close()
    kept.close()


def test_s19_revocation_survives_a_killed_run(lab, tmp_path):
    """Chains already replaced but flows not yet removed (kill -9 in between): the next run removes them."""
    network = lab.network()
    group = lab.group(*allow_out(), rule(**TCP22))
    _, web = lab.guest(network, "10.0.0.5", group)
    gateway = lab.gateway(network, "10.0.0.1")
    _settled(lab)
    lab.listen(web, 22)
    record = tmp_path / "state" / "firewall.json"
    before = record.read_text()
    group["rules"].pop()
    lab.apply()
    record.write_text(before)
    group["rules"].append(rule(**TCP22))
    lab.apply()
    flow = Flow(gateway, "10.0.0.5", 22)
    group["rules"].pop()
    lab.apply()
    record.write_text(before)
    assert [row["verb"] for row in lab.apply()["actions"]] == ["replace_chains"]
    assert not flow.works()
    assert lab.apply()["actions"] == []
    flow.close()


def test_s22_recycled_address_carries_no_flow(lab):
    """A port that is gone leaves no conntrack entry for the next guest with its address."""
    network = lab.network()
    group = lab.group(*allow_out(), rule(**TCP22))
    _, web = lab.guest(network, "10.0.0.5", group)
    gateway = lab.gateway(network, "10.0.0.1")
    _settled(lab)
    lab.listen(web, 22)
    assert connects(gateway, "10.0.0.5", 22)
    assert "10.0.0.5" in run("conntrack", "-L", namespace=lab.name).stdout
    lab.document["ports"] = []
    _settled(lab)
    assert "10.0.0.5" not in run("conntrack", "-L", namespace=lab.name).stdout
    assert not pings(web, "10.0.0.1", tries=1)  # its tap still hangs there, but nobody knows it


def test_s18_odd_rule_blocks_nobody_else(lab):
    """OSSA-2019-001: a port with a port-less protocol is its group's fault alone; the other rules are applied."""
    network = lab.network()
    odd = lab.group(*allow_out(), rule(protocol="112", port_min=1, port_max=2), rule(**TCP22))
    even = lab.group(*allow_out(), rule(**TCP22))
    odd_port, odd_guest = lab.guest(network, "10.0.0.5", odd)
    even_port, even_guest = lab.guest(network, "10.0.0.6", even)
    gateway = lab.gateway(network, "10.0.0.1")
    result = lab.apply()
    results = result["objects"]["firewall"]
    assert "112" in results[odd_port["id"]]["error"]
    assert odd["id"] in results[odd_port["id"]]["error"]
    assert results.get(even_port["id"], {"ok": True})["ok"]
    assert results.get("host", {"ok": True})["ok"]
    for guest, address in ((odd_guest, "10.0.0.5"), (even_guest, "10.0.0.6")):
        lab.listen(guest, 22)
        assert connects(gateway, address, 22)
    assert lab.apply()["actions"] == []


def _mac(text):
    return bytes.fromhex(text.replace(":", ""))


def _ipv4(source, target, protocol, payload):
    head = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 1, 0, 64, protocol, 0,
        socket.inet_aton(source), socket.inet_aton(target),
    )  # fmt: skip
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    return head[:10] + struct.pack("!H", ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF) + head[12:] + payload


def _udp(source, target, payload):
    return struct.pack("!HHHH", source, target, 8 + len(payload), 0) + payload


def _arp(mac, address, target, operation=2):
    head = struct.pack("!HHBBH", 1, 0x800, 6, 4, operation)
    return head + _mac(mac) + socket.inet_aton(address) + bytes(6) + socket.inet_aton(target)


def _ipv6_icmp(source, target, body):
    source, target = (socket.inet_pton(socket.AF_INET6, address) for address in (source, target))
    pseudo = source + target + struct.pack("!II", len(body), 58) + body[:2] + b"\0\0" + body[4:]
    total = sum(struct.unpack(f"!{len(pseudo) // 2}H", pseudo))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    body = body[:2] + struct.pack("!H", ~total & 0xFFFF) + body[4:]
    return struct.pack("!IHBB", 6 << 28, len(body), 58, 255) + source + target + body


def _advertisement(target, mac):
    return b"\x88\0\0\0\x20\0\0\0" + socket.inet_pton(socket.AF_INET6, target) + b"\x02\x01" + _mac(mac)


BAD = "fa:16:3e:66:66:66"
MARK = b"kumo-spoof-mark!"


def _spoof_cases(mac, other):
    """name: (frame, marker, whether the other side may see it)."""
    broadcast, victim = b"\xff" * 6, _mac(other)
    payload = _udp(1000, 1000, MARK)
    own_ll = "fe80::f816:3eff:fe00:1"

    def frame(target, source, kind, body):
        return target + _mac(source) + struct.pack("!H", kind) + body

    advertise = frame(b"\x33\x33\0\0\0\x01", mac, 0x86DD, b"")
    router = b"\x86\0\0\0\x40\0\x07\x08" + bytes(8) + b"\x01\x01" + _mac(mac)
    mtu = b"\x05\x01\0\0\0\0\x05\xdc"
    arp_bad = _arp(mac, "10.0.0.1", "10.0.0.9")
    return {
        "honest": (frame(victim, mac, 0x800, _ipv4("10.0.0.5", "10.0.0.6", 17, payload)), MARK, True),
        "pair": (frame(victim, mac, 0x800, _ipv4("10.0.0.99", "10.0.0.6", 17, payload)), MARK, True),
        "ip": (frame(victim, mac, 0x800, _ipv4("10.0.0.7", "10.0.0.6", 17, payload)), MARK, False),
        "mac": (frame(victim, BAD, 0x800, _ipv4("10.0.0.5", "10.0.0.6", 17, payload)), MARK, False),
        "arp honest": (
            frame(broadcast, mac, 0x806, _arp(mac, "10.0.0.5", "10.0.0.9")), _arp(mac, "10.0.0.5", "10.0.0.9"), True),
        "arp sender ip": (frame(broadcast, mac, 0x806, arp_bad), arp_bad, False),
        "arp sender mac": (
            frame(broadcast, mac, 0x806, _arp(BAD, "10.0.0.5", "10.0.0.9")), _arp(BAD, "10.0.0.5", "10.0.0.9"), False),
        "dhcp server": (
            frame(broadcast, mac, 0x800, _ipv4("10.0.0.5", "255.255.255.255", 17, _udp(67, 68, MARK))), MARK, False),
        "dhcp client": (
            frame(broadcast, mac, 0x800, _ipv4("0.0.0.0", "255.255.255.255", 17, _udp(68, 67, MARK))), MARK, None),
        "router advertisement": (
            advertise + _ipv6_icmp(own_ll, "ff02::1", router + mtu), mtu, False),
        "neighbour honest": (
            advertise + _ipv6_icmp(own_ll, "ff02::1", _advertisement("fd00::5", mac)),
            socket.inet_pton(socket.AF_INET6, "fd00::5") + b"\x02\x01" + _mac(mac), True),
        "neighbour target": (
            advertise + _ipv6_icmp(own_ll, "ff02::1", _advertisement("fd00::1", mac)),
            socket.inet_pton(socket.AF_INET6, "fd00::1") + b"\x02\x01", False),
        "ipv6 source": (
            advertise + _ipv6_icmp("fd00::77", "ff02::1", b"\x80\0\0\0" + MARK), MARK, False),
        "vlan tag": (
            frame(victim, mac, 0x8100, struct.pack("!HH", 5, 0x800) + _ipv4("10.0.0.7", "10.0.0.6", 17, payload)),
            MARK, False),
        "spanning tree": (_mac("01:80:c2:00:00:0f") + _mac(mac) + struct.pack("!H", 0x88CC) + MARK, MARK, False),
    }  # fmt: skip


def test_s20_spoofed_frames_are_dropped(lab):
    """MAC, IP, ARP, DHCP server, router and neighbour advertisement, VLAN: dropped; the honest forms pass."""
    network = lab.network(v6="fd00::/64")
    group = lab.group(*allow_out())
    everything = lab.group(*allow_out(), rule(), rule(ethertype="IPv6"))
    pairs = [{"mac": None, "address": "10.0.0.99"}]
    port, guest = lab.guest(network, "10.0.0.5", group, v6="fd00::5", allowed_address_pairs=pairs)
    other, victim = lab.guest(network, "10.0.0.6", everything, v6="fd00::6")
    gateway = lab.gateway(network, "10.0.0.1", "fd00::1")
    cases = _spoof_cases(port["mac"], other["mac"])
    unfiltered = {name: receives(victim, guest, frame, marker) for name, (frame, marker, _) in cases.items()}
    assert all(seen for name, seen in unfiltered.items() if name not in ("spanning tree",)), unfiltered
    run("ip", "-n", lab.name, "link", "set", names.build_bridge_name(network["id"]), "type", "bridge", "fdb_flush")
    _settled(lab)
    seen = {name: receives(victim, guest, frame, marker) for name, (frame, marker, _) in cases.items()}
    expected = {name: seen[name] if may is None else may for name, (_, _, may) in cases.items()}
    assert seen == expected
    frame, marker, _ = cases["dhcp client"]
    assert receives(gateway, guest, frame, marker), "a guest's own DHCP request must reach its gateway"
    reply = b"\xff" * 6 + _mac("fa:16:3e:ff:00:03") + b"\x08\x00"
    reply += _ipv4("10.0.0.1", "255.255.255.255", 17, _udp(67, 68, MARK))
    assert receives(guest, gateway, reply, MARK), "the gateway's DHCP answer must reach the guest"
    table = run("bridge", "-n", lab.name, "fdb", "show").stdout
    assert BAD not in table, "the bridge must not have learnt a spoofed MAC"


def test_overlapping_ranges_on_two_networks(lab):
    """Two tenants with the same addresses: each flow is its own (conntrack zones), and each rule its own."""
    guests = []
    for zone, port in ((21, 22), (22, 80)):
        network = lab.network(zone=zone)
        group = lab.group(*allow_out(), rule(protocol="tcp", port_min=port, port_max=port))
        _, guest = lab.guest(network, "10.0.0.5", group)
        guests.append((guest, lab.gateway(network, "10.0.0.1")))
    _settled(lab)
    for guest, _ in guests:
        lab.listen(guest, 22)
        lab.listen(guest, 80)
    for index, (_, gateway) in enumerate(guests):
        assert connects(gateway, "10.0.0.5", 22) == (index == 0)
        assert connects(gateway, "10.0.0.5", 80) == (index == 1)
    listing = run("conntrack", "-L", namespace=lab.name).stdout
    assert "zone=21" in listing
    assert "zone=22" in listing
    flow = Flow(guests[1][1], "10.0.0.5", 80)
    lab.document["security_groups"][0]["rules"] = allow_out()
    _settled(lab)
    assert flow.works(), "the other tenant's flow of the same addresses goes on"
    flow.close()


def test_ipv6_is_filtered_alike(lab):
    """The same rules for IPv6: nothing in by default, icmpv6 and tcp by rule, neighbour discovery always."""
    network = lab.network(v6="fd00::/64")
    group = lab.group(*allow_out())
    _, web = lab.guest(network, "10.0.0.5", group, v6="fd00::5")
    gateway = lab.gateway(network, "10.0.0.1", "fd00::1")
    _settled(lab)
    lab.listen(web, 22, "AF_INET6")
    lab.listen(gateway, 80, "AF_INET6")
    assert connects(web, "fd00::1", 80)
    assert not connects(gateway, "fd00::5", 22)
    assert not pings(gateway, "fd00::5", tries=1)
    group["rules"] += [
        rule(ethertype="IPv6", **TCP22),
        rule(ethertype="IPv6", protocol="icmpv6", port_min=128, port_max=0),
    ]
    _settled(lab)
    assert connects(gateway, "fd00::5", 22)
    assert pings(gateway, "fd00::5")
    flow = Flow(gateway, "fd00::5", 22)
    group["rules"] = allow_out()
    _settled(lab)
    assert not flow.works()
    flow.close()


def test_flushed_chains_and_jumps_come_back(lab):
    """Another tool flushed (iptables -F, -t raw -F, ebtables): the next run repairs it and says so."""
    network = lab.network()
    group = lab.group(*allow_out())
    _, _ = lab.guest(network, "10.0.0.5", group)
    gateway = lab.gateway(network, "10.0.0.1")
    _settled(lab)
    whole = {tool: lab.save(tool) for tool in ("iptables", "ip6tables", "ebtables")}
    for command in ("iptables -F", "ip6tables -F FORWARD", "iptables -t raw -F", "ebtables -t nat -F PREROUTING"):
        run(*command.split(), namespace=lab.name)
        assert [row["verb"] for row in lab.apply()["actions"]] == ["replace_chains"], command
        assert {tool: lab.save(tool) for tool in whole} == whole, command
        assert not pings(gateway, "10.0.0.5", tries=1)
    run("iptables", "-I", "FORWARD", "-j", "ACCEPT", namespace=lab.name)
    run("sysctl", "-qw", "net.bridge.bridge-nf-call-iptables=0", namespace=lab.name)
    assert [row["verb"] for row in lab.apply()["actions"]] == ["filter_bridges"]


def test_nothing_else_changes_and_an_empty_document_removes_all(lab, tmp_path):
    """Rules of others stay byte for byte; without networks and ports nothing of Kumo is left."""
    for text in ("-A FORWARD -s 192.0.2.0/24 -j DROP", "-A INPUT -p tcp -m tcp --dport 4 -j ACCEPT"):
        run("iptables", *text.split(), namespace=lab.name)
    run("iptables", "-t", "raw", "-N", "other", namespace=lab.name)
    run("iptables", "-N", "kumo-someone", namespace=lab.name)
    run("iptables", "-t", "nat", "-A", "POSTROUTING", "-o", "eth9", "-j", "MASQUERADE", namespace=lab.name)
    run("sysctl", "-qw", "net.bridge.bridge-nf-call-iptables=0", namespace=lab.name)
    tools = ("iptables", "ip6tables", "ebtables")
    before = {tool: lab.save(tool) for tool in tools}
    network = lab.network()
    closed = lab.group(*allow_out())
    lab.guest(network, "10.0.0.5", closed, lab.group(rule(**TCP22, remote_group=closed["id"])))
    lab.guest(network, "10.0.0.6", closed, admin_state_up=False)
    plan = lab.apply(check=True)
    assert plan["changed"]
    assert {tool: lab.save(tool) for tool in tools} == before, "check mode changes nothing"
    _settled(lab)

    def foreign(text):
        lines = [line for line in text.splitlines() if "kumo-" not in line or "kumo-someone" in line]
        return [line for line in lines if line[0] == "-"]

    assert {tool: foreign(lab.save(tool)) for tool in tools} == {tool: foreign(text) for tool, text in before.items()}
    empty = copy.deepcopy(lab.document)
    empty.update(networks=[], ports=[], security_groups=[])
    lab.apply(empty)
    assert lab.apply(empty)["actions"] == []
    for tool in tools:
        assert [line for line in lab.save(tool).splitlines() if "kumo-" in line] == (
            [":kumo-someone - [0:0]"] if tool == "iptables" else []
        )
        assert foreign(lab.save(tool)) == foreign(before[tool])
    value = run("sysctl", "-n", "net.bridge.bridge-nf-call-iptables", namespace=lab.name).stdout
    assert value == "0\n", "the setting is what it was"


@pytest.mark.parametrize(
    ("fields", "passes"),
    [({"port_security": False}, True), ({"admin_state_up": False}, False), ({}, False)],
    ids=["no port security", "down", "usual"],
)
def test_port_switches(lab, fields, passes):
    """port_security false lets everything through, admin_state_up false nothing, in both directions."""
    network = lab.network()
    port, guest = lab.guest(network, "10.0.0.5", lab.group(*allow_out()), **fields)
    gateway = lab.gateway(network, "10.0.0.1")
    _settled(lab)
    assert pings(gateway, "10.0.0.5", tries=3 if passes else 1) == passes
    assert pings(guest, "10.0.0.1", tries=1) == (fields.get("admin_state_up", True))
    if passes:
        run("ip", "-n", guest, "addr", "add", "10.0.0.55/24", "dev", "eth0")
        assert pings(guest, "10.0.0.1", "-I", "10.0.0.55")
    if "admin_state_up" in fields:
        port["admin_state_up"] = True
        _settled(lab)
        assert pings(guest, "10.0.0.1")


def test_traffic_of_others_passes(lab):
    """A bridge that is not Kumo's, on the same host, is not filtered."""
    network = lab.network()
    lab.guest(network, "10.0.0.5", lab.group())
    foreign = lab.network(cidr="10.5.0.0/24", gateway=None)
    lab.document["networks"].remove(foreign)
    one, two = lab.gateway(foreign, "10.5.0.1"), lab.gateway(foreign, "10.5.0.2")
    _settled(lab)
    lab.listen(two, 80, kind="udp")
    assert pings(one, "10.5.0.2")
    assert echoes_udp(one, "10.5.0.2", 80)


def test_every_form_of_rule_is_written_as_iptables_prints_it(lab):
    """Each protocol and range of the Networking API: applied, and the second run sees no difference."""
    forms = [
        {"protocol": p, "port_min": low, "port_max": high}
        for p in ("tcp", "udp", "sctp", "udplite", "dccp")
        for low, high in ((1, 1), (1, 65535), (0, 65535), (0, 5), (22, 23), (None, None), (0, 0))
    ]
    others = "ah egp esp gre igmp ipip ipv6-encap ipv6-frag ipv6-icmp ipv6-nonxt ipv6-opts ipv6-route ospf pgm rsvp"
    forms += [{"protocol": p} for p in (*others.split(), "vrrp", "icmp", "icmpv6", "255", "253", 112, 6)]
    rules = [rule(d, f, **form) for form in forms for f in ("IPv4", "IPv6") for d in ("ingress", "egress")]
    for low, high in ((8, None), (8, 0), (3, 4), (0, 0), (254, 255)):
        rules += [rule(protocol="icmp", port_min=low, port_max=high)]
        rules += [rule("egress", "IPv6", protocol="icmpv6", port_min=low, port_max=high)]
    cidrs = (("IPv4", "10.1.2.3/8"), ("IPv4", "10.1.2.3/32"), ("IPv4", "0.0.0.0/0"), ("IPv6", "2001:DB8::1/64"),
             ("IPv6", "::/0"), ("IPv6", "::ffff:1.2.3.4/128"), ("IPv6", "2001:db8:0:1:1:1:1:1/128"))  # fmt: skip
    rules += [rule(d, f, remote_cidr=c, **TCP22) for f, c in cidrs for d in ("ingress", "egress")]
    group = lab.group(*rules, IPv4=["10.0.0.5"], IPv6=["fd00::5"])
    group["rules"] += [rule(d, f, remote_group=group["id"]) for d in ("ingress", "egress") for f in ("IPv4", "IPv6")]
    pairs = [{"mac": "FA:16:3E:0A:0B:0C", "address": "10.9.0.0/16"}, {"mac": None, "address": "fd01:0:0:5::/50"},
             {"mac": None, "address": "0.0.0.0/0"}, {"mac": None, "address": "::/0"}]  # fmt: skip
    network = lab.network(v6="fd00::/64")
    lab.guest(network, "10.0.0.5", group, v6="fd00::5", allowed_address_pairs=pairs)
    _settled(lab)


def test_ten_ports_take_no_more_commands_than_one(lab):
    """One save and one restore per family, however many ports; nothing is restored where nothing differs."""
    network = lab.network()
    group = lab.group(*allow_out(), *[rule(protocol="tcp", port_min=n, port_max=n) for n in range(20, 30)])
    row, _ = lab.guest(network, "10.0.0.5", group)
    one = lab.apply(drive=COUNTED)["commands"]
    assert [one.count(f"{tool}-restore") for tool in ("iptables", "ip6tables")] == [1, 1]
    for number in range(6, 15):
        ident = f"{number:08x}{row['id'][8:]}"
        lab.document["ports"].append({**row, "id": ident, "addresses": [f"10.0.0.{number}"]})
    lab.document["ports"].sort(key=lambda port: port["id"])
    assert sorted(lab.apply(drive=COUNTED)["commands"]) == sorted(one)
    again = lab.apply(drive=COUNTED)["commands"]
    assert not [command for command in again if command.endswith("restore")]
    assert names.build_tap_name(row["id"]) in lab.save()
