"""Runs that are cut or fail at each of their steps: the next run brings the host to where an undisturbed one had.

The steps are those that an undisturbed run tells of itself, so that a new one cannot be forgotten. Each is hit twice:
the process is killed right behind it, and it fails. What is compared is read by `ip` and `iptables-save`, and not by
the code under test.
"""

from __future__ import annotations

import copy
import json
import re
import shutil
import tempfile
from pathlib import Path

import pytest
from fault_lab import FAULTY, PYTHON, build_request, build_steps, check_hit, find_differences
from network_lab import Machine, add_floating, build_cloud

SECTIONS = ("networks", "routers", "neighbours", "dhcp")


@pytest.fixture
def machine():
    folder = Path(tempfile.mkdtemp(prefix="kumo-test-faults-"))
    folder.chmod(0o711)  # dnsmasq reads its files as its own user
    made = Machine(folder, SECTIONS)
    try:
        yield made
    finally:
        made.end()
        shutil.rmtree(folder, ignore_errors=True)


def read_all(machine) -> dict:
    """Everything of the network on the machine, as the tools show it."""
    spaces = sorted(line.split()[0] for line in machine.run("ip", "netns", "list").stdout.splitlines())
    seen = {}
    for space in [None, *spaces]:
        enter = ["ip", "netns", "exec", space] if space else []
        links = json.loads(machine.run(*enter, "ip", "-j", "-d", "addr", "show").stdout)
        seen[space or "host"] = {
            "links": {
                row["ifname"]: (
                    "UP" in row["flags"], row["mtu"], row.get("master"), row.get("ifalias"),
                    sorted(f"{one['local']}/{one['prefixlen']}" for one in row["addr_info"] if one["scope"] != "link"),
                )
                for row in links if row
            },
            "routes": sorted(machine.run(*enter, "ip", "route", "show").stdout.replace(" linkdown", "").splitlines()),
            "neighbours": sorted(machine.run(*enter, "ip", "neigh", "show", "nud", "permanent").stdout.splitlines()),
            "rules": re.sub(r"^#.*\n|\[\d+:\d+\]", "", machine.run(*enter, "iptables-save").stdout, flags=re.MULTILINE),
        }  # fmt: skip
    seen["dnsmasq"] = len(machine.dnsmasq_pids())
    return seen


def apply_faulty(machine, document: dict, step: list, way: str) -> None:
    """One run that is cut or fails at a step, and tells so."""
    machine.generation += 1
    settings = {**document["settings"], "state_dir": str(machine.state_dir)}
    document = {"version": 1, **document, "generation": machine.generation, "settings": settings}
    note = machine.folder / "note"
    request = build_request(document, SECTIONS, step, way, note)
    check_hit(machine.run(PYTHON, "-c", FAULTY, stdin=request, check=False), step, way, note)


def build_empty(full: dict) -> dict:
    return {**full, "networks": [], "routers": []}


def build_changed(full: dict) -> dict:
    """Another guest, another floating address, a route, DHCP's options, no SNAT."""
    changed = copy.deepcopy(full)
    router, network = changed["routers"][0], changed["networks"][1]
    router["floating_ips"][0]["floating_address"] = "172.31.255.21"
    add_floating(router, "172.31.255.22", "10.0.0.6")
    router["external"]["snat"] = False
    router["routes"] = [{"destination": "10.99.0.0/16", "nexthop": "10.0.0.6"}]
    network["reservations"].pop()
    network["subnets"][0]["dns_nameservers"] = ["192.0.2.53"]
    return changed


@pytest.mark.parametrize("way", ["kill", "fail"])
@pytest.mark.parametrize("workflow", ["appears", "changes", "goes"])
def test_each_step(machine, workflow, way):
    full = build_cloud()
    add_floating(full["routers"][0], "172.31.255.20", "10.0.0.5")
    before, after = {
        "appears": (build_empty(full), full),
        "changes": (full, build_changed(full)),
        "goes": (full, build_empty(full)),
    }[workflow]
    machine.converge(before)
    began = read_all(machine)
    steps = build_steps(machine.converge(after)["actions"])
    wanted = read_all(machine)
    assert len(steps) >= 3, steps
    assert wanted != began
    for step in steps:
        machine.converge(before)
        assert find_differences(read_all(machine), began) == [], f"not back where it was before {step}"
        apply_faulty(machine, after, step, way)
        machine.converge(after)
        assert find_differences(read_all(machine), wanted) == [], f"not as undisturbed after {step}"
