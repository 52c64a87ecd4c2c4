"""The section neighbours: what a host knows of a network's ports elsewhere, and whose its gateways' MACs are.

Every host has the same gateway addresses and MACs, and uplinks.py keeps address resolution for them on
each host. So a namespace must know the ports of other hosts from the document (permanent neighbours), a
VXLAN link where each of them is, and a bridge that a gateway's MAC is the namespace's, whatever comes in by
the tunnel. Changes entries on Kumo's own links alone; next: dhcp.py.
"""

from __future__ import annotations

import ipaddress

from . import legs, links, namespaces
from .bridges import build_uplink
from .chains import parse_mac
from .core import Action
from .errors import KumoError
from .names import build_namespace_name
from .routers import build_legs
from .uplinks import choose_uplink

SECTION = "neighbours"


def build_home_legs(document: dict, network: dict) -> list[dict]:
    """The legs that answer for a network's gateways on this host: its own namespace's, and those of its routers."""
    home = network.get("home")
    if not home:
        return []
    found = [legs.build_network_leg(document, network)] if home["kind"] == "network" else []
    for router in document["routers"]:
        if any(row["network"] == network["id"] for row in router.get("interfaces") or []):
            wanted = build_legs(document, {**router, "external": None})
            found += [leg for leg in wanted if leg["network"] == network["id"]]
    return found


def build_elsewhere(network: dict) -> list[dict]:
    """[{mac, addresses, tunnel}] of a network's ports on other hosts; KumoError names what is none of these."""
    rows = []
    for row in network.get("elsewhere") or []:
        where = f"network {network['id']}: elsewhere {row.get('port')}"
        try:
            addresses = [str(ipaddress.ip_address(address)) for address in row.get("addresses") or []]
            tunnel = str(ipaddress.IPv4Address(row["tunnel"])) if row.get("tunnel") else None
            rows.append({"mac": parse_mac(row.get("mac")), "addresses": addresses, "tunnel": tunnel})
        except (KumoError, ValueError) as error:
            raise KumoError(f"{where}: {error}") from None
    return rows


def read_neighbours(document: dict) -> dict:
    """{forwarding: of the host's links, neighbours: {namespace: {link: {address: mac}}}}; empty where none are."""
    shared = {
        network["id"]: network["home"]
        for network in document["networks"]
        if network.get("home") and (choose_uplink(network, document["settings"]) or network.get("elsewhere"))
    }
    if not shared:
        return {"forwarding": {}, "neighbours": {}}
    homes = {build_namespace_name(home["kind"], home["id"]) for home in shared.values()}
    for router in document["routers"]:
        if any(row["network"] in shared for row in router.get("interfaces") or []):
            homes.add(build_namespace_name("router", router["id"]))
    present = sorted(homes & set(namespaces.read_namespaces()))
    return {
        "forwarding": links.read_forwarding(),
        "neighbours": {name: links.read_neighbours(name) for name in present},
    }


def plan_neighbours(document: dict, observed: dict) -> list[Action]:
    """At most one action for each network that other hosts may have too."""
    actions = []
    for network in document["networks"]:
        try:
            action = _plan_network(document, network, observed)
        except (KumoError, ValueError, KeyError) as error:
            sentence = f"field {error} is missing" if isinstance(error, KeyError) else str(error)
            action = Action(SECTION, network["id"], "refuse", {"refuse": sentence})
        if action:
            actions.append(action)
    return actions


def _plan_network(document: dict, network: dict, observed: dict) -> Action | None:
    if not network.get("home"):
        return None
    try:
        uplink = choose_uplink(network, document["settings"])
        tunnel = network["segmentation"]["type"] == "vxlan" and build_uplink(network, document["settings"])["name"]
        wanted = build_home_legs(document, network)
    except (KumoError, KeyError, ValueError):
        return None  # told by networks or routers
    elsewhere = build_elsewhere(network)
    if not uplink and not elsewhere:
        return None
    bridge, before, after = [], [], []
    if uplink:
        for leg in wanted:
            held = observed["forwarding"].get(leg["outer"], {}).get("static", {})
            _compare_static(leg["outer"], {leg["mac"]: True}, held, bridge, before, after)
    if tunnel:
        held = observed["forwarding"].get(tunnel, {"static": {}, "tunnels": {}})
        peers = {row["mac"]: row["tunnel"] for row in elsewhere if row["tunnel"]}
        _compare_static(tunnel, dict.fromkeys(peers, False), held["static"], bridge, before, after)
        _compare_tunnels(tunnel, peers, held["tunnels"], bridge, before, after)
    known = {address: row["mac"] for row in elsewhere for address in row["addresses"]}
    inside: dict[str, list[str]] = {}
    for leg in wanted:
        held = observed["neighbours"].get(leg["namespace"], {}).get(leg["inner"], {})
        lines = _compare_known(leg["inner"], known, held, before, after)
        if lines:
            inside[leg["namespace"]] = [*inside.get(leg["namespace"], []), *lines]
    if not bridge and not inside:
        return None
    needs = [("networks", network["id"])]
    if network["home"]["kind"] == "router":
        needs.append(("routers", network["home"]["id"]))
    args = {"bridge": bridge, "inside": inside}
    texts = ["".join(f"{line}\n" for line in lines) for lines in (before, after)]
    return Action(SECTION, network["id"], "learn", args, *texts, tuple(needs))


def _compare_static(link: str, wanted: dict, held: dict, lines: list, before: list, after: list) -> None:
    """Entries of the link's bridge: {mac: sticky}. A sticky one does not move when its MAC comes in elsewhere."""
    for mac in sorted(set(held) - set(wanted)):
        lines.append(f"fdb del {mac} dev {link} master")
        before.append(f"{mac} at {link}")
    for mac, sticky in sorted(wanted.items()):
        if held.get(mac) is not sticky:
            lines.append(f"fdb replace {mac} dev {link} master {'sticky ' if sticky else ''}static")
            after.append(f"{mac} at {link}{' only' if sticky else ''}")


def _compare_tunnels(link: str, wanted: dict, held: dict, lines: list, before: list, after: list) -> None:
    for mac in sorted(set(held) | set(wanted)):
        if held.get(mac) == wanted.get(mac):
            continue
        if mac in held:
            before.append(f"{mac} by {link} to {held[mac]}")
        if mac in wanted:
            lines.append(f"fdb replace {mac} dev {link} dst {wanted[mac]} self")
            after.append(f"{mac} by {link} to {wanted[mac]}")
        else:
            lines.append(f"fdb del {mac} dev {link} dst {held[mac]} self")


def _compare_known(link: str, wanted: dict, held: dict, before: list, after: list) -> list[str]:
    lines = []
    for address in sorted(set(held) | set(wanted)):
        if held.get(address) == wanted.get(address):
            continue
        if address in held:
            before.append(f"{address} is {held[address]} on {link}")
        if address in wanted:
            lines.append(f"neigh replace {address} lladdr {wanted[address]} dev {link} nud permanent")
            after.append(f"{address} is {wanted[address]} on {link}")
        else:
            lines.append(f"neigh del {address} dev {link}")
    return lines


def apply_neighbours(document: dict, action: Action) -> None:
    """One network's entries; KumoError says what bridge or ip refused."""
    if "refuse" in action.args:
        raise KumoError(action.args["refuse"])
    links.apply_batch(action.args["bridge"], program="bridge")
    for namespace, lines in sorted(action.args["inside"].items()):
        links.apply_batch(lines, namespace)


def report_neighbours(document: dict, observed: dict) -> dict:
    """Nothing of its own: a failure is in the results."""
    return {}
