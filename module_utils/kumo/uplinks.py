"""The guard at a network's uplink: what belongs to one host's own gateways does not pass between hosts.

Pure: rules for iptables.py. Each host has the gateways' addresses and MACs, serves DHCP and advertises
routes to its own guests. So at the link to other hosts (VXLAN, VLAN, a flat network's NIC), in both
directions: ARP and neighbour discovery for gateways, DHCP, router discovery and redirects are dropped.
External networks have no guard: their gateway is somebody else's. Next: chains.py, which puts these into
the firewall's rulesets.
"""

from __future__ import annotations

from . import legs
from .links import build_link_local
from .names import build_chain_name, build_vlan_name, build_vxlan_name, choose_bridge_name
from .security_groups import build_target_match

METADATA = [address.partition("/")[0] for address in legs.METADATA_ADDRESSES]
ROUTER_DISCOVERY = (133, 134, 137)  # solicitation, advertisement, redirect (RFC 4861 section 4)
NEIGHBOUR_DISCOVERY = (135, 136)


def choose_uplink(network: dict, settings: dict) -> str | None:
    """The link that joins a network's bridge to other hosts; None where it has none."""
    segmentation = network.get("segmentation") or {}
    kind = segmentation.get("type")
    if kind == "vxlan":
        return build_vxlan_name(network["id"])
    if kind == "vlan":
        return build_vlan_name(network["id"])
    physical = (settings.get("physical_networks") or {}).get(segmentation.get("physical_network")) or {}
    return physical.get("interface") if kind == "flat" else None


def find_gateways(document: dict, network: dict) -> tuple[list[str], list[str]]:
    """(MACs, addresses) that every host answers for itself on a network, link-local and metadata's included."""
    macs, addresses = (
        set(),
        {subnet.get(key) for subnet in network["subnets"] for key in ("gateway_ip", "dhcp_address")},
    )
    if network["home"]["kind"] == "network":
        macs.add(legs.build_mac(network["id"]))
    for router in document.get("routers") or []:
        for interface in router.get("interfaces") or []:
            if interface["network"] == network["id"]:
                macs.add((interface.get("mac") or legs.build_mac(interface["port"])).lower())
                addresses |= {address.partition("/")[0] for address in interface["addresses"]}
    addresses |= {str(build_link_local(mac)) for mac in macs} | set(METADATA)
    return sorted(macs), sorted(address for address in addresses if address)


def build_guards(document: dict) -> list[dict]:
    """[{uplink, bridge, chain, IPv4, IPv6, Ethernet}] of every network with an uplink and a home; the last three
    are the rules of ``chain``."""
    guards = []
    for network in sorted(document["networks"], key=lambda network: network["id"]):
        uplink = choose_uplink(network, document["settings"])
        if not uplink or not network.get("home"):
            continue
        macs, addresses = find_gateways(document, network)
        guards.append(
            {
                "uplink": uplink,
                "bridge": choose_bridge_name(network, document["settings"]),
                "chain": build_chain_name("u", network["id"]),
                "Ethernet": _build_frames(macs, addresses),
                "IPv4": ["-p udp -m udp --dport 67:68 -j DROP"],
                "IPv6": _build_discovery(macs, addresses),
            }
        )
    return guards


def _build_frames(macs: list[str], addresses: list[str]) -> list[str]:
    rules = [f"-p ARP -s {mac} -j DROP" for mac in macs]
    for address in addresses:
        if ":" not in address:
            rules += [f"-p ARP --arp-ip-{end} {address} -j DROP" for end in ("src", "dst")]
    return rules


def _build_discovery(macs: list[str], addresses: list[str]) -> list[str]:
    rules = [f"-p ipv6-icmp -m icmp6 --icmpv6-type {kind} -j DROP" for kind in ROUTER_DISCOVERY]
    for kind in NEIGHBOUR_DISCOVERY:
        rules += [f"-p ipv6-icmp -m icmp6 --icmpv6-type {kind} -m mac --mac-source {mac} -j DROP" for mac in macs]
        for address in addresses:
            if ":" in address:
                match = build_target_match(f"{address}/128")
                rules.append(f"-p ipv6-icmp -m icmp6 --icmpv6-type {kind} {match} -j DROP")
    return [*rules, "-p udp -m udp --dport 546:547 -j DROP"]
