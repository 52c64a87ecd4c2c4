"""Bridges of networks and what joins them to other hosts (VLAN, VXLAN). Pure: lines for `ip -batch`.

A bridge carries no address of the host and answers nothing on it. The bridges of physical networks, which
do, are in physical.py. Next: networks.py, which applies what is planned here.
"""

from __future__ import annotations

import ipaddress

from .errors import KumoError
from .names import build_bridge_name, build_mac, build_owner_tag, build_vlan_name, build_vxlan_name

VXLAN_PORT = 4789  # RFC 7348 section 5
SYSCTLS = {
    "net/ipv6/conf/{}/disable_ipv6": "1",
    "net/ipv6/conf/{}/accept_ra": "0",
    "net/ipv4/conf/{}/arp_ignore": "8",
    "net/ipv4/conf/{}/rp_filter": "1",
}


def build_sysctls(bridge: str) -> dict[str, str]:
    """Settings that keep the host itself from being reached on a tenant's bridge."""
    return {name.format(bridge): value for name, value in SYSCTLS.items()}


def build_bridge_lines(name: str, tag: str) -> list[str]:
    """Lines that make a bridge whose MAC does not follow its ports, and is no leg's."""
    return [
        f"link add name {name} address {build_mac(name)} type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
        f"link set dev {name} alias {tag}",
    ]


def build_uplink(network: dict, settings: dict) -> dict | None:
    """The link that joins a network's bridge to other hosts: {name, kind, id, create, peers, …}; None if local or flat.

    Raises KumoError naming the field of ``segmentation`` that is wrong.
    """
    segmentation = network["segmentation"]
    kind = segmentation["type"]
    if kind in ("local", "flat"):
        return None
    if kind == "vlan":
        physical = settings["physical_networks"].get(segmentation.get("physical_network")) or {}
        parent, tag = physical.get("interface"), segmentation.get("id")
        if not parent:
            raise KumoError(
                f"network {network['id']}: physical network {segmentation.get('physical_network')!r} has no interface"
            )
        if not isinstance(tag, int) or not 1 <= tag <= 4094:
            raise KumoError(f"network {network['id']}: segmentation.id {tag!r} is not a VLAN id (1..4094)")
        name = build_vlan_name(network["id"])
        create = f"link add link {parent} name {name} type vlan id {tag}"
        return {"name": name, "kind": kind, "id": tag, "create": create, "peers": None, "parent": parent}
    if kind == "vxlan":
        number = segmentation.get("id")
        if not isinstance(number, int) or not 1 <= number < 1 << 24:
            raise KumoError(f"network {network['id']}: segmentation.id {number!r} is not a VXLAN id (1..16777215)")
        if not segmentation.get("local"):
            raise KumoError(
                f"network {network['id']} is of type vxlan, and this host has no settings.tunnel_address "
                "(kumo host add --settings)"
            )
        local = _parse_tunnel(segmentation["local"], network["id"])
        name = build_vxlan_name(network["id"])
        create = f"link add name {name} type vxlan id {number} local {local} dstport {VXLAN_PORT} nolearning"
        peers = sorted(_parse_tunnel(peer, network["id"]) for peer in segmentation.get("peers") or [])
        return {"name": name, "kind": kind, "id": number, "create": create, "peers": peers, "local": local}
    raise KumoError(f"network {network['id']}: segmentation.type {kind!r} is not local, flat, vlan or vxlan")


def _parse_tunnel(text: str, network_id: str) -> str:
    try:
        return str(ipaddress.IPv4Address(text))
    except ValueError:
        # What keeps strangers out of tunnels (physical.py), and the MTU, are IPv4's.
        raise KumoError(f"network {network_id}: tunnel address {text!r} is not an IPv4 address") from None


def plan_bridge(document: dict, network: dict, links: dict, flooding: dict, sysctls: dict) -> dict | None:
    """What brings about a network's bridge with its uplink; None where it is as wanted.

    ``links`` are the host's; ``flooding`` is {VXLAN link: [peers]}; ``sysctls`` the observed settings. The
    answer has ``ip`` and ``bridge`` lines, ``sysctls`` to write, ``before`` and ``after``.
    """
    tag = build_owner_tag(document["settings"]["state_dir"])
    name = build_bridge_name(network["id"])
    uplink = build_uplink(network, document["settings"])
    ip, fdb = [], []
    seen = links.get(name)
    if seen and seen["kind"] != "bridge":
        raise KumoError(f"network {network['id']}: {name} exists and is no bridge")
    if not seen:
        ip += build_bridge_lines(name, tag)
    elif seen["alias"] != tag:
        ip.append(f"link set dev {name} alias {tag}")
    data = seen["data"] if seen else {}
    if seen and (data.get("stp_state") or data.get("mcast_snooping") or data.get("forward_delay")):
        ip.append(f"link set dev {name} type bridge stp_state 0 forward_delay 0 mcast_snooping 0")
    if uplink:
        more_ip, more_fdb = _plan_uplink(uplink, name, tag, network["mtu"], links, flooding)
        ip += more_ip
        fdb += more_fdb
    if not seen or seen["mtu"] != network["mtu"]:
        ip.append(f"link set dev {name} mtu {network['mtu']}")
    ip += [f"addr del {address} dev {name}" for address in (seen["addresses"] if seen else [])]
    if not seen or not seen["up"]:
        ip.append(f"link set dev {name} up")
    settings = build_sysctls(name)
    if seen:
        settings = {key: value for key, value in settings.items() if sysctls.get(key, value) != value}
    if not ip and not fdb and not settings:
        return None
    before = _build_text(name, seen["mtu"], seen["up"], seen["addresses"]) if seen else ""
    if seen:
        before += "".join(f"{key} {sysctls[key]}\n" for key in sorted(settings))
    if seen and uplink and uplink["name"] in links:
        data = links[uplink["name"]]["data"]
        held = {"id": data.get("id"), "local": data.get("local"), "peers": flooding.get(uplink["name"], [])}
        before += _build_uplink_text({**uplink, **held})
    after = _build_text(name, network["mtu"], True, [])
    after += "".join(f"{key} {value}\n" for key, value in sorted(settings.items()))
    after += _build_uplink_text(uplink) if uplink else ""
    return {
        "create": not seen,
        "ip": ip,
        "bridge": fdb,
        "sysctls": settings,
        "before": before,
        "after": after,
    }


def _build_text(name: str, mtu: int, up: bool, addresses: list[str]) -> str:
    return f"bridge {name}\nmtu {mtu}\nstate {'up' if up else 'down'}\naddresses {' '.join(addresses) or '-'}\n"


def _build_uplink_text(uplink: dict) -> str:
    peers = f" from {uplink['local']} to {' '.join(uplink['peers']) or 'nobody'}" if uplink["kind"] == "vxlan" else ""
    return f"{uplink['kind']} {uplink['id']}{peers}\n"


def _is_same(uplink: dict, seen: dict) -> bool:
    same = seen["kind"] == uplink["kind"] and seen["data"].get("id") == uplink["id"]
    if uplink["kind"] == "vxlan":
        return same and seen["data"].get("local") == uplink["local"]
    return same and seen.get("parent") == uplink["parent"]


def _plan_uplink(uplink: dict, bridge: str, tag: str, mtu: int, links: dict, flooding: dict) -> tuple[list, list]:
    name = uplink["name"]
    seen = links.get(name)
    ip, fdb = [], []
    if seen and not _is_same(uplink, seen):
        ip.append(f"link del dev {name}")
        seen = None
    if not seen:
        ip += [uplink["create"], f"link set dev {name} alias {tag}"]
    if not seen or seen["mtu"] != mtu:
        ip.append(f"link set dev {name} mtu {mtu}")
    if not seen or seen["bridge"] != bridge or not seen["up"]:
        # Two lines: in one the link is up, and has an address, before its mode is none.
        ip += [f"link set dev {name} addrgenmode none", f"link set dev {name} master {bridge} up"]
    if uplink["peers"] is not None:
        held = flooding.get(name, []) if seen else []
        entry = "00:00:00:00:00:00 dev {} dst {}"
        fdb += ["fdb del " + entry.format(name, peer) for peer in held if peer not in uplink["peers"]]
        fdb += ["fdb append " + entry.format(name, peer) for peer in uplink["peers"] if peer not in held]
    return ip, fdb
