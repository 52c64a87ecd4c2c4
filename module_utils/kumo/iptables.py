"""Kumo's own iptables chains: read as rules, compared, and replaced in one transaction per table.

Owns the text of iptables-save and iptables-restore. It changes only chains whose name begins with
``kumo-`` and the jumps to them from built-in chains; every other rule stays as and where it is.
What the chains hold is decided by ``firewall.py`` (ports) and ``routers.py`` (NAT). Next: ``firewall.py``.

A *ruleset* is ``{table: {chain: [rule, ...]}}``; a rule is what iptables-save prints after ``-A CHAIN ``.
Under a built-in chain (``FORWARD``) stand only the rules that lead to ``kumo-`` chains. The family is
IPv4, IPv6 or Ethernet; the last is ebtables, whose chains Kumo ends with a rule instead of a policy.
"""

from __future__ import annotations

import functools
import os
import re
import socket
import subprocess

from .errors import KumoError
from .names import PREFIX

TOOLS = {"IPv4": "iptables", "IPv6": "ip6tables", "Ethernet": "ebtables"}
TIMEOUT_S = 30
_LINE = re.compile(r"line:? (\d+)")
_TARGET = re.compile(r"-[jg] (\S+)")
_PROTOCOL = re.compile(r"(?<=-p )(?!\d+\b)(\S+)")


class RefusedRule(KumoError):
    """iptables refused one line: ``number`` counts from 1, ``line`` is its text ('' where unknown)."""

    def __init__(self, sentence: str, number: int, line: str):
        super().__init__(sentence)
        self.number = number
        self.line = line


def run_tool(arguments: list[str], stdin: str | None = None, namespace: str | None = None):
    """Run one command of the packet filter (in ``namespace``); KumoError where it is missing or hangs."""
    if namespace:
        arguments = ["ip", "netns", "exec", namespace, *arguments]
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        return subprocess.run(
            arguments, input=stdin, capture_output=True, text=True, timeout=TIMEOUT_S, env=environment, check=False
        )
    except FileNotFoundError:
        raise KumoError(f"{arguments[0]} is not installed on this host") from None
    except subprocess.TimeoutExpired:
        raise KumoError(f"{' '.join(arguments)} did not end within {TIMEOUT_S} s") from None


@functools.cache
def _protocol_number(name: str) -> str:
    try:
        return str(socket.getprotobyname(name))
    except OSError:
        return name


def normalise_rule(rule: str) -> str:
    """A rule with what iptables prints in more than one way made one (protocols as numbers, single spaces)."""
    return " ".join(_PROTOCOL.sub(lambda match: _protocol_number(match[1]), rule).split())


def parse_save(text: str) -> dict[str, dict[str, list[str]]]:
    """The ruleset in iptables-save's output: ``kumo-`` chains whole, built-ins only where they lead to those."""
    tables: dict[str, dict[str, list[str]]] = {}
    chains: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("*"):
            chains = tables.setdefault(line[1:].strip(), {})
        elif line.startswith(f":{PREFIX}"):
            chains.setdefault(line[1:].split()[0], [])
        elif line.startswith("-A "):
            _, chain, rule = line.split(" ", 2)
            if chain.startswith(PREFIX) or f"-j {PREFIX}" in rule or f"-g {PREFIX}" in rule:
                chains.setdefault(chain, []).append(rule.strip())
    return {table: chains for table, chains in tables.items() if chains}


def read_chains(family: str, namespace: str | None = None) -> dict[str, dict[str, list[str]]]:
    """The ruleset of Kumo's chains as they are now. KumoError where it cannot be read."""
    done = run_tool([f"{TOOLS[family]}-save"], namespace=namespace)
    if done.returncode:
        raise KumoError(f"{TOOLS[family]}-save failed: {done.stderr.strip()}")
    return parse_save(done.stdout)


def choose_chains(ruleset: dict, owned: str) -> dict[str, dict[str, list[str]]]:
    """Of ``ruleset`` the ``kumo-`` chains whose whole name the pattern ``owned`` matches, and the jumps to those.

    For a namespace that several sections share (the host's own): each compares and removes only its chains.
    """
    pattern = re.compile(owned)
    chosen: dict[str, dict[str, list[str]]] = {}
    for table, chains in ruleset.items():
        for chain, rules in chains.items():
            if chain.startswith(PREFIX):
                if pattern.fullmatch(chain):
                    chosen.setdefault(table, {})[chain] = rules
                continue
            jumps = [rule for rule in rules if pattern.fullmatch(_TARGET.search(rule)[1])]
            if jumps:
                chosen.setdefault(table, {})[chain] = jumps
    return chosen


def rules_differ(wanted: list[str], present: list[str]) -> bool:
    """Whether two lists of rules differ in more than the way they are written."""
    return [normalise_rule(rule) for rule in wanted] != [normalise_rule(rule) for rule in present]


def build_restore(
    wanted: dict[str, dict[str, list[str]]],
    present: dict[str, dict[str, list[str]]] | None = None,
    declaration: str = "- [0:0]",
    misplaced: tuple = (),
) -> str:
    """iptables-restore's input (for ``--noflush``) that turns ``present`` into ``wanted``; '' where they agree.

    Both are rulesets. A ``kumo-`` chain that differs is emptied and filled again; one that is present but
    not wanted is removed. Under a built-in chain stand the jumps wanted at its top, in order; those that are
    there but differ are taken out by their text. iptables applies each table as one transaction.
    ``declaration`` is what follows a chain's name (ebtables wants a policy: RETURN); ``misplaced`` lists
    (table, built-in chain) whose jumps are to be put at the top again.
    """
    present = present or {}
    text = []
    for table in sorted({*wanted, *present}):
        new, old = wanted.get(table, {}), present.get(table, {})
        own_new = {chain: rules for chain, rules in new.items() if chain.startswith(PREFIX)}
        gone = sorted(chain for chain in old if chain.startswith(PREFIX) and chain not in own_new)
        changed = sorted(c for c in own_new if c not in old or rules_differ(own_new[c], old[c]))
        lines = [f":{chain} {declaration}" for chain in changed]
        lines += [f"-A {chain} {rule}" for chain in changed for rule in own_new[chain]]
        for chain in sorted({*new, *old}):
            same = not rules_differ(new.get(chain, []), old.get(chain, [])) and (table, chain) not in misplaced
            if chain.startswith(PREFIX) or same:
                continue
            lines += [f"-D {chain} {rule}" for rule in old.get(chain, [])]
            lines += [f"-I {chain} {place} {rule}" for place, rule in enumerate(new.get(chain, []), 1)]
        lines += [f"-F {chain}" for chain in gone] + [f"-X {chain}" for chain in gone]
        if lines:
            text += [f"*{table}", *lines, "COMMIT"]
    return "\n".join([*text, ""]) if text else ""


def apply_restore(text: str, family: str, namespace: str | None = None) -> None:
    """Feed ``text`` to iptables-restore (``--noflush``, waiting for its lock); RefusedRule names the refused line.

    Each table is one transaction: a refused line leaves its table as it was.
    """
    tool = f"{TOOLS[family]}-restore"
    wait = [] if family == "Ethernet" else ["-w"]
    done = run_tool([tool, *wait, "--noflush"], stdin=text, namespace=namespace)
    if done.returncode == 0:
        return
    complaint = " ".join(part.strip() for part in done.stderr.splitlines() if "Try `" not in part)
    found = _LINE.search(done.stderr)
    if not found:
        raise KumoError(f"{tool} failed: {complaint or f'exit code {done.returncode}'}")
    number = int(found[1])
    lines = text.splitlines()
    line = lines[number - 1] if 0 < number <= len(lines) else ""
    raise RefusedRule(f"{tool} refused line {number} ({line or 'unknown'}): {complaint}", number, line)


def apply_chains(
    wanted: dict[str, dict[str, list[str]]], family: str, namespace: str | None = None, owned: str = f"{PREFIX}.*"
) -> str:
    """Read, compare and replace: Kumo's chains in ``namespace`` become exactly ``wanted``; the text applied or ''.

    ``owned`` is a pattern of whole chain names: chains that it does not match are left alone.
    """
    present = choose_chains(read_chains(family, namespace), owned)
    text = build_restore(wanted, present, "RETURN" if family == "Ethernet" else "- [0:0]")
    if text:
        apply_restore(text, family, namespace)
    return text
