"""The section networks: bridges, physical networks, and the namespaces of networks that are their own home.

May remove only what carries Kumo's prefix and this state directory's tag, and never a bridge that a guest's
tap still hangs on: that one is reported as an orphan. Parts: bridges.py, physical.py, legs.py; next:
routers.py and dhcp.py, which build on the bridges.
"""

from __future__ import annotations

import re

from . import legs, links, namespaces, physical
from .bridges import build_sysctls, plan_bridge
from .core import Action
from .errors import KumoError
from .names import (
    build_bridge_name,
    build_namespace_name,
    build_outer_veth_name,
    build_owner_tag,
    build_vlan_name,
    build_vxlan_name,
)

SECTION = "networks"
OWNED_LINK = re.compile(r"k(br|vx|vl)[0-9a-f]{11}")
METADATA_LINES = ["link set dev lo up", *(f"addr replace {a} dev lo" for a in legs.METADATA_ADDRESSES)]


def _is_own_home(network: dict) -> bool:
    return bool(network.get("home")) and network["home"]["kind"] == "network"


def read_networks(document: dict) -> dict:
    """Links of the host and of networks' namespaces: {links, namespaces, flooding, sysctls, physical}."""
    outside = links.read_links()
    wanted = {build_namespace_name("network", row["id"]) for row in document["networks"]}
    inside = {}
    for name in sorted(namespaces.read_namespaces()):
        if name.startswith(build_namespace_name("network", "")) or name in wanted:
            inside[name] = links.read_links(name)
    bridges = [build_bridge_name(row["id"]) for row in document["networks"]]
    settings = [key for bridge in bridges if bridge in outside for key in build_sysctls(bridge)]
    return {
        "links": outside,
        "namespaces": inside,
        "flooding": _read_flooding(outside),
        "sysctls": namespaces.read_sysctls(settings),
        "physical": physical.read_physical(document),
    }


def _read_flooding(outside: dict) -> dict[str, list[str]]:
    if not any(name.startswith("kvx") for name in outside):
        return {}
    return {name: row["flooding"] for name, row in links.read_forwarding().items() if name.startswith("kvx")}


def plan_networks(document: dict, observed: dict) -> list[Action]:
    """Physical networks first, then each network's bridge, namespace and leg, then what is nobody's any more."""
    actions = [
        Action(SECTION, object_id, verb, {"physical": args}, before, after)
        for object_id, verb, args, before, after in _plan_physical(document, observed)
    ]
    for network in document["networks"]:
        try:
            actions += _plan_network(document, network, observed)
        except (KumoError, ValueError, KeyError) as error:
            sentence = f"field {error} is missing" if isinstance(error, KeyError) else str(error)
            actions.append(Action(SECTION, network["id"], "refuse", {"refuse": sentence}))
    return actions + _plan_removal(document, observed)


def _plan_physical(document: dict, observed: dict) -> list[tuple]:
    try:
        return physical.plan_physical(document, observed)
    except (KumoError, ValueError) as error:
        return [(physical.HOST, "refuse", {"refuse": str(error)}, "", "")]


def _plan_network(document: dict, network: dict, observed: dict) -> list[Action]:
    network_id = network["id"]
    actions = []
    if network["segmentation"]["type"] == "flat":
        legs.choose_bridge_name(network, document["settings"])  # names the field where there is none
    else:
        change = plan_bridge(document, network, observed["links"], observed["flooding"], observed["sysctls"])
        if change:
            verb = "create_bridge" if change.pop("create") else "adjust_bridge"
            before, after = change.pop("before"), change.pop("after")
            actions.append(Action(SECTION, network_id, verb, change, before, after))
    if not _is_own_home(network):
        return actions
    leg = legs.build_network_leg(document, network)
    inside = observed["namespaces"].get(leg["namespace"])
    actions += plan_namespace(SECTION, network_id, leg["namespace"], leg["alias"], inside)
    change = legs.plan_leg(leg, observed["links"], inside or {})
    if change:
        verb = "connect" if change["create"] else "adjust"
        before, after = change.pop("before"), change.pop("after")
        actions.append(Action(SECTION, network_id, verb, {"leg": leg, "change": change}, before, after))
    strays = legs.plan_strays([leg["inner"]], inside or {})
    if strays:
        args = {"namespace": leg["namespace"], "ip": [f"link del dev {name}" for name in strays]}
        actions.append(Action(SECTION, network_id, "disconnect", args, "\n".join(strays) + "\n", ""))
    return actions


def plan_namespace(section: str, object_id: str, name: str, tag: str, inside: dict | None) -> list[Action]:
    """The action that makes a home namespace, or mends its loopback; none where it is as wanted."""
    lo = (inside or {}).get("lo", {})
    if lo.get("up") and lo.get("alias") == tag and set(legs.METADATA_ADDRESSES) <= set(lo["addresses"]):
        return []
    verb = "adjust_namespace" if inside is not None else "create_namespace"
    before = f"namespace {name}\n" if inside is not None else ""
    after = f"namespace {name}\nmetadata at {' '.join(legs.METADATA_ADDRESSES)}\n"
    return [Action(section, object_id, verb, {"make": name, "tag": tag}, before, after)]


def apply_made_namespace(args: dict) -> None:
    """Make a home namespace as plan_namespace said."""
    namespaces.apply_namespace(args["make"])
    links.apply_batch([f"link set dev lo alias {args['tag']}", *METADATA_LINES], args["make"])


def _plan_removal(document: dict, observed: dict) -> list[Action]:
    tag = build_owner_tag(document["settings"]["state_dir"])
    homes = {build_namespace_name("network", row["id"]): row["id"] for row in document["networks"] if _is_own_home(row)}
    actions = []
    for name, inside in sorted(observed["namespaces"].items()):
        if name not in homes and inside.get("lo", {}).get("alias") == tag:
            legs_in = [link for link in inside if link != "lo"]
            args = {"remove": name, "links": legs_in}
            actions.append(Action(SECTION, name[len("kumo-n-") :], "remove_namespace", args, f"namespace {name}\n", ""))
    wanted = build_wanted_links(document)
    tapped = _list_tapped(observed["links"])
    for name, link in sorted(observed["links"].items()):
        if OWNED_LINK.fullmatch(name) and link["alias"] == tag and name not in wanted and name not in tapped:
            args = {"ip": [f"link del dev {name}"]}
            actions.append(Action(SECTION, name, "remove_link", args, f"{link['kind']} {name}\n", ""))
    return actions


def build_wanted_links(document: dict) -> set[str]:
    """Names of every link of the host's own namespace that the document asks for (but for guests' taps)."""
    names = set()
    for network in document["networks"]:
        kind = (network.get("segmentation") or {}).get("type")
        names |= {build_bridge_name(network["id"])} if kind != "flat" else set()
        names |= {build_vlan_name(network["id"])} if kind == "vlan" else set()
        names |= {build_vxlan_name(network["id"])} if kind == "vxlan" else set()
        names |= {build_outer_veth_name(network["id"])} if _is_own_home(network) else set()
    for router in document["routers"]:
        for leg in [*(router.get("interfaces") or []), router.get("external")]:
            names |= {build_outer_veth_name(leg["port"])} if leg else set()
    return names


def _list_tapped(seen: dict) -> set[str]:
    return {link["bridge"] for name, link in seen.items() if name.startswith("ktp") and link["bridge"]}


def apply_networks(document: dict, action: Action) -> None:
    """One planned change; KumoError says what ip, iptables or the kernel refused."""
    args = action.args
    if "refuse" in args:
        raise KumoError(args["refuse"])
    if "physical" in args:
        physical.apply_physical(document, args["physical"])
    elif "make" in args:
        apply_made_namespace(args)
    elif "leg" in args:
        legs.apply_leg(args["leg"], args["change"])
    elif "remove" in args:
        namespaces.apply_absence(args["remove"], args["links"], document["settings"]["state_dir"])
    else:
        links.apply_batch(args.get("ip", []), args.get("namespace"))
        links.apply_batch(args.get("bridge", []), program="bridge")
        namespaces.apply_sysctls(args.get("sysctls", {}))


def report_networks(document: dict, observed: dict) -> dict:
    """{networks: {id: {state}}, orphans: {bridges: [...]}, pending}: a bridge whose taps have gone is to be removed."""
    tag = build_owner_tag(document["settings"]["state_dir"])
    wanted, tapped = build_wanted_links(document), _list_tapped(observed["links"])
    states = {}
    for network in document["networks"]:
        try:
            bridge = observed["links"].get(legs.choose_bridge_name(network, document["settings"]))
            home = legs.choose_home_namespace(network) if _is_own_home(network) else None
            up = bool(bridge and bridge["up"]) and (home is None or home in observed["namespaces"])
        except (KumoError, KeyError):
            up = False
        states[network["id"]] = {"state": "active" if up else "down"}
    left = sorted(
        name
        for name, link in observed["links"].items()
        if name.startswith("kbr") and OWNED_LINK.fullmatch(name) and link["alias"] == tag and name not in wanted
    )
    return {
        "networks": states,
        "orphans": {"bridges": [name for name in left if name in tapped]},
        "pending": any(name not in tapped for name in left),
    }
