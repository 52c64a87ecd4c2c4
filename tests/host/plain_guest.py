"""A guest under plain QEMU, and a metadata service for it, as tests of the guest image need them.

Owns: starting and ending QEMU, talking to its console, its monitor and its sshd. May not: know what a
test expects, or use libvirt. Next room: test_guest_image.py.
"""

from __future__ import annotations

import http.server
import json
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

READY = "KUMO-GUEST-READY"
BOOT_S = 60  # generous: the machine may be busy with other tests


def run(*arguments: object, check: bool = True, timeout: float = 120) -> subprocess.CompletedProcess:
    texts = [str(argument) for argument in arguments]
    done = subprocess.run(texts, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL)
    assert not check or done.returncode == 0, f"{texts}: {done.stdout}{done.stderr}"
    return done


def wait_until(condition, seconds: float, what: str):
    """Poll until `condition()` is true and return it; fail with `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.1)
    pytest.fail(f"not within {seconds} s: {what() if callable(what) else what}")


class Metadata:
    """An HTTP server on loopback that answers exactly the paths in `pages` and remembers what was asked."""

    def __init__(self, pages: dict[str, str]) -> None:
        self.pages, self.asked = pages, []
        owner = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                owner.asked.append(self.path)
                page = owner.pages.get(self.path)
                body = (page or "").encode()
                self.send_response(404 if page is None else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def build_openstack(key: Path, uuid: str = "uuid-1", user_data: str | None = None) -> dict[str, str]:
    """OpenStack's metadata pages, with everything a naive JSON reader trips over."""
    public = key.with_suffix(".pub").read_text()
    document = {
        "uuid": uuid,
        "meta": {"public_keys": "no", "hostname": 'a "quoted\\ \n name', "wide": "é日\u0007"},
        "public_keys": {"k/1": public, "second": "ssh-ed25519 AAAAsecond other"},
        "devices": [{"hostname": "wrong"}, [], {}, None, True, -1.5e3],
        "hostname": "web1.kumo.internal",
        "launch_index": 0,
    }
    pages = {"/openstack/latest/meta_data.json": json.dumps(document)}
    return pages if user_data is None else pages | {"/openstack/latest/user_data": user_data}


class Guest:
    """One QEMU under TCG with a disk over the image; used as a context, ends with it."""

    def __init__(self, image: Path, place: Path, key: Path, *, metadata: Metadata | None = None) -> None:
        self.place, self.key, self.process = place, key, None
        self.disk, self.log = place / "disk.qcow2", place / "console.log"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        base = ["-b", image, "-F", "qcow2"]
        run("qemu-img", "create", "-q", "-f", "qcow2", *base, self.disk, "1G")
        # QEMU's own network, moved onto the link-local range so that it can stand in for the metadata service.
        self.net = f"user,id=n,net=169.254.169.0/24,host=169.254.169.2,hostfwd=tcp:127.0.0.1:{self.port}-:22"
        self.net += ",dhcpstart=169.254.169.15"
        if metadata:
            self.net += f",guestfwd=tcp:169.254.169.254:80-cmd:busybox nc 127.0.0.1 {metadata.port}"

    def start(self, *extra: object, bus: str = "virtio", network: bool = True, memory: int = 128, wrap=()) -> Guest:
        self.log.unlink(missing_ok=True)
        qemu = [*wrap, "qemu-system-x86_64", "-accel", "tcg", "-smp", "1", "-m", memory, "-display", "none"]
        qemu += ["-nodefaults", "-qmp", f"unix:{self.place}/qmp,server=on,wait=off"]
        qemu += ["-chardev", f"socket,id=s,path={self.place}/serial,server=on,wait=off,logfile={self.log}"]
        qemu += ["-serial", "chardev:s", "-drive", f"file={self.disk},format=qcow2,if=none,id=d"]
        devices = {
            "virtio": ["virtio-blk-pci,drive=d"],
            "scsi": ["virtio-scsi-pci", "scsi-hd,drive=d"],
            "ide": ["ide-hd,drive=d"],
        }[bus]
        for device in [*devices, "virtio-rng-pci"]:
            qemu += ["-device", device]
        if network:
            qemu += ["-netdev", self.net, "-device", "virtio-net-pci,netdev=n"]
        output = (self.place / "qemu.log").open("w")
        self.process = subprocess.Popen([str(part) for part in [*qemu, *extra]], stdout=output, stderr=output)
        return self

    def __enter__(self) -> Guest:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.kill()
        if self.process:
            self.process.wait(10)

    def console(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def wait_for(self, text: str, seconds: float = BOOT_S) -> str:
        def seen() -> bool:
            assert self.process.poll() is None, f"QEMU ended: {(self.place / 'qemu.log').read_text()}"
            return text in self.console()

        wait_until(seen, seconds, lambda: f"{text!r} on the console:\n{self.console()[-3000:]}")
        return self.console()

    def ssh(self, command: str, check: bool = True) -> str:
        options = {"StrictHostKeyChecking": "accept-new", "LogLevel": "ERROR", "HashKnownHosts": "no"}
        options |= {"UserKnownHostsFile": f"{self.place}/known_hosts"}
        options |= {"BatchMode": "yes", "ConnectTimeout": "10", "IdentitiesOnly": "yes"}
        flags = [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
        target = ["-p", self.port, "-i", self.key, "cirros@127.0.0.1"]
        done = run("ssh", *flags, *target, command, check=check, timeout=60)
        return done.stdout.strip() if check else done.stdout + done.stderr

    def qmp(self, command: str) -> None:
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(10)
            link.connect(f"{self.place}/qmp")
            stream = link.makefile("rw")
            stream.readline()
            for name in ("qmp_capabilities", command):
                stream.write(json.dumps({"execute": name}) + "\n")
                stream.flush()
                stream.readline()
