"""Volumes and NICs of a running guest, disturbed at each step: the next runs end where undisturbed ones had.

One guest with a system of its own, which lets go of devices when it is asked to, QEMU's own iSCSI initiator, and a tgtd
of the module's own. What is compared is what virsh, ip and the file system show.
"""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
import time
import uuid
from pathlib import Path
from xml.etree import ElementTree

import pytest
from ansible.module_utils.kumo import core, names
from fault_lab import FAULTY, PYTHON, RECOVERY_S, WAYS, build_request, check_each_point, check_same
from libvirt_lab import Host, remove_state, virsh

sys.path.insert(0, str(Path(__file__).resolve().parent / "volumes"))

from storage_lab import build_export, build_id, build_volume, running_tgtd

SECTIONS = ("images", "volumes", "exports", "servers")
VOLUME, ATTACHMENT, PORT = (str(uuid.uuid4()) for _ in range(3))
EXPORT = build_export(ATTACHMENT)
NOTHING = {"volume": False, "export": False, "attached": False, "size_gb": 1, "port": False, "up": True}
OFFERED = {**NOTHING, "volume": True, "export": True}
ATTACHED = {**OFFERED, "attached": True}
PLUGGED = {**NOTHING, "port": True}
# name: (states before, the last of which counts, and the state after)
WORKFLOWS = {
    "attach": ([OFFERED, {**NOTHING, "volume": True}], ATTACHED),
    "detach": ([ATTACHED], OFFERED),
    "extend": ([OFFERED, NOTHING, ATTACHED], {**ATTACHED, "size_gb": 2}),
    "attach a port": ([NOTHING], PLUGGED),
    "take a port's link down": ([PLUGGED], {**PLUGGED, "up": False}),
    "detach a port": ([PLUGGED], NOTHING),
}


class RunningGuest:
    """A guest that has booted; a state says what of NOTHING, OFFERED and so on is in its document."""

    def __init__(self, host: Host, target: tuple):
        self.host, self.base, self.ports = host, copy.deepcopy(host.server), list(host.document["ports"])
        self.target = target
        storage = {"backend": "file", "portal": target[1], "control_port": target[0]}
        host.document["settings"]["storage"] = storage

    def build(self, state: dict) -> dict:
        document = copy.deepcopy(self.host.document)
        server = document["servers"][0] = copy.deepcopy(self.base)
        volume = build_volume(VOLUME, state["size_gb"], [EXPORT] if state["export"] else [])
        document["volumes"] = [{**volume, "wanted": "present" if state["volume"] else "absent"}]
        if state["attached"]:
            server["volumes"] = [{
                "attachment": ATTACHMENT, "volume": VOLUME, "device": "vdb", "portal": self.target[1], "lun": 1,
                "iqn": f"iqn.2026-11.cloud.kumo:{ATTACHMENT}", "username": EXPORT["username"],
                "password": EXPORT["password"], "size_gb": state["size_gb"],
            }]  # fmt: skip
        if state["port"]:
            server["ports"].append(PORT)
            row = {"id": PORT, "network": document["networks"][0]["id"], "server": self.host.id}
            document["ports"].append({**row, "mac": "fa:16:3e:00:00:77", "admin_state_up": state["up"]})
        return document

    def settle(self, states) -> None:
        for state in states if isinstance(states, list) else [states]:
            deadline = time.monotonic() + RECOVERY_S
            while (result := core.run_sections(self.build(state), SECTIONS))["actions"] or result["pending"]:
                assert time.monotonic() < deadline, result["actions"]
                time.sleep(0.2)
            assert all(one["ok"] for rows in result["objects"].values() for one in rows.values()), result["objects"]
            assert result["observed"]["servers"][self.host.id]["volume_errors"] == {}

    def call(self, state: dict, step: list, way: str):
        note = self.host.state_dir / "step.note"
        request = build_request(self.build(state), SECTIONS, step, way, note)
        done = subprocess.run([PYTHON, "-c", FAULTY], input=request, capture_output=True, text=True, timeout=120)
        noted = json.loads(note.read_text()) if note.exists() else None
        note.unlink(missing_ok=True)
        return done, noted

    def read(self) -> dict:
        """Devices as they are and as they will be, targets, secrets, files and the guest's own process."""
        host, tap = self.host, names.build_tap_name(PORT)
        xml = {name: virsh("dumpxml", host.name, *words).stdout for name, words in XML.items()}
        targets = ["tgtadm", "-C", str(self.target[0]), "--lld", "iscsi", "--mode"]
        shown = [subprocess.run([*targets, mode, "--op", "show"], capture_output=True, text=True).stdout
                 for mode in ("target", "account")]  # fmt: skip
        files = (path for path in host.state_dir.rglob("*") if path.is_file() and path.suffix != ".log")
        kept = json.loads((host.directory / "state.json").read_text())
        return {
            "pid": host.qemu_pid(),
            "devices": {name: list_devices(text) for name, text in xml.items()},
            "size": re.findall(r"Capacity: +(\d+)", virsh("domblkinfo", host.name, "vdb").stdout),
            "tap": subprocess.run(["ip", "-o", "link", "show", tap], capture_output=True).returncode,
            "secrets": [one for one in virsh("secret-list").stdout.split() if ATTACHMENT in one],
            "targets": re.findall(SHOWN, "".join(shown)),
            "files": sorted(str(path.relative_to(host.state_dir)) for path in files if path.name != "exports.json"),
            "kept": {name: value for name, value in kept.items() if not name.endswith("_done")},
        }  # fmt: skip


SHOWN = r"kumo:\S+|ACL information:\s+ALL|I_T nexus:|Size: \d\d+ MB|[0-9a-f]{32}"
XML = {"live": [], "stored": ["--inactive"]}


def list_devices(text: str) -> list:
    """What matters of a definition's disks and NICs: where they come from, where they are in the guest, their link."""
    tree = ElementTree.fromstring(text)
    found = []
    for device in [*tree.findall("devices/disk"), *tree.findall("devices/interface")]:
        parts = [device.find(name) for name in ("source", "target", "mac", "link", "source/auth/secret")]
        found.append([sorted(set(part.items()) - {("index", part.get("index"))}) for part in parts if part is not None])
    return found


@pytest.fixture(scope="module")
def guest(libvirt_host, guest_image):
    state_dir = Path(f"/var/lib/kumo-test-{os.getpid()}-{uuid.uuid4().hex[:8]}")
    state_dir.mkdir(mode=0o711)
    network = build_id()
    bridge = names.build_bridge_name(network)
    subprocess.run(["ip", "link", "add", bridge, "up", "type", "bridge"], check=True)
    try:
        with running_tgtd() as target:
            host = Host(state_dir, network)
            made = RunningGuest(host, target)
            made.settle(NOTHING)
            host.wait_for_login()
            host.server["console"] = None
            yield made
            made.base = {"id": host.id, "project_id": "p1", "wanted": "absent", "ports": []}
            core.run_sections(made.build(NOTHING), SECTIONS)
            assert not host.directory.exists()
            assert virsh("domstate", host.name).returncode != 0
    finally:
        remove_state(state_dir)
        subprocess.run(["ip", "link", "del", bridge], check=False)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_each_step(guest, workflow, way):
    before, after = WORKFLOWS[workflow]
    guest.settle(NOTHING)
    empty = guest.read()
    check_each_point(guest, before, after, way, ("servers",))  # targets: `test_volumes_faults.py`
    guest.settle([OFFERED, NOTHING] if after["volume"] else NOTHING)
    check_same(guest.read(), empty, "something is left")
