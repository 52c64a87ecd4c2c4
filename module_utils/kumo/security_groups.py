"""Security groups as the host sees them: rules parsed into grants, and grants written as iptables matches.

Pure. A rule that iptables could not hold is refused here with a sentence, so that it never reaches the
transaction that carries every other port's rules (OSSA-2019-001). Next: ``chains.py`` builds the chains.
"""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass

from .errors import KumoError

FAMILIES = {"IPv4": 4, "IPv6": 6}
DIRECTIONS = ("ingress", "egress")
# Names of the Networking API (security group rules, "protocol") and their IANA numbers.
PROTOCOLS = {
    "icmp": 1, "igmp": 2, "ipip": 4, "tcp": 6, "egp": 8, "udp": 17, "dccp": 33, "ipv6-encap": 41,
    "ipv6-route": 43, "ipv6-frag": 44, "rsvp": 46, "gre": 47, "esp": 50, "ah": 51, "icmpv6": 58,
    "ipv6-icmp": 58, "ipv6-nonxt": 59, "ipv6-opts": 60, "ospf": 89, "vrrp": 112, "pgm": 113, "sctp": 132,
    "udplite": 136,
}  # fmt: skip
ANY = (None, "", "any", -1, "-1")
PORTED = {6: "tcp", 17: "udp", 33: "multiport", 132: "multiport", 136: "multiport"}
ICMP = {"IPv4": 1, "IPv6": 58}


@dataclass(frozen=True, order=True)
class Grant:
    """What one rule lets pass: ``low`` and ``high`` are ports, or an ICMP type and code (-1: any).

    ``remote`` is a network in CIDR form or '' for every address; ``group`` the id of a remote group or ''.
    ``protocol`` is an IANA number, -1 for every protocol.
    """

    direction: str
    family: str
    protocol: int = -1
    low: int = -1
    high: int = -1
    remote: str = ""
    group: str = ""


def parse_protocol(value, family: str) -> int:
    """The number of a protocol given by name or number; -1 for any. KumoError where it has none."""
    if value in ANY:
        return -1
    name = str(value).lower()
    number = PROTOCOLS.get(name, int(name) if name.isascii() and name.isdigit() else -1)
    if not 0 < number <= 255:
        raise KumoError(f"protocol {value!r} is not a protocol's name or a number from 1 to 255")
    if family == "IPv6" and number == 1:
        return 58  # the Networking API takes icmp for ICMPv6 where the ethertype is IPv6
    return number


def parse_network(value: str, family: str) -> str:
    """A CIDR or address in the form iptables prints; KumoError where it is none or of the other family."""
    try:
        network = ipaddress.ip_network(str(value), strict=False)
    except ValueError:
        raise KumoError(f"{value!r} is not an address or a CIDR") from None
    if network.version != FAMILIES[family]:
        raise KumoError(f"{value} is not {family}")
    if network.version == 4:
        return str(network)
    # glibc's form, which ip6tables prints: Python writes ::ffff:1.2.3.4 in hexadecimal
    return f"{socket.inet_ntop(socket.AF_INET6, network.network_address.packed)}/{network.prefixlen}"


def _parse_bound(rule: dict, name: str, limit: int) -> int:
    value = rule.get(name)
    if value is None:
        return -1
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= limit:
        raise KumoError(f"{name} {value!r} is not a number from 0 to {limit}")
    return value


def parse_rule(rule: dict) -> Grant:
    """The grant of one rule of the document's ``security_groups``; KumoError says why it cannot be kept."""
    direction, family = rule.get("direction"), rule.get("ethertype")
    if direction not in DIRECTIONS:
        raise KumoError(f"direction {direction!r} is neither ingress nor egress")
    if family not in FAMILIES:
        raise KumoError(f"ethertype {family!r} is neither IPv4 nor IPv6")
    protocol = parse_protocol(rule.get("protocol"), family)
    is_icmp = protocol == ICMP[family]
    limit = 255 if is_icmp else 65535
    low, high = _parse_bound(rule, "port_min", limit), _parse_bound(rule, "port_max", limit)
    if (low, high) != (-1, -1) and not is_icmp and protocol not in PORTED:
        raise KumoError(f"protocol {rule.get('protocol')!r} has no ports, but port_min or port_max is set")
    if is_icmp and low == -1 and high != -1:
        raise KumoError("port_max (the ICMP code) is set without port_min (the type)")
    if is_icmp and family == "IPv4" and low == 255:
        raise KumoError("ICMP type 255 is reserved and cannot be matched")
    if not is_icmp and (low, high) != (-1, -1):
        if low == -1 or high == -1 or low > high:
            raise KumoError(f"port_min {rule.get('port_min')!r} and port_max {rule.get('port_max')!r} are no range")
        if (low, high) == (0, 65535):
            low = high = -1
    remote, group = rule.get("remote_cidr"), rule.get("remote_group")
    if remote and group:
        raise KumoError("remote_cidr and remote_group are both set")
    network = parse_network(remote, family) if remote else ""
    if network.endswith("/0"):
        network = ""
    return Grant(direction, family, protocol, low, high, network, group or "")


def parse_groups(groups: list[dict]) -> tuple[dict[str, list[Grant]], dict[str, list[str]]]:
    """({group id: its grants, sorted, each once}, {group id: [why a rule of it is left out, ...]})."""
    grants: dict[str, list[Grant]] = {}
    faults: dict[str, list[str]] = {}
    for group in groups:
        kept = set()
        for rule in group.get("rules") or []:
            try:
                kept.add(parse_rule(rule))
            except KumoError as error:
                faults.setdefault(group["id"], []).append(f"rule {rule.get('id')}: {error}")
        grants[group["id"]] = sorted(kept)
    return grants, faults


def parse_members(group: dict, family: str) -> tuple[list[str], list[str]]:
    """(the group's addresses of ``family`` as CIDRs, sorted; why others are left out)."""
    members, faults = set(), []
    for address in (group.get("members") or {}).get(family) or []:
        try:
            members.add(parse_network(address, family))
        except KumoError as error:
            faults.append(f"member {error}")
    return sorted(members), faults


def build_match(grant: Grant, remote: str | None = None) -> str:
    """The iptables match of a grant, in the order iptables-save prints it; '' matches everything.

    ``remote`` overrides the grant's network (a member of its remote group).
    """
    address = grant.remote if remote is None else remote
    words = [f"{'-s' if grant.direction == 'ingress' else '-d'} {address}"] if address else []
    if grant.protocol != -1:
        words.append(f"-p {grant.protocol}")
    if grant.low != -1:
        if grant.protocol == ICMP[grant.family]:
            module, option = ("icmp", "icmp-type") if grant.family == "IPv4" else ("icmp6", "icmpv6-type")
            code = f"/{grant.high}" if grant.high != -1 else ""
            words.append(f"-m {module} --{option} {grant.low}{code}")
        else:
            module = PORTED[grant.protocol]
            option = "dports" if module == "multiport" else "dport"
            ports = str(grant.low) if grant.low == grant.high else f"{grant.low}:{grant.high}"
            words.append(f"-m {module} --{option} {ports}")
    return " ".join(words)


def covers(wide: Grant, narrow: Grant) -> bool:
    """Whether everything ``narrow`` lets pass is let pass by ``wide`` too (neither names a group)."""
    if (wide.direction, wide.family) != (narrow.direction, narrow.family) or wide.group or narrow.group:
        return False
    if wide.protocol not in (-1, narrow.protocol):
        return False
    if wide.low != -1:
        if narrow.low == -1:
            return False
        if wide.protocol == ICMP[wide.family]:
            if wide.low != narrow.low or wide.high not in (-1, narrow.high):
                return False
        elif not wide.low <= narrow.low <= narrow.high <= wide.high:
            return False
    if not wide.remote:
        return True
    if not narrow.remote:
        return False
    return ipaddress.ip_network(narrow.remote).subnet_of(ipaddress.ip_network(wide.remote))


def build_target_match(cidr: str) -> str:
    """The u32 match of a neighbour advertisement whose target (RFC 4861, 4.4) is in ``cidr``; '' for all.

    Counted from the IPv6 header, the target is bytes 48 to 63 where no extension header stands between;
    where one does, the match fails, and the packet with it.
    """
    network = ipaddress.IPv6Network(cidr)
    address, mask = network.network_address.packed, network.netmask.packed
    tests = []
    for place in range(0, 16, 4):
        value, bits = (int.from_bytes(part[place : place + 4], "big") for part in (address, mask))
        if bits:
            tests.append(f"0x{48 + place:x}" + (f"&0x{bits:x}" if bits != 0xFFFFFFFF else "") + f"=0x{value:x}")
    return f'-m u32 --u32 "{"&&".join(tests)}"' if tests else ""
