"""A real guest paused, suspended and rescued: what stands still, what goes on, and that nothing is left of it.

Every assertion looks with virsh, a file, or the guest's own console.
"""

from __future__ import annotations

import hashlib
import re
import time
import uuid
from pathlib import Path

import pytest
from libvirt_lab import IMAGE, Host, Serial, virsh, wait_for
from test_servers import verbs

COUNTER = b"n=0; while true; do n=$((n+1)); echo tick-$n.; usleep 200000; done\n"
SAVED = Path("/var/lib/libvirt/qemu/save")
BOOT_S = 150  # the machine may be busy with other tests


@pytest.fixture
def host(libvirt_host, guest_image, state_dir, bridge):
    host = Host(state_dir, bridge)
    yield host
    virsh("managedsave-remove", host.name)


class Terminal:
    """The guest's serial console, read and typed on as its user would."""

    def __init__(self, host):
        self.host, self.stream = host, None

    def read(self) -> str:
        return (self.host.directory / "console.log").read_text(errors="replace").replace("\r\n", "\n")

    def type(self, line: bytes) -> None:
        self.stream.write(line)

    def close(self) -> None:
        if self.stream:
            self.stream.close()

    def expect(self, pattern: str, since: int, seconds: float = 60) -> re.Match:
        """The first match on what the console has said after its first ``since`` characters."""
        until = time.monotonic() + seconds
        while not (found := re.search(pattern, self.read()[since:])):
            assert time.monotonic() < until, f"{pattern} not on the console: {self.read()[since:][-1500:]}"
            time.sleep(0.25)
        return found

    def log_in(self, since: int) -> None:
        """Once the guest has booted. Each QEMU has a serial port of its own, for one client at a time."""
        self.expect("login:", since, BOOT_S)
        self.close()
        self.stream = Serial(self.host.name)
        for line, prompt in ((b"\n", "login:"), (b"cirros\n", "assword:"), (b"gocubsgo\n", r"\$ ")):
            since = len(self.read())
            self.type(line)
            self.expect(prompt, since)

    def run(self, line: str) -> str:
        """What the guest answers to a line of its shell, between two marks that the line itself does not have."""
        one, two = uuid.uuid4().hex[:8], uuid.uuid4().hex[:8]
        since = len(self.read())
        self.type(f"echo {one[:4]}''{one[4:]}; {line}; echo {two[:4]}''{two[4:]}\n".encode())
        return self.expect(f"(?s){one}\n(.*?){two}", since)[1].strip()

    def list_counts(self) -> list[int]:
        return [int(found) for found in re.findall(r"tick-(\d+)\.", self.read())]

    def count(self) -> int:
        return max(self.list_counts(), default=0)


def build_rescue_disk() -> bytes:
    """A disk whose boot sector says RESCUED on the serial port.

    Two file systems of one label would leave open which of them the guest took for its root; this does not.
    """
    said = b"\r\nRESCUED\r\n"
    start = bytes.fromhex("fa fc 31c0 8ed8")  # segments are 0
    out = bytes.fromhex("baf803 ac ee e2fc f4 ebfd")  # cx bytes at si to port 3f8, then halt
    at = 0x7C00 + len(start) + 6 + len(out)
    code = start + b"\xbe" + at.to_bytes(2, "little") + b"\xb9" + len(said).to_bytes(2, "little") + out
    return (code + said).ljust(510, b"\0") + b"\x55\xaa" + bytes((1 << 20) - 512)


def add_rescue_image(host) -> str:
    image, path = str(uuid.uuid4()), host.state_dir / "rescue.raw"
    path.write_bytes(build_rescue_disk())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    row = {"id": image, "checksum": f"sha256:{digest}", "size": 1 << 20, "disk_format": "raw"}
    host.document["images"].append({**row, "source": {"path": str(path)}})
    return image


def is_saved(host) -> bool:
    shown = virsh("dominfo", host.name).stdout
    return bool(re.search(r"Managed save:\s+yes", shown)) and (SAVED / f"{host.name}.save").exists()


def test_a_guest_stands_still_goes_on_and_is_rescued(host):
    """A counter that pause and suspend hold up; then a rescue, and the way back to what was written before."""
    image = add_rescue_image(host)
    host.call()
    terminal = Terminal(host)
    terminal.log_in(0)
    assert terminal.run("echo kept > /home/cirros/mark; sync; cat /home/cirros/mark") == "kept"
    terminal.type(COUNTER)
    terminal.expect(r"tick-5\.", 0)
    _pause(host, terminal)
    _suspend(host, terminal)
    try:
        _rescue(host, terminal, image)
    finally:
        terminal.close()
    _forget(host)


def _pause(host, terminal):
    paused = host.call(power="paused")
    assert verbs(paused) == ["pause"]
    assert (host.seen(paused)["state"], host.seen(paused)["reason"]) == ("paused", "user")
    assert paused["observed"]["ports"] == {host.port: {"state": "active"}}
    assert host.state() == "paused"
    time.sleep(0.5)  # what it has said is on its way to the log
    before = terminal.count()
    time.sleep(1.5)
    assert terminal.count() == before, "it stands still"
    assert f"tick-{before}." in host.console(), "and its console can be asked for"
    host.server["console"] = None
    assert verbs(host.call()) == []
    assert verbs(host.call(power="on", start={"wanted": 1})) == ["resume"]
    wait_for("it goes on", lambda: terminal.count() > before + 2)
    virsh("suspend", host.name)
    assert verbs(host.call()) == ["resume"], "by hand: not wanted"
    assert host.state() == "running"
    assert verbs(host.call()) == []


def _suspend(host, terminal):
    logins = terminal.read().count("login:")
    suspended = host.settle(power="suspended")
    assert host.seen(suspended)["state"] == "suspended"
    assert host.state() == "shut off"
    assert is_saved(host)
    assert verbs(host.call()) == []
    before = terminal.count()
    assert verbs(host.call(memory_mb=100)) == ["redefine"], "its memory stays as it was"
    assert verbs(host.call(power="on", memory_mb=96, start={"wanted": 2})) == ["redefine", "start"]
    assert not is_saved(host)
    wait_for("its memory goes on", lambda: terminal.count() > before)
    assert verbs(host.call()) == []
    host.call(power="paused")
    host.settle(power="suspended")
    assert is_saved(host)
    before = terminal.count()
    assert verbs(host.call(power="on")) == ["start"]
    wait_for("saved while it was paused, it goes on too", lambda: terminal.count() > before)
    found = terminal.list_counts()
    assert found == sorted(set(found)), "no number twice, none from the start again"
    assert terminal.read().count("login:") == logins, "it was not booted"


def _rescue(host, terminal, image):
    since = len(terminal.read())
    rescued = host.settle(rescue={"image": image}, start={"wanted": 3})
    assert host.seen(rescued)["rescue"] == image
    assert verbs(host.call()) == []
    disks = re.findall(r"(vd\w)\s+(\S+)", virsh("domblklist", host.name).stdout)
    assert disks == [("vda", str(host.directory / "disk.rescue")), ("vdb", str(host.directory / "disk"))]
    terminal.expect("RESCUED", since, BOOT_S)
    since = len(terminal.read())
    assert verbs(host.call(rescue=None, start={"wanted": 4})) == ["unrescue", "start"]
    assert verbs(host.call()) == []
    assert not (host.directory / "disk.rescue").exists()
    disks = re.findall(r"(vd\w)\s+(\S+)", virsh("domblklist", host.name).stdout)
    assert disks == [("vda", str(host.directory / "disk"))]
    terminal.log_in(since)
    assert terminal.run("cat /home/cirros/mark") == "kept"


def _forget(host):
    host.settle(power="suspended")
    assert verbs(host.call(power="paused")) == ["start", "pause"]
    assert host.state() == "paused"
    host.settle(power="suspended")
    assert verbs(host.call(power="on", reboot={"wanted": 1, "type": "HARD"})) == ["discard", "start"]
    assert host.state() == "running"
    assert not is_saved(host)
    host.settle(power="suspended")
    assert verbs(host.call(power="off")) == ["discard", "record"]
    assert host.state() == "shut off"
    assert not is_saved(host)
    assert verbs(host.call()) == []


def test_delete_leaves_nothing(host):
    """From each of these states, whatever it is in: no domain, no saved memory, no file."""
    image = add_rescue_image(host)
    base = dict(host.server)
    for changes in (
        {"power": "paused"},
        {"power": "suspended"},
        {"rescue": {"image": image}},
        {"rescue": {"image": IMAGE}, "power": "suspended"},
    ):
        host.server.clear()
        host.settle(**base)
        host.settle(**{"stop": {"graceful": False}, **changes})
        wanted = changes.get("power", "on")
        assert host.state() == {"on": "running", "paused": "paused", "suspended": "shut off"}[wanted]
        assert is_saved(host) == (wanted == "suspended")
        assert (host.directory / "disk.rescue").exists() == ("rescue" in changes)
        assert verbs(host.call()) == []
        assert verbs(host.call(wanted="absent")) == ["remove"]
        assert virsh("domstate", host.name).returncode != 0
        assert not host.directory.exists()
        assert not (SAVED / f"{host.name}.save").exists()
        assert verbs(host.call()) == []
