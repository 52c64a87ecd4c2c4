"""Physical networks: bridges with the host's own addresses on them, and the machine's masquerading for them.

What was created is recorded in ``state_dir/physical.json`` and what of /proc/sys was changed in
``state_dir/sysctl-before.json``, so that a document without them leaves the machine as it was. Part of the
section networks; next: networks.py.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re

from . import files, iptables, namespaces
from .bridges import VXLAN_PORT, build_bridge_lines, build_uplink
from .core import state_path
from .errors import KumoError
from .links import apply_batch, parse_address
from .names import build_owner_tag

FORWARDING = "net/ipv4/ip_forward"
OWNED_CHAINS = "kumo-(masquerade|forward|input)"
HOST = "host"
LINK_NAME = re.compile(r"[A-Za-z0-9_.-]{1,15}")


def read_physical(document: dict) -> dict:
    """What of the physical networks is not a link: {created, sysctls, before, chains}."""
    return {
        "created": files.read_json(state_path(document, "physical.json"), {}),
        "before": files.read_json(state_path(document, "sysctl-before.json"), {}),
        "sysctls": namespaces.read_sysctls([FORWARDING]),
        "chains": iptables.choose_chains(iptables.read_chains("IPv4"), OWNED_CHAINS),
    }


def _check_name(text, field: str) -> str:
    if not isinstance(text, str) or not LINK_NAME.fullmatch(text) or text in (".", ".."):
        raise KumoError(f"{field}: {text!r} is not the name of an interface")
    return text


def build_chains(document: dict) -> dict:
    """The ruleset of the host's own namespace: masquerading, forwarding for it, and the host hidden from tenants.

    A frame that a guest addresses to its bridge's MAC would reach the host: kumo-input and the first rule of
    kumo-forward drop what comes in on a tenant's bridge. Bridged traffic has the bridge as both interfaces.
    """
    physical = [row for _, row in sorted(document["settings"]["physical_networks"].items())]
    if not physical and not document["networks"]:
        return {}
    # With br_netfilter a bridged frame passes these chains too, and a router's own SNAT must stand.
    masquerade, forward = ["-m physdev --physdev-is-bridged -j RETURN"], ["-i kbr+ ! -o kbr+ -j DROP"]
    tunnels, locked = _build_tunnel_rules(document)
    forward += tunnels
    for row in physical:
        if not row.get("masquerade"):
            continue
        bridge = _check_name(row.get("bridge"), "settings.physical_networks.bridge")
        for address in row.get("addresses") or []:
            interface = ipaddress.ip_interface(address)
            if interface.version == 4:
                masquerade.append(f"-s {interface.network} ! -o {bridge} -j MASQUERADE")
        forward.append(f"-i {bridge} ! -o {bridge} -j ACCEPT")
        forward.append(f"! -i {bridge} -o {bridge} -j ACCEPT")
        forward.append(
            f"-i {bridge} -o {bridge} -m physdev --physdev-in kvo+ --physdev-out kvo+ --physdev-is-bridged -j ACCEPT"
        )
    ruleset = {
        "filter": {
            "kumo-forward": forward,
            "kumo-input": ["-i kbr+ -j DROP", *locked],
            "FORWARD": ["-j kumo-forward"],
            "INPUT": ["-j kumo-input"],
        }
    }
    if masquerade[1:]:
        ruleset["nat"] = {"kumo-masquerade": masquerade, "POSTROUTING": ["-j kumo-masquerade"]}
    return ruleset


def _build_tunnel_rules(document: dict) -> tuple[list[str], list[str]]:
    """(rules of forwarding, rules of input): VXLAN is spoken by hosts alone.

    The kernel takes a VXLAN packet from anybody, and a guest's packet may leave with its host's own address:
    without these a tenant could write frames into another's network.
    """
    own, peers = set(), set()
    for network in document["networks"]:
        if (network.get("segmentation") or {}).get("type") == "vxlan":
            with contextlib.suppress(KumoError):  # told at the network
                uplink = build_uplink(network, document["settings"])
                own.add(uplink["local"])
                peers |= set(uplink["peers"])
    port = f"-p udp -m udp --dport {VXLAN_PORT}"
    forward = [f"-d {address}/32 {port} -j DROP" for address in sorted(own | peers)]
    inward = [f"-s {peer}/32 -d {address}/32 {port} -j RETURN" for address in sorted(own) for peer in sorted(peers)]
    return forward, inward + [f"-d {address}/32 {port} -j DROP" for address in sorted(own)]


def plan_physical(document: dict, observed: dict) -> list[tuple]:
    """(object id, verb, args, before, after) of each change to physical networks and the host's own rules."""
    tag = build_owner_tag(document["settings"]["state_dir"])
    state, links = observed["physical"], observed["links"]
    changes = []
    for name, row in sorted(document["settings"]["physical_networks"].items()):
        bridge = _check_name(row.get("bridge"), f"settings.physical_networks.{name}.bridge")
        changes += _plan_bridge(name, bridge, row, links, tag, state["created"])
    wanted = {row["bridge"] for row in document["settings"]["physical_networks"].values()}
    for bridge in sorted(set(state["created"]) - wanted):
        seen = links.get(bridge)
        if (
            seen
            and seen["alias"] == tag
            and any(link["bridge"] == bridge and name.startswith("ktp") for name, link in links.items())
        ):
            continue
        lines = [f"link del dev {bridge}"] if seen and seen["alias"] == tag else []
        args = {"ip": lines, "forget": bridge}
        changes.append((state["created"][bridge], "remove_physical", args, f"bridge {bridge}\n", ""))
    text = iptables.build_restore(build_chains(document), state["chains"])
    if text:
        changes.append((HOST, "filter", {"restore": text}, _build_rules_text(state["chains"]), text))
    masquerading = any(row.get("masquerade") for row in document["settings"]["physical_networks"].values())
    if masquerading and state["sysctls"].get(FORWARDING) != "1":
        before = f"{FORWARDING} {state['sysctls'].get(FORWARDING)}\n"
        changes.append((HOST, "forward", {"sysctls": {FORWARDING: "1"}}, before, f"{FORWARDING} 1\n"))
    if not masquerading and FORWARDING in state["before"]:
        value = state["before"][FORWARDING]
        args = {"restore_sysctl": FORWARDING, "value": value}
        changes.append((HOST, "restore", args, f"{FORWARDING} 1\n", f"{FORWARDING} {value}\n"))
    return changes


def _build_rules_text(chains: dict) -> str:
    rows = [f"{t} {c} {rule}" for t, of in sorted(chains.items()) for c, rules in sorted(of.items()) for rule in rules]
    return "".join(row + "\n" for row in rows)


def _plan_bridge(name: str, bridge: str, row: dict, links: dict, tag: str, created: dict) -> list[tuple]:
    seen = links.get(bridge)
    ours = not seen or seen["alias"] == tag
    lines = build_bridge_lines(bridge, tag) if not seen else []
    if seen and seen["kind"] != "bridge":
        raise KumoError(f"settings.physical_networks.{name}.bridge: {bridge} exists and is no bridge")
    interface = row.get("interface")
    if interface:
        _check_name(interface, f"settings.physical_networks.{name}.interface")
        port = links.get(interface)
        if not port or port["bridge"] != bridge or not port["up"]:
            lines.append(f"link set dev {interface} master {bridge} up")
    wanted = [parse_address(a, f"settings.physical_networks.{name}.addresses") for a in row.get("addresses") or []]
    held = seen["addresses"] if seen else []
    lines += [f"addr del {address} dev {bridge}" for address in held if ours and address not in wanted]
    lines += [
        f"addr add {address} dev {bridge}" + (" nodad" if ":" in address else " brd +")
        for address in wanted
        if address not in held
    ]
    if not seen or not seen["up"]:
        lines.append(f"link set dev {bridge} up")
    if not lines:
        return []
    blocked = bool(interface and links.get(interface, {}).get("addresses") and links[interface]["bridge"] != bridge)
    args = {
        "ip": lines,
        "remember": {bridge: name} if not seen and bridge not in created else {},
        "refuse": f"interface {interface} has addresses of its own; move them to {bridge} first" if blocked else None,
    }
    before = f"bridge {bridge}\naddresses {' '.join(held)}\n" if seen else ""
    after = f"bridge {bridge}\naddresses {' '.join(wanted)}\n" + (f"interface {interface}\n" if interface else "")
    return [(name, "adjust_physical" if seen else "create_physical", args, before, after)]


def apply_physical(document: dict, args: dict) -> None:
    """One change that plan_physical planned."""
    record = state_path(document, "physical.json")
    if args.get("refuse"):
        raise KumoError(args["refuse"])
    if args.get("remember"):
        files.apply_json(record, {**files.read_json(record, {}), **args["remember"]})
    apply_batch(args.get("ip", []))
    if args.get("restore"):
        iptables.apply_restore(args["restore"], "IPv4")
    for name, value in args.get("sysctls", {}).items():
        apply_sysctl(document, name, value)
    if args.get("restore_sysctl"):
        restore_sysctl(document, args["restore_sysctl"])
    if args.get("forget"):
        kept = {bridge: name for bridge, name in files.read_json(record, {}).items() if bridge != args["forget"]}
        files.apply_json(record, kept)


def apply_sysctl(document: dict, name: str, value: str) -> None:
    """Set one of the host's own /proc/sys settings, its first value kept in ``sysctl-before.json``."""
    path = state_path(document, "sysctl-before.json")
    before = files.read_json(path, {})
    if name not in before:
        files.apply_json(path, {**before, **namespaces.read_sysctls([name])})
    namespaces.apply_sysctls({name: value})


def restore_sysctl(document: dict, name: str) -> None:
    """Give a setting back the value that apply_sysctl found, and forget it."""
    path = state_path(document, "sysctl-before.json")
    before = files.read_json(path, {})
    if name in before:
        namespaces.apply_sysctls({name: before.pop(name)})
        files.apply_json(path, before)
