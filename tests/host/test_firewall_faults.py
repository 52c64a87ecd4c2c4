"""The firewall of a host, disturbed at each step: the next runs end where undisturbed ones had, flows included.

A host of its own (`firewall_lab.py`) with two guests and an open connection; what is compared is what iptables-save,
ebtables-save and conntrack show. Networks and routers have `test_networks_faults.py`.
"""

from __future__ import annotations

import copy
import json
import os
import re
import time
from pathlib import Path

import pytest
from fault_lab import FAULTY, PYTHON, RECOVERY_S, WAYS, build_request, check_each_point, check_same
from firewall_lab import Lab, allow_out, connects, rule, run

PORT, KEPT = 22, 80
TCP = {"protocol": "tcp"}
TOOLS = ("iptables", "ip6tables", "ebtables")


class GuardedHost:
    """The lab's host and the states of its document: ``build`` changes a copy of the one with everything in it."""

    def __init__(self, lab: Lab):
        self.lab = lab
        network = lab.network(v6="fd00::/64")
        self.friends = lab.group()
        self.group = lab.group(
            *allow_out(),
            rule(port_min=PORT, port_max=PORT, remote_cidr="10.0.0.0/24", **TCP),
            rule(port_min=KEPT, port_max=KEPT, **TCP),
            rule(remote_group=self.friends["id"]),
        )
        self.friends["members"] = {"IPv4": ["10.0.0.9"], "IPv6": []}
        self.port, self.guest = lab.guest(network, "10.0.0.5", self.group, v6="fd00::5")
        lab.guest(network, "10.0.0.6", self.group)
        self.client = lab.gateway(network, "10.0.0.1", v6="fd00::1")
        self.full = copy.deepcopy(lab.document)
        self.note = Path(lab.document["settings"]["state_dir"], "step.note")

    def settle(self, document: dict) -> None:
        deadline = time.monotonic() + RECOVERY_S
        while (result := self.lab.apply(document))["actions"]:
            assert time.monotonic() < deadline, result["objects"]
        assert all(one["ok"] for one in result["objects"]["firewall"].values()), result["objects"]
        if document is self.before:  # two flows that its rules let in: one of them ends with its rule
            assert all(connects(self.client, "10.0.0.5", port) for port in self.flows)

    def call(self, document, step, way):
        request = build_request(document, ("firewall",), step, way, self.note)
        enter = ["nsenter", f"--net=/run/netns/{self.lab.name}"]
        done = run(*enter, PYTHON, "-c", FAULTY, stdin=request, timeout=60, check=False)
        noted = json.loads(self.note.read_text()) if self.note.exists() else None
        self.note.unlink(missing_ok=True)
        return done, noted

    def read(self) -> dict:
        """Rules without counters, sysctls, and the flows to the guest's ports by the zone and port they are in."""
        space = self.lab.name
        text = run("conntrack", "-L", "-p", "tcp", namespace=space, check=False).stdout
        flows = {found.groups() for found in re.finditer(r"dst=(10\.\S+) .*?dport=(\d+) src=.*?(zone=\d+)", text)}
        keys = ("net.bridge.bridge-nf-call-iptables", "net.bridge.bridge-nf-call-ip6tables")
        state_dir = Path(self.lab.document["settings"]["state_dir"])
        return {
            "rules": {tool: re.findall(r"^(?::kumo-\S+|-A .*)", self.lab.save(tool), re.MULTILINE) for tool in TOOLS},
            "flows": sorted(flows),
            "sysctls": run("sysctl", *keys, namespace=space, check=False).stdout,
            "files": sorted(path.name for path in state_dir.rglob("*") if path.name != "firewall.json"),
        }  # fmt: skip


def without_ports(full: dict) -> dict:
    return {**full, "ports": [], "security_groups": []}


def without_networks(full: dict) -> dict:
    return {**without_ports(full), "networks": []}


def without_rule(full: dict) -> dict:
    changed = copy.deepcopy(full)
    del changed["security_groups"][1]["rules"][2]
    return changed


def with_rule(full: dict) -> dict:
    changed = copy.deepcopy(full)
    changed["security_groups"][1]["rules"].append(rule(ethertype="IPv6", port_min=443, port_max=443, **TCP))
    return changed


def with_members(full: dict) -> dict:
    changed = copy.deepcopy(full)
    changed["security_groups"][0]["members"] = {"IPv4": ["10.0.0.6"], "IPv6": ["fd00::6"]}
    return changed


def with_another_group(full: dict) -> dict:
    changed = copy.deepcopy(full)
    changed["security_groups"].append({**changed["security_groups"][1], "id": names_group(), "rules": allow_out()})
    changed["ports"][0]["security_groups"] = [changed["security_groups"][2]["id"]]
    return changed


def names_group() -> str:
    return "67726f75-0000-4000-8000-000000000001"


def without_guard(full: dict) -> dict:
    changed = copy.deepcopy(full)
    changed["ports"][0]["port_security"] = False
    return changed


def without_guest(full: dict) -> dict:
    return {**full, "ports": full["ports"][1:]}


def as_it_is(full: dict) -> dict:
    return full


# name: (before, after)
WORKFLOWS = {
    "a first guest": (without_networks, as_it_is),
    "the last guest goes": (as_it_is, without_networks),
    "a rule is added": (as_it_is, with_rule),
    "a rule is removed": (as_it_is, without_rule),
    "members change": (as_it_is, with_members),
    "another group": (as_it_is, with_another_group),
    "port security off": (as_it_is, without_guard),
    "port security on": (without_guard, as_it_is),
    "a guest goes": (as_it_is, without_guest),
}
# The step is the same in all of them: these have most of what it does. All of them with KUMO_FAULTS=inside (minutes).
INSIDE = {"a first guest", "a rule is removed"}
if os.environ.get("KUMO_FAULTS") == "inside":
    INSIDE = set(WORKFLOWS)


@pytest.fixture
def host(tmp_path):
    lab = Lab(tmp_path / "state")
    try:
        made = GuardedHost(lab)
        for port in (PORT, KEPT):
            lab.listen(made.guest, port)
        yield made
    finally:
        lab.close()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_each_step(host, workflow, way):
    before, after = (build(copy.deepcopy(host.full)) for build in WORKFLOWS[workflow])
    bare, host.before, host.flows = without_networks(host.full), before, []
    host.settle(bare)
    empty = host.read()
    if before["ports"]:
        host.flows = [PORT, KEPT]
    for document in (before, after):  # a port that has lost a grant is strict from then on
        host.settle(document)
    check_each_point(host, before, after, way, ("firewall",) if workflow in INSIDE else ())
    host.settle(bare)
    check_same({**host.read(), "flows": []}, {**empty, "flows": []}, "something is left")
    assert not [flow for flow in host.read()["flows"] if flow[0] == "10.0.0.5" and flow[2] != "zone=0"]
