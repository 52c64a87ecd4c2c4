"""The firewall's chains, built from the document: anti-spoofing first, then security groups, per port.

Pure: document in, rulesets (as ``iptables.py`` defines them) out, one each for IPv4, IPv6 and Ethernet.
How a packet walks through them:

- Ethernet ``PREROUTING``, before the bridge learns: a tap's frame whose source MAC, ARP sender or kind is
  not its port's goes no further (802.1Q tags and spanning tree included).
- ``raw PREROUTING``: a network's packets get its conntrack zone, so that tenants' ranges may overlap.
- ``filter FORWARD``, on Kumo's bridges only: ``kumo-egress`` sends a tap's packet to its ``kumo-o…`` chain,
  which drops it or returns; ``kumo-ingress`` sends what leaves by a tap to its ``kumo-i…`` chain, which
  accepts it or drops it. A tap that the document does not know passes nothing.
- At the uplink to other hosts, first of all: what uplinks.py says stays on each host.
- ``filter INPUT``: a guest reaches the host's own addresses only on an external network, and unspoofed.

Next: ``firewall.py`` compares these with what is there.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from dataclasses import dataclass, field

from .errors import KumoError
from .names import build_chain_name, build_group_chain_name, build_tap_name, choose_bridge_name
from .security_groups import (
    FAMILIES,
    Grant,
    build_match,
    build_target_match,
    parse_groups,
    parse_members,
    parse_network,
)
from .uplinks import build_guards

BASES = ("bridged", "local", "egress", "ingress", "zones", "frames", "framesout", "uplinks", "uplinksout")
STATEFUL = "-m conntrack --ctstate RELATED,ESTABLISHED"
INVALID = "-m conntrack --ctstate INVALID -j DROP"
MIDSTREAM = "-p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN -m conntrack --ctstate NEW -j DROP"
ANYWHERE = [Grant(direction, family) for direction in ("egress", "ingress") for family in ("IPv4", "IPv6")]
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


@dataclass
class PortFacts:
    """A port as its chains need it; ``sources`` holds the (CIDR, MAC) pairs it may send from, by family."""

    id: str
    bridge: str
    zone: int
    external: bool
    mac: str = ""
    up: bool = True
    secured: bool = True
    sources: dict = field(default_factory=lambda: {"IPv4": [], "IPv6": []})
    grants: list = field(default_factory=list)
    dhcp_servers: list = field(default_factory=list)

    @property
    def tap(self) -> str:
        """Its tap's name."""
        return build_tap_name(self.id)

    def addresses(self) -> list[str]:
        """Every address it may send from, as CIDRs, sorted."""
        return sorted({cidr for pairs in self.sources.values() for cidr, _ in pairs})


def parse_mac(value) -> str:
    """A MAC address in lower case with colons; KumoError where it is none."""
    text = str(value).lower().replace("-", ":")
    if not _MAC.fullmatch(text):
        raise KumoError(f"{value!r} is not a MAC address")
    return text


def build_link_local(mac: str) -> str:
    """The link-local address that IPv6 autoconfiguration makes of a MAC (RFC 4291, appendix A: EUI-64)."""
    octets = bytearray.fromhex(mac.replace(":", ""))
    octets[0] ^= 2
    return str(ipaddress.IPv6Address(b"\xfe\x80" + bytes(6) + bytes(octets[:3]) + b"\xff\xfe" + bytes(octets[3:])))


def _family_of(cidr: str) -> str:
    return "IPv6" if ":" in cidr else "IPv4"


def _add_sources(facts: PortFacts, port: dict, faults: list[str]) -> None:
    macs = {facts.mac}
    wanted = [(address, None) for address in port.get("addresses") or []]
    for pair in port.get("allowed_address_pairs") or []:
        wanted.append((pair.get("address") or pair.get("ip_address"), pair.get("mac") or pair.get("mac_address")))
    pairs = set()
    for address, mac in wanted:
        try:
            mac = parse_mac(mac) if mac else facts.mac
            pairs.add((parse_network(address, _family_of(str(address))), mac))
            macs.add(mac)
        except KumoError as error:
            faults.append(f"address {address!r}: {error}")
    pairs |= {(f"{build_link_local(mac)}/128", mac) for mac in macs}
    for cidr, mac in sorted(pairs):
        facts.sources[_family_of(cidr)].append((cidr, mac))


def parse_ports(document: dict) -> tuple[list[PortFacts], dict[str, list[str]]]:
    """(the document's ports as facts, sorted by id; {port id: [what of it cannot be kept, ...]})."""
    networks = {network["id"]: network for network in document["networks"]}
    grants, group_faults = parse_groups(document["security_groups"])
    found, faults = [], {}
    for port in sorted(document["ports"], key=lambda port: port["id"]):
        wrong = faults.setdefault(port["id"], [])
        network = networks.get(port.get("network"))
        try:
            if network is None:
                raise KumoError(f"network {port.get('network')} is not in the document")
            bridge = choose_bridge_name(network, document["settings"])
        except KumoError as error:
            wrong.append(str(error))
            continue
        external = not network.get("home")
        facts = PortFacts(port["id"], bridge, 0 if external else network.get("zone") or 0, external)
        found.append(facts)
        facts.up = port.get("admin_state_up", True)
        facts.secured = port.get("port_security", True)
        for subnet in network.get("subnets") or []:
            facts.dhcp_servers += [subnet[key] for key in ("gateway_ip", "dhcp_address") if subnet.get(key)]
        try:
            facts.mac = parse_mac(port.get("mac"))
        except KumoError as error:
            wrong.append(f"mac: {error}; the port stays closed")
            facts.up = False
            continue
        _add_sources(facts, port, wrong)
        if not facts.secured:
            facts.grants = list(ANYWHERE)
            continue
        kept: set[Grant] = set()
        for group in port.get("security_groups") or []:
            if group in grants:
                kept.update(grants[group])
                wrong += [f"security group {group}: {fault}" for fault in group_faults.get(group, [])]
            else:
                wrong.append(f"security group {group} is not in the document")
        facts.grants = sorted(kept)
    return found, {port: wrong for port, wrong in faults.items() if wrong}


def build_tag(state_dir: str, default: str) -> str:
    """What sets the base chains of one state directory apart from another's; '' for the usual one."""
    return "" if state_dir == default else "-" + hashlib.sha256(state_dir.encode()).hexdigest()[:6]


def build_base_name(base: str, tag: str) -> str:
    """The name of a chain that belongs to no port (one of BASES)."""
    return f"kumo-{base}{tag}"


def _word(*parts: str) -> str:
    return " ".join(part for part in parts if part)


def _build_egress(port: PortFacts, family: str, members: dict, strict: bool) -> list[str]:
    spoof = build_chain_name("s", port.id)
    mac = f"-m mac --mac-source {port.mac}"
    if family == "IPv4":
        rules = [
            f"-s 0.0.0.0/32 -d 255.255.255.255/32 -p udp -m udp --sport 68 --dport 67 {mac} -j RETURN",
            f"-j {spoof}",
            "-p udp -m udp --dport 68 -j DROP",
            "-p udp -m udp --sport 68 --dport 67 -j RETURN",
        ]
    else:
        rules = ["-p ipv6-icmp -m icmp6 --icmpv6-type 134 -j DROP"]
        for kind in (133, 135, 143):
            rules.append(f"-s ::/128 -d ff02::/16 -p ipv6-icmp -m icmp6 --icmpv6-type {kind} {mac} -j RETURN")
        rules.append(f"-j {spoof}")
        for cidr, _ in port.sources["IPv6"]:
            advertised = _word("-p ipv6-icmp -m icmp6 --icmpv6-type 136", build_target_match(cidr), "-j RETURN")
            if advertised not in rules:
                rules.append(advertised)
        rules.append("-p ipv6-icmp -m icmp6 --icmpv6-type 136 -j DROP")
        rules += [f"-p ipv6-icmp -m icmp6 --icmpv6-type {kind} -j RETURN" for kind in (131, 132, 133, 135, 143)]
        rules += ["-p udp -m udp --dport 546 -j DROP", "-p udp -m udp --sport 546 --dport 547 -j RETURN"]
    rules += [f"{STATEFUL} -j RETURN", INVALID]
    if strict:
        rules.append(MIDSTREAM)
    for grant in port.grants:
        if (grant.direction, grant.family) == ("egress", family):
            remotes = members.get((grant.group, family), []) if grant.group else [None]
            rules += [_word(build_match(grant, remote), "-j RETURN") for remote in remotes]
    return [*rules, "-j DROP"]


def _build_ingress(port: PortFacts, family: str) -> list[str]:
    if family == "IPv4":
        rules = [
            f"-s {server}/32 -p udp -m udp --sport 67 --dport 68 -j ACCEPT"
            for server in sorted({server for server in port.dhcp_servers if ":" not in server})
        ]
    else:
        rules = [f"-p ipv6-icmp -m icmp6 --icmpv6-type {n} -j ACCEPT" for n in (130, 131, 132, 134, 135, 136)]
        rules.append("-s fe80::/10 -p udp -m udp --sport 547 --dport 546 -j ACCEPT")
    rules += [f"{STATEFUL} -j ACCEPT", INVALID]
    for grant in port.grants:
        if (grant.direction, grant.family) == ("ingress", family):
            target = build_group_chain_name(grant.group) if grant.group else "ACCEPT"
            rules.append(_word(build_match(grant), f"-j {target}"))
    return [*rules, "-j DROP"]


def _build_ports(filters: dict, ports: list[PortFacts], family: str, members: dict, strict: set, tag: str) -> None:
    egress, ingress, inbound = (filters[build_base_name(base, tag)] for base in ("egress", "ingress", "local"))
    for port in ports:
        into, out = f"-m physdev --physdev-in {port.tap}", f"-m physdev --physdev-out {port.tap}"
        if not port.up:
            egress.append(f"{into} -j DROP")
            ingress.append(f"{out} -j DROP")
            continue
        if not port.secured:
            egress.append(f"{into} -j RETURN")
            ingress.append(f"{out} -j ACCEPT")
            if port.external:
                inbound.append(f"{into} -j RETURN")
            continue
        i, o, s = (build_chain_name(letter, port.id) for letter in "ios")
        egress.append(f"{into} -g {o}")
        ingress.append(f"{out} -g {i}")
        if port.external:
            inbound.append(f"{into} -g {s}")
        filters[s] = [f"-s {cidr} -m mac --mac-source {mac} -j RETURN" for cidr, mac in port.sources[family]]
        filters[s] = [rule.replace("-s 0.0.0.0/0 ", "").replace("-s ::/0 ", "") for rule in filters[s]] + ["-j DROP"]
        filters[o] = _build_egress(port, family, members, port.id in strict)
        filters[i] = _build_ingress(port, family)
        for grant in port.grants:
            if grant.direction == "ingress" and grant.family == family and grant.group:
                cidrs = members.get((grant.group, family), [])
                filters[build_group_chain_name(grant.group)] = [f"-s {cidr} -j ACCEPT" for cidr in cidrs]
    for chain in (egress, ingress, inbound):
        chain.append("-j DROP")


def _build_forward(ports: list[PortFacts], bridges: list[str], guards: list[dict], family: str, tag: str) -> list[str]:
    egress, ingress = (build_base_name(base, tag) for base in ("egress", "ingress"))
    rules = []
    for guard in guards:
        between = f"-i {guard['bridge']} -m physdev"
        rules.append(f"{between} --physdev-in {guard['uplink']} -j {guard['chain']}")
        rules.append(f"{between} --physdev-out {guard['uplink']} --physdev-is-bridged -j {guard['chain']}")
    for bridge in bridges:
        rules.append(f"-i {bridge} -m physdev --physdev-in ktp+ -j {egress}")
        rules.append(f"-i {bridge} -m physdev --physdev-out ktp+ --physdev-is-bridged -j {ingress}")
    for port in ports:
        if port.external and (port.secured or not port.up):  # what the host itself routes to it is not bridged
            target = f"-g {build_chain_name('i', port.id)}" if port.up else "-j DROP"
            for cidr, _ in port.sources[family]:
                if not cidr.startswith("fe80:"):
                    rules.append(f"-d {cidr} -o {port.bridge} -m physdev ! --physdev-is-bridged {target}")
    return rules + [f"-i {bridge} -m physdev --physdev-is-bridged -j ACCEPT" for bridge in bridges]


def _build_frames(ports: list[PortFacts], guards: list[dict], tag: str) -> dict:
    frames, out = build_base_name("frames", tag), build_base_name("framesout", tag)
    chains: dict[str, list[str]] = {
        "PREROUTING": [f"-i ktp+ -j {frames}"],
        frames: [],
    }
    closed = [port for port in ports if not port.up]
    for port in ports:
        if not port.up or not port.secured:
            chains[frames].append(f"-i {port.tap} -j {'ACCEPT' if port.up else 'DROP'}")
            continue
        spoof = build_chain_name("s", port.id)
        chains[frames].append(f"-i {port.tap} -j {spoof}")
        pairs = sorted({pair for family in FAMILIES for pair in port.sources[family]})
        rules = chains.setdefault(spoof, [])
        for mac in sorted({mac for _, mac in pairs}):
            rules += [f"-p {kind} -s {mac} -j ACCEPT" for kind in ("IPv4", "IPv6", "RARP")]
            rules.append(f"-p ARP -s {mac} --arp-ip-src 0.0.0.0 --arp-mac-src {mac} -j ACCEPT")
        for cidr, mac in port.sources["IPv4"]:
            sender = "" if cidr.endswith("/0") else f"--arp-ip-src {cidr.removesuffix('/32')}"
            rules.append(_word(f"-p ARP -s {mac}", sender, f"--arp-mac-src {mac} -j ACCEPT"))
        rules.append("-j DROP")
    if closed:
        chains["POSTROUTING"] = [f"-o ktp+ -j {out}"]
        chains[out] = [f"-o {port.tap} -j DROP" for port in closed]
    if guards:
        into, out = build_base_name("uplinks", tag), build_base_name("uplinksout", tag)
        links = sorted({re.sub("^(kv[lx]).*", r"\1+", guard["uplink"]) for guard in guards})
        chains["PREROUTING"] += [f"-i {link} -j {into}" for link in links]
        chains.setdefault("POSTROUTING", []).extend(f"-o {link} -j {out}" for link in links)
        chains[into] = [f"-i {guard['uplink']} -j {guard['chain']}" for guard in guards]
        chains[out] = [f"-o {guard['uplink']} -j {guard['chain']}" for guard in guards]
        chains |= {guard["chain"]: guard["Ethernet"] for guard in guards}
    return {"nat": chains}


def build_rulesets(document: dict, ports: list[PortFacts], strict: set[str], tag: str) -> dict[str, dict]:
    """{IPv4|IPv6|Ethernet: ruleset} for the facts of ``parse_ports``; empty rulesets where there is no network.

    ``strict`` holds the ids of ports from which a TCP packet in mid-stream opens no new flow.
    """
    zones, bridges, known = [], [], []
    for network in sorted(document["networks"], key=lambda network: network["id"]):
        try:
            bridge = choose_bridge_name(network, document["settings"])
        except KumoError:  # told at its ports
            continue
        known.append(network)
        if bridge not in bridges:
            bridges.append(bridge)
        if network.get("home") and network.get("zone"):
            zones.append(f"-i {bridge} -j CT --zone {network['zone']}")
    rulesets: dict[str, dict] = {"IPv4": {}, "IPv6": {}, "Ethernet": {}}
    if not bridges:
        return rulesets
    guards = build_guards({**document, "networks": known})
    forward, inbound, zone = (build_base_name(base, tag) for base in ("bridged", "local", "zones"))
    for family in FAMILIES:
        members = {(g["id"], family): parse_members(g, family)[0] for g in document["security_groups"]}
        filters: dict[str, list[str]] = {build_base_name(base, tag): [] for base in ("egress", "ingress", "local")}
        filters["FORWARD"] = [f"-j {forward}"]
        filters["INPUT"] = [f"-i {bridge} -m physdev --physdev-in ktp+ -j {inbound}" for bridge in bridges]
        filters[forward] = _build_forward(ports, bridges, guards, family, tag)
        filters |= {guard["chain"]: guard[family] for guard in guards}
        _build_ports(filters, ports, family, members, strict, tag)
        rulesets[family] = {"filter": filters, "raw": {"PREROUTING": [f"-j {zone}"], zone: zones}}
    rulesets["Ethernet"] = _build_frames(ports, guards, tag)
    return rulesets
