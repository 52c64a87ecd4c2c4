"""Guests whose runs are cut or fail at each step: the next runs bring them to where undisturbed ones had.

What is compared is libvirt's and the files' own word. Volumes and NICs of running guests have `test_devices_faults.py`,
moves `tests/multi_host/test_moves_by_document.py`.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
import time
from pathlib import Path

import pytest
from boot_sector import make_disk
from fault_lab import FAULTY, PYTHON, RECOVERY_S, WAYS, build_request, check_each_point
from libvirt_lab import IMAGE, Host, virsh
from test_server_images import Service

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
    "pause": ({}, {"power": "paused"}),
    "unpause": ({"power": "paused"}, {"start": {"wanted": 1}}),
    "resume": ({"power": "suspended"}, {"start": {"wanted": 1}}),
    "image": ({}, {"snapshot": {}}),
    "image while off": ({**OFF, **CUT}, {**OFF, **CUT, "snapshot": {}}),
    "forget an image": ({"snapshot": {}}, {}),
    "delete with an image": ({"snapshot": {}}, ABSENT),
    "delete while suspended": ({"power": "suspended"}, ABSENT),
    "delete while off": ({**OFF, **CUT}, ABSENT),
}
COUNTED = ("reboot", "start", "rebuild")  # what is asked for by a counter was done as often
# These are disturbed inside their steps, too; all of them with KUMO_FAULTS=inside (ten minutes).
INSIDE = set(WORKFLOWS) if os.environ.get("KUMO_FAULTS") == "inside" else {"create", "pause", "image"}


@pytest.fixture
def life(libvirt_host, state_dir, bridge, tmp_path):
    host = Host(state_dir, bridge, make_disk(state_dir / "boot.raw", ballast_mb=1), "raw")
    host.server["memory_mb"] = 64
    service = Service(tmp_path)
    yield Life(host, service)
    service.server.shutdown()
    service.server.server_close()


class Life:
    """A guest's document from one set of its server's fields to another; counters only ever grow."""

    def __init__(self, host, service):
        self.host, self.service, self.base, self.count = host, service, copy.deepcopy(host.server), 0
        self.fields = self.row = None

    def build(self, fields: dict) -> dict:
        """The row of these fields: the same one for as long as they are asked for, else one with newer counters."""
        if fields is self.fields:
            return self.row
        row = {**copy.deepcopy(self.base), **copy.deepcopy(fields)}
        self.count += 1
        if row["reboot"]["wanted"]:
            row["reboot"]["wanted"] = self.count
        for name in ("start", "rebuild"):
            if row.get(name, {}).get("wanted"):
                row[name]["wanted"] = self.count
        if "snapshot" in row:
            row["snapshot"] = self.service.build_order(f"736e6170-0000-4000-8000-{self.count:012}")
        self.fields, self.row = fields, row
        return row

    def settle(self, fields: dict) -> None:
        row, deadline = self.build(fields), time.monotonic() + RECOVERY_S
        while True:
            self.host.server.clear()
            result = self.host.try_call(**row)
            assert result["objects"]["servers"][self.host.id] == {"ok": True, "error": None}
            if not result["actions"] and not result["pending"] and not self.ask_again(row, result):
                return
            assert time.monotonic() < deadline, result["actions"]
            time.sleep(0.1)

    def ask_again(self, row: dict, result: dict) -> bool:
        """An attempt at an image that was disturbed has failed for good, and says why; the API then makes another."""
        told = result["observed"]["servers"].get(self.host.id, {}).get("snapshot")
        if not told or told["state"] != "failed":
            return False
        assert "injected" in told["error"] or "interrupted" in told["error"], told
        row["snapshot"]["attempt"] += 1
        return True

    def call(self, fields: dict, step: list, way: str):
        self.host.server.clear()
        self.host.server.update(self.build(fields))
        note = Path(f"{self.host.state_dir}/step.note")
        request = build_request(self.host.document, SECTIONS, step, way, note)
        done = subprocess.run([PYTHON, "-c", FAULTY], input=request, capture_output=True, text=True, timeout=120)
        noted = json.loads(note.read_text()) if note.exists() else None
        note.unlink(missing_ok=True)
        return done, noted

    def read(self) -> dict:
        """The guest as libvirt and the file system have it, and whether the image is at the service."""
        host, order = self.host, (self.row or {}).get("snapshot")
        files = sorted(path for path in host.state_dir.rglob("*") if path.is_file() and path.suffix != ".log")
        state = host.directory / "state.json"
        kept = json.loads(state.read_text()) if state.exists() else {}
        counts = {name: (self.row.get(name) or {}).get("wanted") for name in COUNTED}
        return {
            "state": host.state(),
            "saved": "Managed save: yes" in " ".join(virsh("dominfo", host.name).stdout.split()),
            "xml": virsh("dumpxml", "--inactive", host.name).stdout,
            "job": virsh("domjobinfo", host.name).stdout.split(),
            "files": [str(path.relative_to(host.state_dir)) for path in files],
            "kept": {name: value for name, value in kept.items() if not name.endswith("_done")},
            "done": {name: kept.get(f"{name}_done") == count for name, count in counts.items() if count},
            "image": bool(order) and (self.service.folder / order["image"]).exists(),
        }


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_each_step(life, workflow, way):
    before, after = WORKFLOWS[workflow]
    life.settle({})  # the image is here, whatever comes first
    life.settle(ABSENT)
    empty = life.read()
    check_each_point(life, before, after, way, ("servers",) if workflow in INSIDE else ())
    life.settle(ABSENT)
    assert life.read() == empty
