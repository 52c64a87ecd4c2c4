"""Guests whose runs are cut or fail at each step: the next run brings them to where an undisturbed one had.

As `test_networks_faults.py`; what is compared is libvirt's and the files' own word. Moves and volumes have
their own tests of this (`tests/multi_host/test_moves_by_document.py`, `tests/host/volumes`).
"""

from __future__ import annotations

import copy
import json
import subprocess
import time
from pathlib import Path

import pytest
from fault_lab import FAULTY, PYTHON, build_request, build_steps, check_hit, find_differences
from libvirt_lab import GUEST_IMAGE, IMAGE, Host, virsh

SECTIONS = ("images", "servers")
RESCUE = IMAGE  # its own: what it boots is not looked at here
ABSENT, OFF, CUT = {"wanted": "absent"}, {"power": "off"}, {"stop": {"graceful": False}}
# name: (the server's fields before, those after); the guest needs no system for any of it.
WORKFLOWS = {
    "create": (ABSENT, {}),
    "delete": ({}, ABSENT),
    "stop": ({}, {**OFF, **CUT}),
    "start": ({**OFF, **CUT}, {"start": {"wanted": 1}}),
    "reboot": ({}, {"reboot": {"wanted": 1, "type": "HARD"}}),
    "rebuild": ({}, {"rebuild": {"wanted": 1}}),
    "rebuild while off": ({**OFF, **CUT}, {**OFF, **CUT, "rebuild": {"wanted": 1}}),
    "suspend": ({}, {"power": "suspended"}),
    "rescue": (CUT, {**CUT, "rescue": {"image": RESCUE}}),
    "unrescue": ({**CUT, "rescue": {"image": RESCUE}}, CUT),
    "delete while suspended": ({"power": "suspended"}, ABSENT),
    "delete while off": ({**OFF, **CUT}, ABSENT),
}


@pytest.fixture
def host(libvirt_host, state_dir, bridge):
    if not GUEST_IMAGE.exists():
        pytest.fail(f"{GUEST_IMAGE} is missing: build it with the role guest_image")
    return Host(state_dir, bridge)


def read_all(host) -> dict:
    """The guest as libvirt and the file system have it."""
    files = sorted(
        path for path in host.state_dir.rglob("*") if path.is_file() and path.suffix not in (".log", ".note")
    )
    state = host.directory / "state.json"
    kept = json.loads(state.read_text()) if state.exists() else {}
    return {
        "state": host.state(),
        "saved": "Managed save: yes" in " ".join(virsh("dominfo", host.name).stdout.split()),
        "xml": virsh("dumpxml", "--inactive", host.name).stdout,
        "files": [str(path.relative_to(host.state_dir)) for path in files],
        "kept": {name: value for name, value in kept.items() if not name.endswith("_done")},
    }


class Life:
    """A guest's document from one set of its server's fields to another; counters only ever grow."""

    def __init__(self, host):
        self.host, self.base, self.count = host, copy.deepcopy(host.server), 0

    def build(self, fields: dict) -> dict:
        row = {**copy.deepcopy(self.base), **copy.deepcopy(fields)}
        self.count += 1
        if row["reboot"]["wanted"]:
            row["reboot"]["wanted"] = self.count
        for name in ("start", "rebuild"):
            if row.get(name, {}).get("wanted"):
                row[name]["wanted"] = self.count
        return row

    def settle(self, row: dict) -> list[dict]:
        """Runs until nothing is left to do; the actions of all of them."""
        actions, deadline = [], time.monotonic() + 60
        while True:
            self.host.server.clear()
            result = self.host.try_call(**row)
            assert result["objects"]["servers"][self.host.id] == {"ok": True, "error": None}
            actions += result["actions"]
            if not result["actions"] and not result["pending"]:
                return actions
            assert time.monotonic() < deadline, result["actions"]
            time.sleep(0.1)

    def disturb(self, row: dict, step: list, way: str) -> None:
        """One run that is cut or fails at a step, and tells so."""
        self.host.server.clear()
        self.host.server.update(row)
        note = Path(f"{self.host.state_dir}/step.note")
        request = build_request(self.host.document, SECTIONS, step, way, note)
        done = subprocess.run([PYTHON, "-c", FAULTY], input=request, capture_output=True, text=True, timeout=120)
        check_hit(done, step, way, note)
        note.unlink()


@pytest.mark.parametrize("way", ["kill", "fail"])
@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_each_step(host, workflow, way):
    life = Life(host)
    before, after = WORKFLOWS[workflow]
    life.settle(life.build({}))  # the image is here, whatever comes first
    life.settle(life.build(before))
    began = read_all(host)
    steps = build_steps(life.settle(life.build(after)))
    wanted = read_all(host)
    assert steps
    for step in steps:
        life.settle(life.build(before))
        assert find_differences(read_all(host), began) == [], f"not back where it was before {step}"
        row = life.build(after)
        life.disturb(row, step, way)
        life.settle(row)
        assert find_differences(read_all(host), wanted) == [], f"not as undisturbed after {step}"
