"""The section firewall: Kumo's chains on this host, their conntrack zones, and the flows they no longer allow.

All ports' chains change in one action of the object ``host``: one transaction per table, IPv4 and IPv6
both or neither. What of one port cannot be kept is that port's own failure, named by a ``refuse`` action;
the rest of its rules, and everyone else's, are applied. Rules are decided in ``chains.py``; no other
tool's rule is ever touched. Next: ``metadata.py``, then the guests.

``state_dir/firewall.json`` remembers what was granted, so that what shrank is known after any crash.
"""

from __future__ import annotations

import dataclasses
import re

from . import conntrack, files, iptables, namespaces
from .chains import BASES, build_base_name, build_rulesets, build_tag, parse_ports
from .core import STATE_DIR, Action, state_path
from .errors import KumoError
from .names import build_chain_name, build_group_chain_name
from .physical import apply_sysctl, restore_sysctl
from .security_groups import FAMILIES, Grant, parse_members

SECTION = "firewall"
HOST = "host"
SYSCTLS = {"net/bridge/bridge-nf-call-iptables": "1", "net/bridge/bridge-nf-call-ip6tables": "1"}
KINDS = (*FAMILIES, "Ethernet")
DECLARATIONS = {"IPv4": "- [0:0]", "IPv6": "- [0:0]", "Ethernet": "RETURN"}
MOST_REFUSALS = 20
_OUR_JUMP = re.compile(rf"-j kumo-({'|'.join(BASES)})(-[0-9a-f]{{6}})?$")
_GRANT_LINE = re.compile(r"-A kumo-[iog][0-9a-f]{11} .*-j (RETURN|ACCEPT|kumo-g[0-9a-f]{11})")


def read_firewall(document: dict) -> dict:
    """{"host": {chains: {family: ruleset}, sysctls, before, granted}}: all ``kumo-`` chains of this namespace."""
    return {
        HOST: {
            "chains": {kind: iptables.read_chains(kind) for kind in KINDS},
            "sysctls": namespaces.read_sysctls(SYSCTLS),
            "before": files.read_json(state_path(document, "sysctl-before.json"), {}),
            "granted": files.read_json(state_path(document, "firewall.json")),
        }
    }


def _build_granted(document: dict, ports: list) -> dict:
    named = {grant.group for port in ports for grant in port.grants if grant.group}
    return {
        "groups": {
            group["id"]: {family: parse_members(group, family)[0] for family in FAMILIES}
            for group in document["security_groups"]
            if group["id"] in named
        },
        "ports": {
            port.id: {
                "zone": port.zone,
                # in zone 0, the host's own, a whole range's flows are not ours to remove
                "addresses": [a for a in port.addresses() if port.zone or a.endswith(("/32", "/128"))],
                "grants": [list(dataclasses.astuple(grant)) for grant in port.grants],
            }
            for port in ports
        },
    }


def _assume_granted(wanted: dict, chains: dict) -> dict:
    """What to compare with where the record is lost: every port that has chains could do anything."""
    present = {chain for kind in FAMILIES for chain in chains[kind].get("filter", {})}
    anything = [list(dataclasses.astuple(Grant(d, f))) for d in ("egress", "ingress") for f in FAMILIES]
    return {
        "groups": {},
        "ports": {
            port_id: {**port, "grants": anything}
            for port_id, port in wanted["ports"].items()
            if build_chain_name("i", port_id) in present
        },
    }


def _choose_own(chains: dict, tag: str, granted: dict, rulesets: dict) -> dict[str, dict]:
    """Of all ``kumo-`` chains those of this state directory: base, known, wanted, or led to by one of them."""
    own = {build_base_name(base, tag) for base in BASES}
    for port_id in granted.get("ports", {}):
        own |= {build_chain_name(letter, port_id) for letter in "ios"}
    own |= {build_group_chain_name(group) for group in granted.get("groups", {})}
    chosen = {}
    for kind, ruleset in chains.items():
        names = own | {chain for table in rulesets[kind].values() for chain in table if chain.startswith("kumo-")}
        for _ in range(3):  # base, port, group: three steps reach everything
            for table in ruleset.values():
                for chain in names & set(table):
                    names |= set(re.findall(r"-[jg] (kumo-[iosgu][0-9a-f]{11})\b", "\n".join(table[chain])))
        chosen[kind] = iptables.choose_chains(ruleset, "|".join(re.escape(name) for name in sorted(names)))
    return chosen


def _find_misplaced(ruleset: dict, own: dict) -> tuple:
    """The (table, built-in chain) where another section's jump stands before the firewall's."""
    return tuple(
        (table, chain)
        for table, chains in own.items()
        for chain in chains
        if not chain.startswith("kumo-") and not _OUR_JUMP.search(ruleset[table][chain][0])
    )


def _describe(ruleset: dict, other: dict, family: str) -> str:
    lines = []
    for table, chains in sorted(ruleset.items()):
        for chain, rules in sorted(chains.items()):
            theirs = other.get(table, {}).get(chain)
            if theirs is None or iptables.rules_differ(rules, theirs):
                lines += [f"{family} {table} {chain} {iptables.normalise_rule(rule)}" for rule in rules or ["(empty)"]]
    return "".join(f"{line}\n" for line in lines)


def plan_firewall(document: dict, observed: dict) -> list[Action]:
    """At most one action for the host's chains and flows, and one ``refuse`` for every port with a fault."""
    seen = observed[HOST]
    ports, faults = parse_ports(document)
    wanted = _build_granted(document, ports)
    granted = seen["granted"]
    if granted is None:
        granted = _assume_granted(wanted, seen["chains"])
    filters, shrunk = conntrack.build_revocations(granted, wanted)
    strict = {port for port, row in granted["ports"].items() if row.get("strict")} | set(shrunk)
    for port_id, row in wanted["ports"].items():
        row["strict"] = port_id in strict
    tag = build_tag(document["settings"]["state_dir"], STATE_DIR)
    rulesets = build_rulesets(document, ports, strict, tag)
    own = _choose_own(seen["chains"], tag, granted, rulesets)
    actions = []
    sysctls = {name: value for name, value in SYSCTLS.items() if seen["sysctls"].get(name) != value}
    if rulesets["IPv4"] and sysctls:
        words = [" ".join(f"{name}={row.get(name)}\n" for name in sysctls) for row in (seen["sysctls"], SYSCTLS)]
        actions.append(Action(SECTION, HOST, "filter_bridges", {"sysctls": sysctls}, *words))
    texts = {
        kind: iptables.build_restore(
            rulesets[kind], own[kind], DECLARATIONS[kind], _find_misplaced(seen["chains"][kind], own[kind])
        )
        for kind in KINDS
    }
    texts = {kind: text for kind, text in texts.items() if text}
    if texts or filters or (wanted != seen["granted"] and (wanted["ports"] or seen["granted"])):
        before = "".join(_describe(own[kind], rulesets[kind], kind) for kind in KINDS)
        after = "".join(_describe(rulesets[kind], own[kind], kind) for kind in KINDS)
        before += "".join(f"flows {' '.join(words)}\n" for words in filters)
        args = {"texts": texts, "own": own, "flows": filters, "granted": wanted}
        actions.append(Action(SECTION, HOST, "replace_chains", args, before, after))
    if not rulesets["IPv4"]:
        for name in SYSCTLS:
            if name in seen["before"]:
                actions.append(Action(SECTION, HOST, "unfilter_bridges", {"restore_sysctl": name}, name, ""))
    for port_id, sentences in sorted(faults.items()):
        text = "; ".join(sentences)
        actions.append(
            Action(SECTION, port_id, "refuse", {"error": f"port {port_id}: {text}"}, "", f"refused: {text}\n")
        )
    return actions


def _apply_text(text: str, kind: str) -> list[str]:
    """Apply ``text``; lines that let something pass and that this host's iptables refuses are left out and returned.

    A line that closes something is never left out: then the error is raised and nothing is applied.
    """
    refused: list[str] = []
    while True:
        try:
            iptables.apply_restore(text, kind)
            return refused
        except iptables.RefusedRule as error:
            if len(refused) >= MOST_REFUSALS or not _GRANT_LINE.fullmatch(error.line):
                raise
            refused.append(str(error))
            lines = text.splitlines()
            del lines[error.number - 1]
            text = "\n".join([*lines, ""])


def _put_back(own: dict, texts: dict, kinds: list[str]) -> None:
    """Make the chains of ``kinds`` what they were in ``own``, after a part of ``texts`` was applied."""
    for kind in kinds:
        names = {chain for table in own[kind].values() for chain in table if chain.startswith("kumo-")}
        names |= set(re.findall(r"^:(kumo-\S+)", texts[kind], re.MULTILINE))
        ruleset = iptables.read_chains(kind)
        present = iptables.choose_chains(ruleset, "|".join(re.escape(name) for name in sorted(names)))
        text = iptables.build_restore(own[kind], present, DECLARATIONS[kind])
        if text:
            iptables.apply_restore(text, kind)


def apply_firewall(document: dict, action: Action) -> None:
    """One planned change; KumoError names the line that the packet filter refused, or the port's fault."""
    args = action.args
    if action.verb == "refuse":
        raise KumoError(args["error"])
    if action.verb == "unfilter_bridges":
        return restore_sysctl(document, args["restore_sysctl"])
    if action.verb == "filter_bridges":
        if not namespaces.read_sysctls(SYSCTLS):
            iptables.run_tool(["modprobe", "br_netfilter"])
        if not namespaces.read_sysctls(SYSCTLS):
            raise KumoError("this kernel does not show bridged packets to iptables (module br_netfilter)")
        for name, value in args["sysctls"].items():
            apply_sysctl(document, name, value)
        return None
    refused, done = [], []
    for kind in KINDS:
        if kind not in args["texts"]:
            continue
        done.append(kind)
        try:
            refused += _apply_text(args["texts"][kind], kind)
        except KumoError:
            _put_back(args["own"], args["texts"], done)
            raise
    conntrack.apply_revocations(args["flows"])
    files.apply_json(state_path(document, "firewall.json"), args["granted"])
    if refused:
        raise KumoError("left out: " + "; ".join(refused))
    return None


def report_firewall(document: dict, observed: dict) -> dict:
    """Nothing: whether a port is up is seen at its tap, by the section servers."""
    return {}
