"""Disks of real guests as images: what the guest wrote is in the image, another guest boots from it, nothing is left.

The guest is `boot_sector.py`'s; the image service is an HTTP server of this test; images are looked at by qemu-img.
"""

from __future__ import annotations

import http.server
import json
import os
import signal
import struct
import subprocess
import threading
import uuid
from pathlib import Path

import pytest
from boot_sector import AT, BEFORE, SAYING, make_disk
from libvirt_lab import Host, virsh, wait_for


class Service:
    """Keeps what is put, by path; while ``closed``, it takes no bytes and says nothing."""

    def __init__(self, folder: Path):
        self.folder, self.open = folder, threading.Event()
        self.open.set()
        owner = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                owner.open.wait(60)
                data = self.rfile.read(int(self.headers["Content-Length"]))
                right = self.headers["X-Key"] == "k" and len(data) == int(self.headers["Content-Length"])
                if right:
                    (owner.folder / self.path.strip("/")).write_bytes(data)
                self.send_response(204 if right else 404)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def build_order(self, image: str, attempt: int = 1) -> dict:
        address = f"http://127.0.0.1:{self.server.server_address[1]}/{image}"
        return {"image": image, "attempt": attempt, "url": address, "headers": {"X-Key": "k"}}


@pytest.fixture
def service(tmp_path):
    made = Service(tmp_path)
    yield made
    made.open.set()
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def host(libvirt_host, state_dir, bridge):
    made = Host(state_dir, bridge, make_disk(state_dir / "boot.raw", ballast_mb=24), "raw")
    made.server["memory_mb"] = 64
    return made


def new_id() -> str:
    return str(uuid.uuid4())


def boot(host, **changes) -> None:
    host.call(**changes)
    wait_for("the guest has written", lambda: SAYING in (host.directory / "console.log").read_text(), 30)


def told(host, result: dict) -> dict:
    return host.seen(result)["snapshot"]


def list_files(host) -> list[str]:
    return sorted(path.name for path in host.directory.iterdir())


def check_image(path: Path, work: Path) -> None:
    """The file is one whole disk, with what the guest wrote in it, by qemu-img's own word."""
    info = json.loads(subprocess.check_output(["qemu-img", "info", "-f", "qcow2", "--output=json", path], text=True))
    assert (info["format"], info["virtual-size"], info.get("backing-filename")) == ("qcow2", 1 << 30, None)
    assert info["actual-size"] < 64 << 20, "what was never written takes no room"
    subprocess.run(["qemu-img", "check", "-q", "-f", "qcow2", path], check=True)
    raw = work / "raw"
    subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", path, raw], check=True)
    with open(raw, "rb") as stream:
        stream.seek(AT)
        assert stream.read(len(SAYING)) == SAYING.encode()
    raw.unlink()


def test_running_paused_and_stopped_guests_become_images(host, service, tmp_path):
    """Each way gives the disk as it was; the guest goes on; another guest boots from the image."""
    boot(host)
    before, kept = host.qemu_pid(), list_files(host)
    assert BEFORE in (host.directory / "console.log").read_text()
    first = new_id()
    done = host.settle(snapshot=service.build_order(first))
    assert told(host, done) == {**told(host, done), "image": first, "attempt": 1, "state": "uploaded", "error": None}
    assert [host.state(), host.qemu_pid()] == ["running", before]
    check_image(tmp_path / first, tmp_path)
    assert [one["verb"] for one in host.call()["actions"]] == [], "asked once, made once"
    assert [one["verb"] for one in host.call(snapshot=None)["actions"]] == ["end_snapshot"]
    assert list_files(host) == kept
    assert host.call()["observed"]["tasks"] == []

    host.settle(power="paused", snapshot=None)
    second = new_id()
    assert told(host, host.settle(snapshot=service.build_order(second)))["state"] == "uploaded"
    check_image(tmp_path / second, tmp_path)
    assert host.state() == "paused"
    assert host.qemu_pid() == before
    host.settle(power="on", snapshot=None)

    host.settle(power="off", stop={"graceful": False}, snapshot=None)
    third = new_id()
    assert told(host, host.settle(snapshot=service.build_order(third)))["state"] == "uploaded"
    check_image(tmp_path / third, tmp_path)
    assert host.state() == "shut off"
    host.call(snapshot=None)
    assert list_files(host) == kept

    other = Host(host.state_dir, host.document["networks"][0]["id"], tmp_path / first, "qcow2", image_id=first)
    other.server["memory_mb"] = 64
    boot(other)
    console = (other.directory / "console.log").read_text()
    assert BEFORE not in console
    assert console.count(SAYING) == 2, "what the first guest wrote, and what this one did"


def test_a_shelved_guest_is_copied_once_it_is_off_and_comes_back_of_its_image(host, service, tmp_path):
    """One that is asked to shut down still writes: no copy before it is off. Gone from its host, it is made of that."""
    host.document["settings"]["stop_timeout_s"] = 4
    boot(host)
    image = new_id()
    result = host.call(power="off", stop={"graceful": True}, snapshot=service.build_order(image))
    assert [one["verb"] for one in result["actions"]] == ["stop"]
    wait_for("a run while the guest is still up", lambda: host.call()["actions"] == [], 3)
    assert (host.state(), told(host, host.call())["state"]) == ("running", "waiting"), "it does not hear the button"
    assert not (host.directory / "snapshot.json").exists()
    assert told(host, host.settle())["state"] == "uploaded"
    assert host.state() == "shut off"
    assert json.loads((host.directory / "snapshot.json").read_text())["way"] == "file"
    check_image(tmp_path / image, tmp_path)
    result = host.call(wanted="absent")
    assert (result["observed"]["servers"], host.directory.exists(), virsh("dominfo", host.name).returncode) == (
        {},
        False,
        1,
    )

    again = Host(host.state_dir, host.document["networks"][0]["id"], tmp_path / image, "qcow2", image_id=image)
    again.server |= {"id": host.id, "memory_mb": 64, "start": {"wanted": 3}, "reboot": {"wanted": 2, "type": "HARD"}}
    again.id, again.name, again.directory = host.id, host.name, host.directory
    again.document["ports"][0]["server"] = host.id
    result = again.call()
    assert [one["verb"] for one in result["actions"] if one["section"] == "servers"] == ["create", "start"]
    wait_for("it has run", lambda: (again.directory / "console.log").read_text().count(SAYING) == 2, 30)
    assert again.seen(again.call())["start_done"] == 3, "what was asked before it came here is done"
    assert again.call()["actions"] == []


def test_s05_s09_a_disk_that_looks_like_an_image_stays_bytes_and_copies_are_private(host, service, tmp_path):
    """A qcow2 header with a backing file, written by the guest onto its own disk: nobody opens what it names."""
    header = b"QFI\xfb" + struct.pack(">IQI", 2, 64, 11) + bytes(44) + b"/etc/shadow"
    (tmp_path / "header").write_bytes(header.ljust(512, b"\0"))
    boot(host)
    host.settle(power="off", stop={"graceful": False})
    write = ["qemu-io", "-f", "qcow2", "-c", f"write -q -s {tmp_path}/header 0 512", host.directory / "disk"]
    subprocess.run(write, check=True)
    for attempt, power in enumerate(("off", "on"), 1):
        host.settle(power=power, snapshot=None)
        image = new_id()
        service.open.clear()
        host.call(snapshot=service.build_order(image))
        wait_for("it is sent", lambda: told(host, host.call())["state"] == "uploading", 30)
        for name in ("snapshot.qcow2", "snapshot.json"):
            seen = (host.directory / name).stat()
            assert (seen.st_mode & 0o077, seen.st_uid) == (0, 0), (name, attempt)
        service.open.set()
        assert told(host, host.settle())["state"] == "uploaded"
        check_image(tmp_path / image, tmp_path)
        first = ["qemu-io", "-r", "-f", "qcow2", "-c", "read -v 0 80", tmp_path / image]
        said = subprocess.run(first, check=True, capture_output=True, text=True).stdout
        assert "51 46 49 fb" in said, "the header is what the disk holds"
        assert "root:" not in said


def test_what_breaks_on_the_way(host, service, tmp_path):
    """A killed task, a service that refuses; the next attempt makes the image."""
    boot(host)
    image = new_id()
    service.open.clear()
    assert host.call(snapshot=service.build_order(image))["pending"]
    wait_for("it is sent", lambda: told(host, host.call())["state"] == "uploading", 30)
    [task] = host.state_dir.glob("tasks/snapshot-*.json")
    os.kill(json.loads(task.read_text())["pid"], signal.SIGKILL)
    failed = told(host, host.settle())
    assert failed["state"] == "failed"
    assert "interrupted" in failed["error"]
    assert not (tmp_path / image).exists(), "half an image is none"
    service.open.set()
    wrong = {**service.build_order(image, 2), "headers": {}}
    assert "answered 404" in told(host, host.settle(snapshot=wrong))["error"]
    assert told(host, host.settle(snapshot=service.build_order(image, 3)))["state"] == "uploaded"
    check_image(tmp_path / image, tmp_path)


def test_an_order_that_is_withdrawn_while_libvirt_copies(libvirt_host, state_dir, bridge, service, tmp_path):
    """Its job is called off, also where the task that waited for it was killed; the guest goes on."""
    host = Host(state_dir, bridge, make_disk(state_dir / "boot.raw", ballast_mb=128), "raw")
    boot(host)
    kept, target = list_files(host), host.directory / "snapshot.qcow2"
    order = tmp_path / "order.xml"
    order.write_text(
        f"<domainbackup mode='push'><disks><disk name='vda' type='file'><driver type='qcow2'/>"
        f"<target file='{target}'/></disk></disks></domainbackup>"
    )
    slow = {"device": "backup-vda-libvirt-1-format", "speed": 1}
    slow = json.dumps({"execute": "block-job-set-speed", "arguments": slow})
    virsh(f"backup-begin {host.name} {order}; qemu-monitor-command {host.name} '{slow}'")
    assert virsh("domjobinfo", host.name, "--rawstats").stdout.split("\n")[0] != "Job type: 0"
    record = {"image": new_id(), "attempt": 1, "way": "job", "state": "copying", "error": None}
    (host.directory / "snapshot.json").write_text(json.dumps(record))
    assert [one["verb"] for one in host.call()["actions"]] == ["end_snapshot"], "and no move is called off"
    assert virsh("domjobinfo", host.name, "--rawstats").stdout.split("\n")[0] == "Job type: 0"
    assert list_files(host) == kept
    assert host.state() == "running"
    image = new_id()
    assert told(host, host.settle(snapshot=service.build_order(image)))["state"] == "uploaded"


def test_the_server_is_deleted_on_the_way(host, service, tmp_path):
    """The task ends with the guest, and nothing of either is left."""
    boot(host)
    service.open.clear()
    host.call(snapshot=service.build_order(new_id()))
    [task] = host.state_dir.glob("tasks/snapshot-*.json")
    pid = json.loads(task.read_text())["pid"]
    host.call(wanted="absent")
    assert not host.directory.exists()
    assert list(host.state_dir.glob("tasks/*")) == []
    wait_for("the task has ended", lambda: not Path(f"/proc/{pid}").exists(), 10)
    assert [path.name for path in tmp_path.iterdir()] == []


def test_a_guest_that_is_started_ends_the_copy_of_its_disk_at_rest(host, service):
    """The start comes first; the copy is made of the running guest at the next attempt."""
    boot(host)
    host.settle(power="off", stop={"graceful": False})
    image = new_id()
    service.open.clear()
    host.call(snapshot=service.build_order(image))
    (host.directory / "snapshot.json").write_text(
        json.dumps({"image": image, "attempt": 1, "way": "file", "state": "copying", "error": None})
    )
    result = host.call(power="on")
    assert [one["verb"] for one in result["actions"]] == ["fail_snapshot", "start"]
    assert "started" in told(host, result)["error"]
    assert host.state() == "running"
    service.open.set()
    assert told(host, host.settle(snapshot=service.build_order(image, 2)))["state"] == "uploaded"
