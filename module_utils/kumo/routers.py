"""The section routers: their namespaces, legs, routes, translations and floating addresses.

A router lives on every host that has its guests. May remove only namespaces of its own prefix and tag. The
rules are built in nat.py, legs in legs.py; next: dhcp.py, whose daemons live in these namespaces.
"""

from __future__ import annotations

import ipaddress
import re
from concurrent.futures import ThreadPoolExecutor

from . import files, following, iptables, legs, links, namespaces, nat
from .core import Action, state_path
from .errors import KumoError
from .names import build_inner_veth_name, build_mac, build_namespace_name, build_owner_tag
from .networks import apply_made_namespace, build_wanted_links, plan_namespace

SECTION = "routers"
PARALLEL = True
STRAY = re.compile(r"kvo[0-9a-f]{11}")
PREFIX = build_namespace_name("router", "")
FORWARDING = ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding")
FAMILIES = ("IPv4", "IPv6")
PARALLEL_READS = 4


def _read_namespace(name: str) -> dict:
    with namespaces.enter(name):
        sysctls = namespaces.read_sysctls(FORWARDING)
    chains = {}
    for family in FAMILIES:
        chains[family] = iptables.choose_chains(iptables.read_chains(family, name), nat.OWNED_CHAINS)
    return {"links": links.read_links(name), "routes": links.read_routes(name), "sysctls": sysctls, "chains": chains}


def read_routers(document: dict) -> dict:
    """{links: the host's, namespaces: {name: {links, routes, sysctls, chains}}, forget, notes, running}.

    ``forget`` {router id: [addresses]} is what a run that was cut short still had to remove from connection tracking;
    ``notes`` and ``running`` are for addresses that follow a guest (following.py).
    """
    names = sorted(name for name in namespaces.read_namespaces() if name.startswith(PREFIX))
    with ThreadPoolExecutor(PARALLEL_READS) as pool:
        inside = dict(zip(names, pool.map(_read_namespace, names), strict=True))
    forget = {row["id"]: files.read_json(_journal(document, row["id"]), []) for row in document["routers"]}
    notes = {row["id"]: following.read_note(document, row["id"]) for row in document["routers"]}
    return {
        "links": links.read_links(),
        "namespaces": inside,
        "forget": {k: v for k, v in forget.items() if v},
        "notes": {k: v for k, v in notes.items() if v},
        "running": following.read_running() if following.list_followed(document) else None,
    }


def _journal(document: dict, router_id: str):
    return state_path(document, "routers", f"{router_id}.forget")


def build_legs(document: dict, router: dict) -> list[dict]:
    """Every leg of a router, the external one last; KumoError names the network that the document lacks."""
    networks = {row["id"]: row for row in document["networks"]}
    namespace = build_namespace_name("router", router["id"])
    wanted = []
    for interface in [*(router.get("interfaces") or []), router.get("external")]:
        if not interface:
            continue
        network = networks.get(interface["network"])
        if network is None:
            raise KumoError(f"router {router['id']}: network {interface['network']} is not in document.networks")
        outside = interface is router.get("external")
        addresses, floating = interface["addresses"], []
        if outside:
            floating = [f"{address}/32" for address in nat.build_pairs(router)]
        elif network.get("home") == {"kind": "router", "id": router["id"]}:
            addresses = legs.build_homed_addresses(network, interface)
        mac = interface.get("mac") or build_mac(interface["port"])
        more = {"floating": floating, "outside": outside}
        wanted.append(legs.build_leg(document, network, interface["port"], mac, namespace, addresses, **more))
    return wanted


def build_routes(router: dict) -> dict[str, str]:
    """{destination: gateway} of a router: its default routes and its extra ones (those win)."""
    routes = {}
    for gateway in (router.get("external") or {}).get("gateways") or []:
        address = ipaddress.ip_address(gateway)
        routes["0.0.0.0/0" if address.version == 4 else "::/0"] = str(address)
    for row in router.get("routes") or []:
        routes[str(ipaddress.ip_network(row["destination"]))] = str(ipaddress.ip_address(row["nexthop"]))
    return routes


def _choose_row(router: dict, observed: dict) -> dict:
    """The router with the floating addresses that lead from this host now."""
    inside = observed["namespaces"].get(build_namespace_name("router", router["id"]))
    pairs = nat.parse_pairs(inside["chains"]["IPv4"]) if inside else {}
    return following.choose_row(router, observed["running"], pairs)


def _plan_note(document: dict, router: dict, observed: dict) -> list[Action]:
    note = following.build_note(document, router)
    if note == observed["notes"].get(router["id"]):
        return []
    served = sorted(following.list_followed({"routers": [router]}))
    after = f"floating addresses follow {', '.join(served)}\n" if note else ""
    return [Action(SECTION, router["id"], "follow", {"follow": note}, "", after)]


def plan_routers(document: dict, observed: dict) -> list[Action]:
    """Each router in an order that leaves no moment at which an address answers without its rules."""
    actions = []
    for router in document["routers"]:
        try:
            actions += _plan_router(document, _choose_row(router, observed), observed)
            actions += _plan_note(document, router, observed)
        except (KumoError, ValueError, KeyError) as error:
            sentence = f"field {error} is missing" if isinstance(error, KeyError) else str(error)
            actions.append(Action(SECTION, router["id"], "refuse", {"refuse": sentence}))
    tag = build_owner_tag(document["settings"]["state_dir"])
    wanted = {build_namespace_name("router", row["id"]) for row in document["routers"]}
    for name, inside in sorted(observed["namespaces"].items()):
        if name not in wanted and inside["links"].get("lo", {}).get("alias") == tag:
            args = {"remove": name, "links": [link for link in inside["links"] if link != "lo"]}
            actions.append(Action(SECTION, name[len(PREFIX) :], "remove", args, f"namespace {name}\n", ""))
    return actions + _plan_strays(document, observed, tag)


def _plan_strays(document: dict, observed: dict, tag: str) -> list[Action]:
    """Ends of legs whose other end is in no namespace that has a name (one that a hand removed under a daemon)."""
    kept = build_wanted_links(document)
    kept |= {link.replace("kvi", "kvo", 1) for inside in observed["namespaces"].values() for link in inside["links"]}
    strays = [n for n, link in observed["links"].items() if STRAY.fullmatch(n) and link["alias"] == tag]
    return [
        Action(SECTION, name, "remove_link", {"namespace": None, "ip": [f"link del dev {name}"]}, f"veth {name}\n", "")
        for name in sorted(set(strays) - kept)
    ]


def _plan_router(document: dict, router: dict, observed: dict) -> list[Action]:
    router_id, name = router["id"], build_namespace_name("router", router["id"])
    tag = build_owner_tag(document["settings"]["state_dir"])
    inside = observed["namespaces"].get(name)
    seen = inside or {"links": {}, "routes": {}, "sysctls": {}, "chains": {family: {} for family in FAMILIES}}
    actions = plan_namespace(SECTION, router_id, name, tag, inside and inside["links"])

    forget = set(observed["forget"].get(router_id, []))
    before, after = nat.parse_pairs(seen["chains"]["IPv4"]), nat.build_pairs(router)
    forget |= {floating for floating, fixed in before.items() if after.get(floating) != fixed}
    wanted = build_legs(document, router)
    changes = [(leg, legs.plan_leg(leg, observed["links"], seen["links"])) for leg in wanted]
    for _, change in changes:
        forget |= set(change["forget"]) if change else set()
    strays = legs.plan_strays([leg["inner"] for leg in wanted], seen["links"])
    # A leg that returns with other addresses must not find translations to those that are another's by then.
    for address in [ipaddress.ip_interface(a) for stray in strays for a in seen["links"][stray]["addresses"]]:
        forget |= {str(address.ip), str(address.network)}
    if forget - set(observed["forget"].get(router_id, [])):
        actions.append(Action(SECTION, router_id, "note", {"note": sorted(forget)}))

    rulesets = nat.build_rulesets(router)
    for family in FAMILIES:
        text = iptables.build_restore(rulesets[family], seen["chains"][family])
        if text:
            args = {"restore": text, "family": family, "namespace": name}
            old = _build_rules_text(seen["chains"][family])
            actions.append(Action(SECTION, router_id, "filter", args, old, _build_rules_text(rulesets[family])))
    for leg, change in changes:
        if change:
            verb = "connect" if change["create"] else "adjust"
            texts = change.pop("before"), change.pop("after")
            needs = (("networks", leg["network"]),)
            actions.append(Action(SECTION, router_id, verb, {"leg": leg, "change": change}, *texts, needs))
    if strays:
        args = {"namespace": name, "ip": [f"link del dev {stray}" for stray in strays]}
        actions.append(Action(SECTION, router_id, "disconnect", args, "\n".join(strays) + "\n", ""))
    if forget:
        args = {"forget": sorted(forget), "namespace": name}
        actions.append(Action(SECTION, router_id, "forget", args, f"connections of {' '.join(sorted(forget))}\n", ""))
    value = "1" if router.get("enabled", True) else "0"
    if any(seen["sysctls"].get(key) != value for key in FORWARDING if not inside or key in seen["sysctls"]):
        args = {"namespace": name, "sysctls": dict.fromkeys(FORWARDING, value)}
        old = f"forwarding {seen['sysctls'].get(FORWARDING[0], '0')}\n"
        actions.append(Action(SECTION, router_id, "forward", args, old, f"forwarding {value}\n"))
    return actions + _plan_routes(router, name, seen["routes"], [change for _, change in changes if change])


def _plan_routes(router: dict, name: str, held: dict, changes: list[dict]) -> list[Action]:
    """Default routes before extra ones. The kernel drops routes with a leg or its address: those are set again."""
    wanted = build_routes(router)
    lines = [f"route del {d} via {via} proto static" for d, via in sorted(held.items()) if d not in wanted]
    again = any(change["create"] or any(line.startswith("addr del") for line in change["inside"]) for change in changes)
    for destination, gateway in sorted(wanted.items(), key=lambda row: (not row[0].endswith("/0"), row[0])):
        if again or held.get(destination) != gateway:
            lines.append(f"route replace {destination} via {gateway} proto static")
    if not lines:
        return []
    args = {"namespace": name, "routes": lines}
    return [Action(SECTION, router["id"], "route", args, _build_routes_text(held), _build_routes_text(wanted))]


def _build_routes_text(routes: dict) -> str:
    return "".join(f"{destination} via {gateway}\n" for destination, gateway in sorted(routes.items()))


def _build_rules_text(ruleset: dict) -> str:
    rows = [f"{t} {c} {rule}" for t, of in sorted(ruleset.items()) for c, rules in sorted(of.items()) for rule in rules]
    return "".join(row + "\n" for row in rows)


def apply_routers(document: dict, action: Action) -> None:
    """One planned change; KumoError says what ip, iptables or the kernel refused."""
    args = action.args
    if "refuse" in args:
        raise KumoError(args["refuse"])
    if "make" in args:
        apply_made_namespace(args)
    elif "note" in args:
        files.apply_json(_journal(document, action.object_id), args["note"])
    elif "follow" in args:
        following.apply_note(document, action.object_id, args["follow"])
    elif "restore" in args:
        iptables.apply_restore(args["restore"], args["family"], args["namespace"])
    elif "leg" in args:
        legs.apply_leg(args["leg"], args["change"])
    elif "forget" in args:
        apply_forgetting(args["namespace"], args["forget"])
        _journal(document, action.object_id).unlink(missing_ok=True)
    elif "sysctls" in args:
        with namespaces.enter(args["namespace"]):
            namespaces.apply_sysctls(args["sysctls"])
    elif "routes" in args:
        _apply_routes(args["routes"], args["namespace"])
    elif "remove" in args:
        namespaces.apply_absence(args["remove"], args["links"], document["settings"]["state_dir"])
        _journal(document, action.object_id).unlink(missing_ok=True)
        following.apply_note(document, action.object_id, None)
    else:
        links.apply_batch(args["ip"], args["namespace"])


def apply_following(document: dict, server_id: str) -> None:
    """Bring the routers with an address that follows a server to what their notes say now. For a task of its move."""
    for note in following.read_notes(document, server_id):
        observed = read_routers(note)
        for router in note["routers"]:
            for action in _plan_router(note, _choose_row(router, observed), observed):
                apply_routers(note, action)


def _apply_routes(lines: list[str], namespace: str) -> None:
    """Set routes; one that its leg's removal took away already is no error, and the others are tried first."""
    refused = []
    for line in lines:
        try:
            links.apply_batch([line], namespace)
        except KumoError as error:
            if not line.startswith("route del"):
                refused.append(str(error))
    if refused:
        raise KumoError("; ".join(refused))


def apply_forgetting(namespace: str, addresses: list[str]) -> None:
    """Remove every connection of ``addresses`` from a namespace's connection tracking, whichever end they are.

    Ranges "a/length" may be among them; conntrack matches those at the opening end of a connection only.
    """
    with namespaces.enter(namespace):
        for address in addresses:
            family = "ipv6" if ":" in address else "ipv4"
            for side in ("--orig-src", "--orig-dst", "--reply-src", "--reply-dst")[: 2 if "/" in address else 4]:
                done = iptables.run_tool(["conntrack", "-D", "-f", family, side, address])
                if done.returncode and "0 flow entries" not in done.stderr:
                    raise KumoError(f"conntrack -D {side} {address}: {' '.join(done.stderr.split())}")


def report_routers(document: dict, observed: dict) -> dict:
    """{routers: {id: {state}}, floating_ips: {id: {state}}, ports: {id: {state}}} as active or down."""
    routers, floating, ports = {}, {}, {}
    for router in document["routers"]:
        inside = observed["namespaces"].get(build_namespace_name("router", router["id"]))
        enabled = router.get("enabled", True)
        up = bool(inside) and inside["sysctls"].get(FORWARDING[0]) == ("1" if enabled else "0")
        external = router.get("external")
        pairs = nat.parse_pairs(inside["chains"]["IPv4"]) if inside else {}
        for interface in [*(router.get("interfaces") or []), external]:
            if interface:
                link = inside["links"].get(build_inner_veth_name(interface["port"])) if inside else None
                ports[interface["port"]] = {"state": "active" if link and link["up"] else "down"}
        held = []
        if external and inside:
            held = inside["links"].get(build_inner_veth_name(external["port"]), {}).get("addresses", [])
        for row in router.get("floating_ips") or []:
            address = row["floating_address"]
            leads = pairs.get(address) == row["fixed_address"] and f"{address}/32" in held
            if row.get("follows") and not leads:
                continue  # it is where its guest is
            floating[row["id"]] = {"state": "active" if up and enabled and leads else "down"}
        connected = all(ports[i["port"]]["state"] == "active" for i in router.get("interfaces") or [])
        routers[router["id"]] = {"state": "active" if up and enabled and connected else "down"}
    return {"routers": routers, "floating_ips": floating, "ports": ports}
