"""Real guests rebuilt: what they wrote is gone, their definition, id and ports are the same, and nothing happens twice.

The guest is `boot_sector.py`'s: what it first prints is what its disk held when it started.
"""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
from ansible.module_utils.kumo import core
from boot_sector import AT, BEFORE, SAYING, make_disk
from libvirt_lab import Host, virsh, wait_for

sys.path.insert(0, str(Path(__file__).with_name("volumes")))
from storage_lab import build_export, build_id, build_volume, running_tgtd

OTHER = "MADE-BY-ANOTHER!\n"
SECTIONS = ("images", "volumes", "exports", "servers")


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


@pytest.fixture
def volume_host(libvirt_host, state_dir, bridge):
    """A host that keeps the volume its guest runs on, and what it offers it by."""
    with running_tgtd() as (control, portal):
        made = Host(state_dir, bridge, make_disk(state_dir / "boot.raw"), "raw")
        made.server["memory_mb"] = 64
        made.document["settings"]["storage"] = {"backend": "file", "portal": portal, "control_port": control}
        made.volume = build_volume(source={"image": made.server["image"]})
        made.document["volumes"], made.server["image"] = [made.volume], None
        yield made
        made.server.update(power="off", stop={"graceful": False}, held=False)


def offer(host) -> None:
    """The volume under a new name, to the guest alone."""
    export = build_export(build_id())
    host.volume["exports"] = [export]
    host.server["volumes"] = [{
        "attachment": export["id"], "volume": host.volume["id"], "device": "vda", "boot_index": 0, "read_only": False,
        "portal": host.document["settings"]["storage"]["portal"], "iqn": f"iqn.2026-11.cloud.kumo:{export['id']}",
        "lun": 1, "username": export["username"], "password": export["password"], "size_gb": 1,
    }]  # fmt: skip


def run(host, seconds: float = 60, **lists) -> dict:
    """Runs of the whole host until nothing is under way: the last result, and all that was done."""
    until, done = time.monotonic() + seconds, []
    while True:
        result = core.run_sections(copy.deepcopy({**host.document, **lists}), SECTIONS)
        for section in SECTIONS[1:]:
            assert {one["error"] for one in result["objects"][section].values()} <= {None}, result["objects"]
        done += [one["verb"] for one in result["actions"] if one["section"] != "images"]
        assert {one["error"] for one in result["observed"]["tasks"]} <= {None}, result["observed"]["tasks"]
        if not result["pending"]:
            return {**result, "done": done}
        assert time.monotonic() < until, "still pending"
        time.sleep(0.2)


def test_a_guest_on_a_volume_is_rebuilt_with_it(volume_host):
    """As the documents ask for one step after the other: what it wrote is gone, from its sectors and behind them."""
    host = volume_host
    path = host.state_dir / "volumes" / f"{host.volume['id']}.volume"
    run(host, servers=[])
    offer(host)
    run(host)
    assert wait_for_runs(host, 1) == [BEFORE, SAYING]
    host.server["reboot"] = {"wanted": 1, "type": "HARD"}
    run(host)
    assert wait_for_runs(host, 2)[2:] == [SAYING, SAYING], "a reboot keeps the volume"
    host.server["rebuild"] = {"wanted": 1}
    assert run(host)["done"] == ["rebuild", "start"], "of the same image, until 2.92"
    assert wait_for_runs(host, 3)[4:] == [SAYING, SAYING], "and so does that"
    with open(path, "r+b") as stream:
        stream.seek(500 << 20)
        stream.write(b"LEFT-OVER" * 1000)

    host.volume["reimage"] = {"wanted": 1, "image": add_image(host), "idle": False}
    assert run(host)["done"] == ["check_image"]
    assert host.state() == "running"
    host.server["held"] = True
    assert run(host)["done"] == ["check_image", "hold"]
    assert host.state() == "shut off"
    old = host.server["volumes"][0]["attachment"]
    host.volume["exports"], host.volume["reimage"]["idle"] = [], True
    made = run(host)
    assert made["done"][:1] == ["reimage"]
    assert made["observed"]["volumes"][host.volume["id"]]["reimage_done"] == 1
    assert old not in made["observed"]["exports"]
    assert host.state() == "shut off"

    del host.volume["reimage"], host.server["held"]
    offer(host)
    host.server["rebuild"] = {"wanted": 2}
    result = run(host)
    assert result["done"] == ["export", "rebuild", "start"]
    assert (host.seen(result)["rebuild_done"], host.seen(result)["state"]) == (2, "running")
    assert wait_for_runs(host, 4)[6:] == [OTHER, SAYING]
    with open(path, "rb") as stream:
        stream.seek(500 << 20)
        assert stream.read(9000) == bytes(9000)
    assert run(host)["done"] == []
