"""What a router's namespace filters and translates: pure, a router in, rulesets for iptables.py out.

Rules stand as iptables-save prints them, so that they compare equal. Security groups are elsewhere
(firewall.py); next: routers.py, which applies these.
"""

from __future__ import annotations

import ipaddress
import re

from .names import build_inner_veth_name

OWNED_CHAINS = "kumo-(PREROUTING|POSTROUTING|OUTPUT|FORWARD|INPUT)"
_TRANSLATION = re.compile(r"-d (\S+)/32 -j DNAT --to-destination (\S+)")


def _choose_addresses(addresses: list[str], version: int) -> list:
    found = [ipaddress.ip_interface(address) for address in addresses]
    return [address for address in found if address.version == version]


def build_pairs(router: dict) -> dict[str, str]:
    """{floating address: fixed address} of a router, in canonical form; empty without an external leg."""
    if not router.get("external"):
        return {}
    return {
        str(ipaddress.IPv4Address(row["floating_address"])): str(ipaddress.IPv4Address(row["fixed_address"]))
        for row in sorted(router.get("floating_ips") or [], key=lambda row: row["floating_address"])
    }


def parse_pairs(ruleset: dict) -> dict[str, str]:
    """{floating address: fixed address} as a namespace's rules have them."""
    rules = ruleset.get("nat", {}).get("kumo-PREROUTING", [])
    return {match[1]: match[2] for match in map(_TRANSLATION.fullmatch, rules) if match}


def build_rulesets(router: dict) -> dict[str, dict]:
    """{"IPv4": ruleset, "IPv6": ruleset} of a router's namespace; both empty without an external leg.

    - A floating address leads to its fixed one and hides it, outwards and between guests of the router.
    - Other guests leave with the router's external address where ``external.snat`` is true.
    - Networks of the router reach each other untranslated.
    - From outside only what was translated or answers is let through (with snat false also what is routed
      to a network of the router); the router itself answers nothing but ICMP.
    """
    external = router.get("external")
    if not external:
        return {"IPv4": {}, "IPv6": {}}
    out = build_inner_veth_name(external["port"])
    return {
        "IPv4": {"nat": _build_nat(router, out), "filter": _build_filter(router, out, 4)},
        "IPv6": {"filter": _build_filter(router, out, 6)},
    }


def _build_nat(router: dict, out: str) -> dict:
    external = router["external"]
    pairs = build_pairs(router)
    own = _choose_addresses(external["addresses"], 4)
    inward = [f"-d {floating}/32 -j DNAT --to-destination {fixed}" for floating, fixed in pairs.items()]
    outward = []
    for floating, fixed in pairs.items():
        outward.append(f"-s {fixed}/32 -o {out} -j SNAT --to-source {floating}")
        outward.append(f"-s {fixed}/32 -m conntrack --ctstate DNAT -j SNAT --to-source {floating}")
    if own:
        # A guest that calls a floating address of its own router: the answer must come back through here.
        for interface in router.get("interfaces") or []:
            for address in _choose_addresses(interface["addresses"], 4):
                outward.append(f"-s {address.network} -m conntrack --ctstate DNAT -j SNAT --to-source {own[0].ip}")
        if external.get("snat", True):
            outward.append(f"-o {out} -j SNAT --to-source {own[0].ip}")
    return {
        "kumo-PREROUTING": inward,
        "kumo-OUTPUT": inward,
        "kumo-POSTROUTING": outward,
        "PREROUTING": ["-j kumo-PREROUTING"],
        "OUTPUT": ["-j kumo-OUTPUT"],
        "POSTROUTING": ["-j kumo-POSTROUTING"],
    }


def _build_filter(router: dict, out: str, version: int) -> dict:
    external = router["external"]
    forward = [
        f"-i {out} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        f"-o {out} -m conntrack --ctstate INVALID -j DROP",
    ]
    if version == 4:
        forward.insert(1, f"-i {out} -m conntrack --ctstate DNAT -j ACCEPT")
        routed = not external.get("snat", True)
    else:
        # IPv6 is routed without translation; a router without an IPv6 address outside routes none.
        routed = bool(_choose_addresses(external["addresses"], 6))
    if routed:
        networks = {
            str(address.network)
            for interface in router.get("interfaces") or []
            for address in _choose_addresses(interface["addresses"], version)
        }
        forward += [f"-d {network} -i {out} -j ACCEPT" for network in sorted(networks)]
    forward.append(f"-i {out} -j DROP")
    icmp = "icmp" if version == 4 else "ipv6-icmp"
    inward = [
        f"-i {out} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        *(
            f"-d {a.ip}/32 -i {out} -p {icmp} -j ACCEPT"
            for a in _choose_addresses(external["addresses"], 4)
            if version == 4
        ),
        *([f"-i {out} -p {icmp} -j ACCEPT"] if version == 6 else []),
        f"-i {out} -j DROP",
    ]
    return {
        "kumo-FORWARD": forward,
        "kumo-INPUT": inward,
        "FORWARD": ["-j kumo-FORWARD"],
        "INPUT": ["-j kumo-INPUT"],
    }
