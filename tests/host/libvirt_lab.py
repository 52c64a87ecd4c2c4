"""A document with one guest and calls with it; and libvirt's own client, to look past the code under test.

Imported by the fixtures of ``conftest.py`` and by ``test_servers.py``; knows no fixture.
"""

import contextlib
import copy
import os
import shutil
import socket
import subprocess
import time
import uuid
from pathlib import Path
from xml.etree import ElementTree

import pytest
from ansible.module_utils.kumo import consoles, core, names

ROOT = Path(__file__).resolve().parents[2]
GUEST_IMAGE = ROOT / ".cache/guest-image/kumo-guest.qcow2"
IMAGE = "0b0e8a3c-0000-4000-8000-000000000001"


def wait_for(sentence: str, check, seconds: float = 60.0, every: float = 0.25):
    """The first true value of ``check()``; fails with the sentence after ``seconds``."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        value = check()
        if value:
            return value
        time.sleep(every)
    pytest.fail(f"not within {seconds} s: {sentence}")


def virsh(*arguments: str) -> subprocess.CompletedProcess:
    """libvirt's own client, for looking independently of the code under test."""
    return subprocess.run(
        ["virsh", "-q", "-c", "qemu:///system", *arguments], capture_output=True, text=True, timeout=60, check=False
    )


class Serial:
    """A guest's serial port, to type on, as `socat` or a console proxy connects to it; what it says is in its log."""

    def __init__(self, name: str):
        live = ElementTree.fromstring(virsh("dumpxml", name).stdout)
        self.socket = socket.create_connection((consoles.ADDRESS, consoles.read_ports(name, live)["serial"]), 10)

    def write(self, data: bytes) -> None:
        self.socket.sendall(data)

    def close(self) -> None:
        """Once QEMU has read everything: it reads no faster than the guest does, and forgets the rest on a hang-up."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)
            while self.socket.recv(65536):
                pass
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def remove_state(directory: Path) -> None:
    """The guests and files of one state directory; no error for what is gone."""
    servers = directory / "servers"
    for name in os.listdir(servers) if servers.is_dir() else []:
        virsh("destroy", f"kumo-{name}")
        virsh("undefine", "--managed-save", f"kumo-{name}")
    shutil.rmtree(directory, ignore_errors=True)


class Host:
    """One document with one server, and calls with it."""

    def __init__(
        self, state_dir: Path, network_id: str, source: Path = GUEST_IMAGE, disk_format="qcow2", image_id=IMAGE
    ):
        # Other tests may be building the image anew: take its bytes once, and describe these.
        image = state_dir / f"source-{image_id}"
        shutil.copyfile(source, image)
        digest = subprocess.check_output(["sha512sum", image], text=True).split()[0]
        self.id, self.port, self.state_dir = str(uuid.uuid4()), str(uuid.uuid4()), state_dir
        self.name = names.build_domain_name(self.id)
        self.directory = state_dir / "servers" / self.id
        mac = "fa:16:3e:" + ":".join(self.port.replace("-", "")[index : index + 2] for index in (0, 2, 4))
        self.server = {"id": self.id, "project_id": "p1", "wanted": "present", "name": 'a<b>&"\n]]>', "power": "on"}
        self.server |= {"reboot": {"wanted": 0, "type": "HARD"}, "vcpus": 1, "memory_mb": 96, "root_gb": 1}
        self.server |= {"image": image_id, "ports": [self.port], "metadata": {"user_data": "c2VjcmV0"}}
        row = {"id": image_id, "checksum": f"sha512:{digest}", "size": image.stat().st_size, "disk_format": disk_format}
        self.document = {
            "version": 1,
            "generation": 1,
            "settings": {"state_dir": str(state_dir), "virt_type": "qemu", "stop_timeout_s": 40},
            "images": [{**row, "source": {"path": str(image)}}],
            "networks": [{"id": network_id, "mtu": 1442}],
            "ports": [{"id": self.port, "network": network_id, "server": self.id, "mac": mac}],
            "servers": [self.server],
        }

    def call(self, check_mode: bool = False, **changes) -> dict:
        """One run of images and servers, with the server's fields changed first; its result must be right."""
        result = self.try_call(check_mode, **changes)
        assert result["objects"]["servers"][self.id] == {"ok": True, "error": None}
        return result

    def try_call(self, check_mode: bool = False, **changes) -> dict:
        """The same, whatever the result."""
        self.server.update(changes)
        return core.run_sections(copy.deepcopy(self.document), ("images", "servers"), check_mode=check_mode)

    def settle(self, seconds: float = 90.0, **changes) -> dict:
        """Runs as the loop makes them, until nothing is pending."""
        result = self.call(**changes)
        until = time.monotonic() + seconds
        while result["pending"]:
            assert time.monotonic() < until, "still pending"
            time.sleep(0.5)
            result = self.call()
        return result

    def seen(self, result: dict) -> dict:
        """The server as a result reports it."""
        return result["observed"]["servers"][self.id]

    def console(self) -> str:
        """What the guest's console holds, asked for as the API does."""
        return self.seen(self.call(console={"wanted": 7, "lines": None}))["console"]["text"]

    def wait_for_login(self, count: int = 1) -> None:
        """Until the guest has come up for the ``count``-th time."""
        wait_for("the guest asks for a login", lambda: self.console().count("login:") >= count, seconds=120)

    def state(self) -> str:
        """The domain's state in virsh's words."""
        return virsh("domstate", self.name).stdout.strip()

    def qemu_pid(self) -> int:
        """The pid of the guest's QEMU, as libvirt keeps it."""
        return int(Path(f"/run/libvirt/qemu/{self.name}.pid").read_text())
