"""Legs: pairs of virtual Ethernet that lead from a bridge into a namespace, with the addresses there.

Pure but for read_legs and apply_leg. A network of its own and a router have legs; networks.py and
routers.py decide which. Next: links.py, which runs the lines that are built here.
"""

from __future__ import annotations

import contextlib
import ipaddress

from . import links, namespaces
from .names import (
    build_inner_veth_name,
    build_mac,
    build_outer_veth_name,
    build_owner_tag,
    choose_bridge_name,
    choose_home_namespace,
)

METADATA_ADDRESSES = ["169.254.169.254/32", "fe80::a9fe:a9fe/128"]
# On lo alone it would go unanswered: neighbour discovery asks the link that the guest is on (RFC 4861 section 7.2.3).
METADATA_ON_LINK = "fe80::a9fe:a9fe/64"


def build_leg(document: dict, network: dict, key: str, mac: str, namespace: str, addresses: list[str], **more) -> dict:
    """What one leg shall be; ``key`` is the port's id (or the network's) that names both ends.

    ``floating`` (in ``more``) are addresses "a/32" on top; ``outside`` is true for a router's external leg.
    """
    field = f"addresses of {key}"
    return {
        "network": network["id"],
        "outer": build_outer_veth_name(key),
        "inner": build_inner_veth_name(key),
        "bridge": choose_bridge_name(network, document["settings"]),
        "namespace": namespace,
        "mac": mac.lower(),
        "mtu": network["mtu"],
        "alias": build_owner_tag(document["settings"]["state_dir"]),
        "addresses": sorted({links.parse_address(address, field) for address in addresses}),
        "floating": sorted({links.parse_address(address, field) for address in more.get("floating", [])}),
        "outside": more.get("outside", False),
    }


def build_network_leg(document: dict, network: dict) -> dict:
    """The leg of a network that is its own home: the gateway's (or DHCP's) address of each subnet."""
    addresses = [METADATA_ON_LINK]
    for subnet in network["subnets"]:
        address = subnet.get("gateway_ip") or subnet.get("dhcp_address")
        if address:
            addresses.append(f"{address}/{ipaddress.ip_network(subnet['cidr']).prefixlen}")
    return build_leg(
        document, network, network["id"], build_mac(network["id"]), choose_home_namespace(network), addresses
    )


def build_homed_addresses(network: dict, interface: dict) -> list[str]:
    """A router's addresses on a network whose home it is: its own, and DHCP's where a subnet has none of them."""
    held = [METADATA_ON_LINK, *interface["addresses"]]
    for subnet in network["subnets"]:
        cidr = ipaddress.ip_network(subnet["cidr"])
        if subnet.get("dhcp_address") and not any(ipaddress.ip_interface(a).ip in cidr for a in held):
            held.append(f"{subnet['dhcp_address']}/{cidr.prefixlen}")
    return held


def build_leg_text(leg: dict) -> str:
    """A leg for people: one line per property."""
    return (
        f"{leg['outer']} on {leg['bridge']}\n{leg['inner']} in {leg['namespace']}\nmac {leg['mac']}\nmtu {leg['mtu']}\n"
        f"state {leg.get('state', 'up')}\naddresses {' '.join(sorted([*leg['addresses'], *leg['floating']])) or '-'}\n"
    )


def _build_seen_text(leg: dict, outer: dict | None, inner: dict | None) -> str:
    if not outer or not inner:
        return ""
    seen = {**leg, "bridge": outer["bridge"], "mac": inner["mac"], "mtu": inner["mtu"]}
    seen["state"] = "up" if outer["up"] and inner["up"] else "down"
    return build_leg_text({**seen, "addresses": inner["addresses"], "floating": []})


def plan_leg(leg: dict, outside: dict, inside: dict) -> dict | None:
    """What brings a leg about, or None where it is as wanted.

    ``outside`` and ``inside`` are the links of the host and of the leg's namespace. The answer has lines for
    `ip -batch` (``host``, ``inside``), addresses to announce (``announce``) or forget (``forget``), and texts
    ``before`` and ``after``.
    """
    outer, inner = outside.get(leg["outer"]), inside.get(leg["inner"])
    present = bool(outer and inner and outer["kind"] == "veth" and inner["kind"] == "veth" and not outer.get("foreign"))
    host, within = [], []
    if not present:
        host += [f"link del dev {leg['outer']}"] if outer else []
        host.append(
            f"link add name {leg['outer']} mtu {leg['mtu']} type veth peer name {leg['inner']} "
            f"address {leg['mac']} mtu {leg['mtu']} netns {leg['namespace']}"
        )
        within += [f"link del dev {leg['inner']}"] if inner and not outer else []
    if not present or outer["alias"] != leg["alias"]:
        host.append(f"link set dev {leg['outer']} alias {leg['alias']}")
    if present and outer["mtu"] != leg["mtu"]:
        host.append(f"link set dev {leg['outer']} mtu {leg['mtu']}")
    if not present or outer["bridge"] != leg["bridge"] or not outer["up"]:
        host.append(f"link set dev {leg['outer']} addrgenmode none master {leg['bridge']} up")
    if present and inner["mtu"] != leg["mtu"]:
        within.append(f"link set dev {leg['inner']} mtu {leg['mtu']}")
    if present and inner["mac"] != leg["mac"]:
        within.append(f"link set dev {leg['inner']} address {leg['mac']}")
    if not present or not inner["up"]:
        within.append(f"link set dev {leg['inner']} up")
    wanted = [*leg["addresses"], *leg["floating"]]
    held = inner["addresses"] if present else []
    gone = [address for address in held if address not in wanted]
    new = [address for address in wanted if address not in held]
    within += [f"addr del {address} dev {leg['inner']}" for address in gone]
    for address in new:
        nodad = " nodad" if ":" in address else ""
        within.append(f"addr replace {address} dev {leg['inner']}{nodad}")
    moved = present and (inner["mac"] != leg["mac"] or outer["bridge"] != leg["bridge"])
    if not host and not within:
        return None
    return {
        "host": host,
        "inside": within,
        "create": not present,
        "announce": [address.partition("/")[0] for address in (wanted if moved else new)],
        "forget": [address.partition("/")[0] for address in gone] if leg["outside"] else [],
        "before": _build_seen_text(leg, outer, inner),
        "after": build_leg_text(leg),
    }


def plan_strays(owned: list[str], inside: dict) -> list[str]:
    """Names of Kumo's links in a namespace that none of its legs has: what a removed interface leaves."""
    return sorted(name for name in inside if name.startswith("kvi") and name not in owned)


def apply_leg(leg: dict, change: dict) -> None:
    """Bring a leg about as plan_leg said; the namespace exists."""
    first = [line for line in change["inside"] if line.startswith("link del")]
    links.apply_batch(first, leg["namespace"])
    links.apply_batch(change["host"])
    with contextlib.suppress(OSError):
        namespaces.apply_sysctls({f"net/ipv6/conf/{leg['outer']}/disable_ipv6": "1"})
    with namespaces.enter(leg["namespace"]):
        namespaces.apply_sysctls(
            {
                f"net/ipv6/conf/{leg['inner']}/accept_ra": "0",
                f"net/ipv6/conf/{leg['inner']}/ndisc_notify": "1",
                f"net/ipv4/conf/{leg['inner']}/arp_ignore": "1" if leg["outside"] else "0",
            }
        )
        links.apply_batch([line for line in change["inside"] if line not in first])
        if change["announce"]:
            namespaces.apply_announcement(leg["inner"], leg["mac"], change["announce"])
