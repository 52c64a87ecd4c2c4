"""Volumes, snapshots and their targets, disturbed at each step: the next runs end where undisturbed ones had.

A storage host with a tgtd of its own and no guest. What is compared is read from the file system and by tgtadm, and not
by the code under test. Guests that use volumes: `test_devices_faults.py`.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ansible.module_utils.kumo import core
from fault_lab import FAULTY, PYTHON, RECOVERY_S, WAYS, build_request, check_each_point, check_same

sys.path.insert(0, str(Path(__file__).resolve().parent / "volumes"))

from storage_lab import build_document, build_export, build_id, build_volume, running_tgtd

SECTIONS = ("images", "volumes", "exports")
VOLUME, SNAPSHOT, COPY, IMAGE = (f"766f6c75-0000-4000-8000-00000000000{n}" for n in range(1, 5))
EXPORT, OTHER = build_export(build_id()), build_export(build_id())
WHOLE = build_volume(VOLUME)
OFFERED = build_volume(VOLUME, exports=[EXPORT])
TAKEN = {"id": SNAPSHOT, "volume": VOLUME, "wanted": "present", "size_gb": 1}
COPIED = build_volume(COPY, size_gb=2, source={"snapshot": SNAPSHOT})


def absent(row: dict) -> dict:
    return {**row, "wanted": "absent"} | ({"exports": []} if "exports" in row else {})


# name: (volumes and snapshots before, those after)
WORKFLOWS = {
    "create": (([absent(OFFERED)], []), ([OFFERED], [])),
    "delete": (([OFFERED], []), ([absent(OFFERED)], [])),
    "extend": (([OFFERED], []), ([{**OFFERED, "size_gb": 2}], [])),
    "attach": (([WHOLE], []), ([OFFERED], [])),
    "detach": (([OFFERED], []), ([WHOLE], [])),
    "attach elsewhere": (([OFFERED], []), ([{**OFFERED, "exports": [OTHER]}], [])),
    "read-only": (([OFFERED], []), ([{**OFFERED, "exports": [{**EXPORT, "read_only": True}]}], [])),
    "snapshot": (([WHOLE], [absent(TAKEN)]), ([WHOLE], [TAKEN])),
    "snapshot, then extend": (([WHOLE], [absent(TAKEN)]), ([{**WHOLE, "size_gb": 2}], [TAKEN])),
    "delete a snapshot": (([WHOLE], [TAKEN]), ([WHOLE], [absent(TAKEN)])),
    "imaged anew": (([WHOLE], []), ([{**WHOLE, "reimage": {"wanted": 1, "image": IMAGE, "idle": True}}], [])),
    "a volume of a snapshot": (([WHOLE, absent(COPIED)], [TAKEN]), ([WHOLE, COPIED], [TAKEN])),
}
OWN = ("generation.json", "lock", "exports.json")  # the host's, whatever it keeps
# Their sizes and counts only grow: they begin anew.
ANEW = {"extend", "snapshot, then extend", "imaged anew"}


class StorageHost:
    """A host that keeps volumes; a state is (volumes, snapshots)."""

    def __init__(self, state_dir: Path, target: tuple, image: dict):
        self.state_dir, self.target, self.image = state_dir, target, image

    def build(self, state) -> dict:
        volumes, snapshots = state
        lists = {"images": [self.image], "volumes": volumes, "snapshots": snapshots}
        return build_document(self.state_dir, *self.target, **lists)

    def settle(self, state) -> None:
        deadline = time.monotonic() + RECOVERY_S
        while True:
            result = core.run_sections(self.build(state), SECTIONS)
            if not result["actions"] and not result["pending"]:
                break
            assert time.monotonic() < deadline, result["objects"]
        assert all(one["ok"] for rows in result["objects"].values() for one in rows.values()), result["objects"]

    def call(self, state, step, way):
        note = self.state_dir / "step.note"
        request = build_request(self.build(state), SECTIONS, step, way, note)
        done = subprocess.run([PYTHON, "-c", FAULTY], input=request, capture_output=True, text=True, timeout=60)
        noted = json.loads(note.read_text()) if note.exists() else None
        note.unlink(missing_ok=True)
        return done, noted

    def tgtadm(self, mode: str) -> str:
        command = ["tgtadm", "-C", str(self.target[0]), "--lld", "iscsi", "--mode", mode, "--op", "show"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout

    def read(self) -> dict:
        """Files with sizes and what they begin with, targets without their numbers, accounts, the record of exports."""
        files = {str(path.relative_to(self.state_dir)): path for path in self.state_dir.rglob("*") if path.is_file()}
        record = self.state_dir / "exports.json"
        text = re.sub(r"IET +\d+|beaf\d+", "", self.tgtadm("target"))  # the target's number, again
        targets = re.split(r"^Target \d+: ", text, flags=re.MULTILINE)[1:]
        return {
            "files": {
                name: (path.stat().st_size, path.stat().st_mode, hashlib.sha256(read_head(path)).hexdigest())
                for name, path in files.items() if path.suffix in (".volume", ".snapshot", ".part") or "tasks" in name
            },
            "names": sorted(name for name in files if name not in OWN and not name.startswith("images/")),
            "targets": sorted(targets),
            "accounts": sorted(self.tgtadm("account").split()),
            "record": json.loads(record.read_text()) if record.exists() else {},
        }  # fmt: skip


def read_head(path: Path) -> bytes:
    with open(path, "rb") as stream:
        return stream.read(65536)


@pytest.fixture(scope="module")
def target():
    with running_tgtd() as found:
        yield found


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """A small raw image's row of a document; each test's host fetches it before anything is disturbed."""
    path = tmp_path_factory.mktemp("image") / "image"
    path.write_bytes(bytes([7]) * (1 << 20))
    size, digest = path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest()
    return {
        "id": IMAGE, "checksum": f"sha256:{digest}", "size": size, "virtual_size": size, "disk_format": "raw",
        "source": {"path": str(path)},
    }  # fmt: skip


@pytest.fixture
def storage(target, state_dir, image):
    return StorageHost(state_dir, target, image)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_each_step(storage, workflow, way):
    before, after = WORKFLOWS[workflow]
    nothing = tuple([absent(row) for row in rows] for rows in after)
    storage.settle(nothing)
    empty = storage.read()
    if workflow in ANEW:
        settle = storage.settle
        storage.settle = lambda state: [settle(one) for one in ([nothing, before] if state is before else [state])]
    check_each_point(storage, before, after, way, SECTIONS)
    storage.settle(nothing)
    check_same(storage.read(), empty, "something is left")
    assert not empty["names"]
