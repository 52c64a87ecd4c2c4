"""Flows that a rule, a group's member or an address allowed end with it: which entries, and their removal.

``build_revocations`` is pure; what a port was granted is remembered by ``firewall.py`` in the state
directory, and forgotten only after the flows are gone, so that a run killed in between is made up for.
A conntrack entry says who opened the flow: an ingress grant covers flows *to* the port, an egress grant
flows *from* it. Next: ``firewall.py``.
"""

from __future__ import annotations

from .errors import KumoError
from .iptables import run_tool
from .security_groups import ICMP, Grant, covers

MOST_FLOW_FILTERS = 16
_FAMILY_OPTION = {"IPv4": "ipv4", "IPv6": "ipv6"}


def _family_of(cidr: str) -> str:
    return "IPv6" if ":" in cidr else "IPv4"


def expand_grants(grants: list, groups: dict) -> set[Grant]:
    """Grants with every remote group replaced by its members (``groups``: {id: {family: [CIDR, ...]}})."""
    expanded = set()
    for row in grants:
        grant = Grant(*row)
        if not grant.group:
            expanded.add(grant)
            continue
        for member in groups.get(grant.group, {}).get(grant.family, []):
            expanded.add(Grant(grant.direction, grant.family, grant.protocol, grant.low, grant.high, member))
    return expanded


def find_lost_grants(old: set[Grant], new: set[Grant]) -> list[Grant]:
    """The grants of ``old`` that nothing in ``new`` covers, sorted."""
    wide = [grant for grant in new if not grant.remote.endswith(("/32", "/128"))]
    return sorted(lost for lost in old - new if not any(covers(grant, lost) for grant in wide))


def _filter(zone: int, address: str, direction: str, grant: Grant | None = None) -> list[str]:
    own, other = ("-d", "-s") if direction == "ingress" else ("-s", "-d")
    words = ["-f", _FAMILY_OPTION[_family_of(address)], "-w", str(zone), own, address]
    if grant is not None:
        if grant.remote:
            words += [other, grant.remote]
        if grant.protocol != -1:
            words += ["-p", str(grant.protocol)]
        if grant.low != -1 and grant.low == grant.high and grant.protocol != ICMP[grant.family]:
            words += ["--dport", str(grant.low)]
    return words


def _all_flows(zone: int, address: str) -> list[list[str]]:
    return [_filter(zone, address, "egress"), _filter(zone, address, "ingress")]


def build_revocations(old: dict, new: dict) -> tuple[list[list[str]], list[str]]:
    """(arguments of ``conntrack -D``, one list per call; ids of the ports that lost a grant).

    ``old`` and ``new`` are the remembered and the wanted ``{"groups": {id: {family: [CIDR]}}, "ports": {id:
    {"zone": n, "addresses": [CIDR], "grants": [fields of Grant]}}}``. A port or an address that is gone loses
    every flow; a grant that is gone loses the flows it could have let in, where no other grant covers it.
    """
    filters: list[list[str]] = []
    shrunk: list[str] = []
    for port_id, before in sorted(old.get("ports", {}).items()):
        after = new["ports"].get(port_id)
        kept = set(after["addresses"]) if after and after["zone"] == before["zone"] else set()
        for address in before["addresses"]:
            if address not in kept:
                filters += _all_flows(before["zone"], address)
        if not kept:
            continue
        lost = find_lost_grants(
            expand_grants(before["grants"], old.get("groups", {})), expand_grants(after["grants"], new["groups"])
        )
        if not lost:
            continue
        shrunk.append(port_id)
        for address in sorted(kept):
            family = _family_of(address)
            mine = [_filter(before["zone"], address, g.direction, g) for g in lost if g.family == family]
            filters += mine if len(mine) <= MOST_FLOW_FILTERS else _all_flows(before["zone"], address)
    unique = {tuple(words): words for words in filters}
    return list(unique.values()), shrunk


def apply_revocations(filters: list[list[str]]) -> None:
    """Remove the conntrack entries that each list of arguments names; that there are none is no error."""
    for words in filters:
        done = run_tool(["conntrack", "-D", *words])
        if done.returncode and "0 flow entries" not in done.stderr:
            raise KumoError(f"conntrack -D {' '.join(words)}: {' '.join(done.stderr.split())}")
