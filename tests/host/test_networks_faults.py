"""Runs that are cut or fail at each of their steps: the next run brings the host to where an undisturbed one had.

The steps are those that an undisturbed run tells of itself, so that a new one cannot be forgotten. Each is hit twice:
the process is killed right behind it, and it fails. What is compared is read by `ip` and `iptables-save`, and not by
the code under test.
"""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import tempfile
from pathlib import Path

import pytest
from fault_lab import FAULTY, PYTHON, WAYS, build_request, check_each_point
from network_lab import Machine, add_floating, build_cloud

SECTIONS = ("networks", "routers", "neighbours", "dhcp")
# Inside its steps, too, with KUMO_FAULTS=inside (minutes).
INSIDE = SECTIONS if os.environ.get("KUMO_FAULTS") == "inside" else ()


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


class Lab:
    """The machine's way between two documents, for `check_each_point`."""

    def __init__(self, machine):
        self.machine, self.settle = machine, machine.converge

    def read(self) -> dict:
        return read_all(self.machine)

    def call(self, document: dict, step: list, way: str):
        machine = self.machine
        machine.generation += 1
        settings = {**document["settings"], "state_dir": str(machine.state_dir)}
        document = {"version": 1, **document, "generation": machine.generation, "settings": settings}
        note = machine.folder / "note"
        request = build_request(document, SECTIONS, step, way, note)
        done = machine.run(PYTHON, "-c", FAULTY, stdin=request, check=False)
        noted = json.loads(note.read_text()) if note.exists() else None
        note.unlink(missing_ok=True)
        return done, noted


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


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("workflow", ["appears", "changes", "goes"])
def test_each_step(machine, workflow, way):
    full = build_cloud()
    add_floating(full["routers"][0], "172.31.255.20", "10.0.0.5")
    before, after = {
        "appears": (build_empty(full), full),
        "changes": (full, build_changed(full)),
        "goes": (full, build_empty(full)),
    }[workflow]
    points = check_each_point(Lab(machine), before, after, way, INSIDE)
    assert points >= 3
