"""What a security group's rule says about protocol, ports and ranges. Pure; hosts get names or plain numbers.

Source: Network API reference, "Security group rules"; protocol numbers: IANA. A port with a protocol that
has none is refused here (security case 18). Next room: `security_group_rules.py`.
"""

from __future__ import annotations

import ipaddress

from ...errors import BadRequest
from .ranges import parse_network

NUMBERS = {
    "icmp": 1,
    "igmp": 2,
    "ipip": 4,
    "tcp": 6,
    "egp": 8,
    "udp": 17,
    "dccp": 33,
    "ipv6-encap": 41,
    "ipv6-route": 43,
    "ipv6-frag": 44,
    "rsvp": 46,
    "gre": 47,
    "esp": 50,
    "ah": 51,
    "ipv6-icmp": 58,
    "ipv6-nonxt": 59,
    "ipv6-opts": 60,
    "ospf": 89,
    "vrrp": 112,
    "pgm": 113,
    "sctp": 132,
    "udplite": 136,
}
NAMES = {number: name for name, number in NUMBERS.items()}
WITH_PORTS = ("tcp", "udp", "dccp", "sctp", "udplite")
ICMP = ("icmp", "ipv6-icmp")


def parse_protocol(given: str | int | None, ethertype: str) -> str | None:
    """The protocol's name, its number as text where it has none, None for any; BadRequest where it is no protocol."""
    if given is None or str(given).lower() in ("any", ""):
        return None
    text = str(given).lower()
    if text == "icmpv6":
        text = "ipv6-icmp"
    if text.isdecimal() and len(text) <= 3 and int(text) <= 255:
        text = NAMES.get(int(text), str(int(text)))
    elif text not in NUMBERS:
        raise BadRequest(
            f"Security group rule protocol {given} not supported. Only protocol values "
            f"{', '.join(NUMBERS)} and integer representations [0 to 255] are supported.",
            kind="SecurityGroupRuleInvalidProtocol",
        )
    if text == "icmp" and ethertype == "IPv6":
        return "ipv6-icmp"
    if text.startswith("ipv6-") and text != "ipv6-encap" and ethertype == "IPv4":
        raise BadRequest(
            f"Invalid ethertype {ethertype} for protocol {given}.", kind="SecurityGroupEthertypeConflictWithProtocol"
        )
    return text


def check_ports(protocol: str | None, least: int | None, most: int | None) -> None:
    """BadRequest where the range (for ICMP: type and code) does not fit the protocol."""
    if least is None and most is None:
        return
    if protocol is None:
        raise BadRequest(
            "Must also specify protocol if port range is given.", kind="SecurityGroupProtocolRequiredWithPorts"
        )
    if protocol in WITH_PORTS:
        for value in (least, most):
            if value is not None and not 1 <= value <= 65535:
                raise BadRequest(f"Invalid value for port {value}", kind="SecurityGroupInvalidPortValue")
        if least is None or most is None or least > most:
            raise BadRequest(
                "For TCP/UDP protocols, port_range_min must be <= port_range_max", kind="SecurityGroupInvalidPortRange"
            )
    elif protocol in ICMP:
        for name, value in (("type", least), ("code", most)):
            if value is not None and not 0 <= value <= 255:
                raise BadRequest(
                    f"Invalid value for ICMP {name} (port_range_{'min' if name == 'type' else 'max'}) {value}. "
                    "It must be 0 to 255.",
                    kind="SecurityGroupInvalidICMPValue",
                )
        if least is None:
            raise BadRequest(
                f"ICMP code (port-range-max) {most} is provided but ICMP type (port-range-min) is missing.",
                kind="SecurityGroupMissingICMPType",
            )
    else:
        raise BadRequest(
            f"Invalid port_range_min or port_range_max: protocol {protocol} has no ports; they are for "
            f"{', '.join(WITH_PORTS)} and ICMP.",
            kind="SecurityGroupInvalidProtocolForPort",
        )


def parse_prefix(given: str | None, ethertype: str) -> str | None:
    """The range as it was given, of a single address too; BadRequest where it is of the other IP version."""
    if not given:
        return None
    network = parse_network(given, "remote_ip_prefix")
    if network.version != int(ethertype[-1]):
        raise BadRequest(
            f"Conflicting value ethertype {ethertype} for CIDR {given}", kind="SecurityGroupRuleParameterConflict"
        )
    return given if "/" in given else str(network)


def normalize_range(prefix: str | None) -> str | None:
    """A rule's range without host bits: what it means."""
    return str(ipaddress.ip_network(prefix, strict=False)) if prefix else None


def parse_ethertype(given: str) -> str:
    """IPv4 or IPv6; BadRequest for anything else."""
    for known in ("IPv4", "IPv6"):
        if given.lower() == known.lower():
            return known
    raise BadRequest(
        f"Security group rule for ethertype '{given}' not supported. Allowed values are ['IPv4', 'IPv6'].",
        kind="SecurityGroupRuleInvalidEtherType",
    )
