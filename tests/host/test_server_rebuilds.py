"""Real guests rebuilt: what they wrote is gone, their definition, id and ports are the same, and nothing happens twice.

The guest is `boot_sector.py`'s: what it first prints is what its disk held when it started.
"""

from __future__ import annotations

import copy
import json
import subprocess
import uuid

import pytest
from boot_sector import AT, BEFORE, SAYING, make_disk
from libvirt_lab import Host, virsh, wait_for

OTHER = "MADE-BY-ANOTHER!\n"


@pytest.fixture
def host(libvirt_host, state_dir, bridge):
    made = Host(state_dir, bridge, make_disk(state_dir / "boot.raw"), "raw")
    made.server["memory_mb"] = 64
    return made


def verbs(result: dict) -> list[str]:
    return [one["verb"] for one in result["actions"]]


def read_console(host) -> str:
    return (host.directory / "console.log").read_text()


def wait_for_runs(host, count: int) -> list[str]:
    """What was said by then: each run of the guest says what its disk held, then what it wrote there."""
    wait_for(f"the guest has run {count} times", lambda: len(read_console(host).splitlines()) >= 2 * count, 30)
    return read_console(host).splitlines(keepends=True)


def add_image(host) -> str:
    """Another image of the document: the same guest, with another text on its disk."""
    number, path = str(uuid.uuid4()), make_disk(host.state_dir / "other.raw")
    with open(path, "r+b") as stream:
        stream.seek(AT)
        stream.write(OTHER.encode())
    digest = subprocess.check_output(["sha512sum", path], text=True).split()[0]
    row = {**copy.deepcopy(host.document["images"][0]), "id": number, "checksum": f"sha512:{digest}"}
    host.document["images"].append({**row, "source": {"path": str(path)}})
    return number


def test_a_running_guest_is_rebuilt_once_and_keeps_what_is_its(host):
    host.call()
    assert wait_for_runs(host, 1) == [BEFORE, SAYING]
    assert verbs(host.call(reboot={"wanted": 1, "type": "HARD"})) == ["reboot_hard"]
    assert wait_for_runs(host, 2)[2:] == [SAYING, SAYING], "a reboot keeps the disk"
    before = virsh("dumpxml", "--inactive", host.name).stdout
    assert verbs(host.call(check_mode=True, rebuild={"wanted": 1})) == ["rebuild", "start"]
    result = host.call()
    assert verbs(result) == ["rebuild", "start"]
    assert (host.seen(result)["state"], host.seen(result)["rebuild_done"]) == ("running", 1)
    assert wait_for_runs(host, 3)[4:] == [BEFORE, SAYING], "what it wrote is gone"
    assert virsh("dumpxml", "--inactive", host.name).stdout == before
    assert verbs(host.call()) == []
    assert verbs(host.call(reboot={"wanted": 2, "type": "HARD"})) == ["reboot_hard"]
    assert wait_for_runs(host, 4)[6:] == [SAYING, SAYING], "nor is it rebuilt by a reboot"
    assert sorted(path.name for path in host.directory.iterdir()) == ["console.log", "disk", "state.json"]


def test_another_image_and_a_guest_that_is_off(host):
    """It stays off until it is wanted on; its disk then is the other image's."""
    host.call()
    wait_for_runs(host, 1)
    host.settle(power="off", stop={"graceful": False})
    result = host.settle(rebuild={"wanted": 1}, image=add_image(host))
    assert host.seen(result)["rebuild_done"] == 1
    assert host.state() == "shut off"
    info = ["qemu-img", "info", "-U", "-f", "qcow2", "--output=json", str(host.directory / "disk")]
    info = json.loads(subprocess.check_output(info, text=True))
    assert info["backing-filename"].endswith(host.server["image"])
    assert info["virtual-size"] == 1 << 30
    assert verbs(host.call(power="on")) == ["start"]
    assert wait_for_runs(host, 2)[2:] == [OTHER, SAYING]


def test_what_cannot_be_rebuilt_goes_on_as_it_is(host):
    """An image that is too large, or cannot be had: the guest keeps its disk and runs."""
    host.call()
    wait_for_runs(host, 1)
    pid, large = host.qemu_pid(), host.state_dir / "large.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", large, "2G"], check=True)
    digest = subprocess.check_output(["sha512sum", large], text=True).split()[0]
    number = str(uuid.uuid4())
    row = {"id": number, "checksum": f"sha512:{digest}", "size": large.stat().st_size, "disk_format": "qcow2"}
    host.document["images"].append({**row, "source": {"path": str(large)}})
    host.server.update(image=number, rebuild={"wanted": 1})
    result = host.try_call()
    while result["pending"]:
        result = host.try_call()
    assert "allows 1 GiB" in result["objects"]["servers"][host.id]["error"]
    assert host.seen(result)["rebuild_done"] == 0
    gone = str(uuid.uuid4())
    host.document["images"].append({**row, "id": gone, "source": {"path": "/nonexistent"}})
    host.server.update(image=gone)
    assert "rebuild waits for images" in host.try_call()["objects"]["servers"][host.id]["error"]
    assert (host.state(), host.qemu_pid()) == ("running", pid)
    assert sorted(path.name for path in host.directory.iterdir()) == ["console.log", "disk", "state.json"]


def test_a_lost_disk_and_saved_memory_are_no_obstacle(host):
    """A rebuild is the way back from a lost disk; memory saved with the old disk is not woken on the new one."""
    host.call()
    wait_for_runs(host, 1)
    virsh("managedsave", host.name)
    (host.directory / "disk").unlink()
    assert verbs(host.call(rebuild={"wanted": 1})) == ["rebuild", "start"]
    assert wait_for_runs(host, 2)[2:] == [BEFORE, SAYING]
