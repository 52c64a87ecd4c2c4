"""Whether guests really run under KVM here: found out by running one, not by looking at a device file.

There are hosts whose /dev/kvm opens and then hangs every ordinary guest. The probe boots a kernel whose init
writes one word to the serial port. The answer is kept in ``virt_type.json`` until the next boot or another QEMU.
Needs no libvirt. Next room: ``guests.py``, which asks before it defines a guest.
"""

from __future__ import annotations

import os
import select
import subprocess
import threading
import time
from pathlib import Path

from . import files
from .core import state_path
from .domain_xml import EMULATOR
from .tasks import read_boot_id

KERNEL = "/var/lib/kumo/guest-image/probe/vmlinuz"
INITRD = "/var/lib/kumo/guest-image/probe/initrd"
WORD = b"KUMO-PROBE-OK"
SECONDS = 8.0

_lock = threading.Lock()


def read_answer(document: dict) -> dict | None:
    """The kept answer {virt_type, reason, seconds}; None where there is none for this boot and this QEMU."""
    kept = files.read_json(state_path(document, "virt_type.json"))
    if not isinstance(kept, dict) or {name: kept.get(name) for name in ("boot_id", "qemu")} != _read_key():
        return None
    return kept


def read_virt_type(document: dict) -> str | None:
    """``kvm`` or ``qemu`` as the settings or the kept answer say; None where nobody has probed yet."""
    wanted = document["settings"]["virt_type"]
    if wanted != "auto":
        return wanted
    answer = read_answer(document)
    return answer["virt_type"] if answer else None


def apply_probe(document: dict, kernel: str = KERNEL, initrd: str = INITRD, seconds: float = SECONDS) -> dict:
    """The answer, by a guest run now where none is kept: {virt_type, reason, seconds, warning}.

    Takes up to ``seconds``. Without the probe's files the answer is qemu, with a ``warning``, and is not kept.
    """
    with _lock:  # guests start side by side; one probe serves them all
        kept = read_answer(document)
        if kept:
            return {**kept, "warning": None}
        missing = [path for path in (kernel, initrd) if not Path(path).is_file()]
        if not os.path.exists("/dev/kvm"):
            answer = {"virt_type": "qemu", "reason": "there is no /dev/kvm", "seconds": 0.0}
        elif missing:
            warning = f"{missing[0]} is not there (the role guest_image builds it), so KVM could not be tried"
            return {"virt_type": "qemu", "reason": "not probed", "seconds": 0.0, "warning": warning}
        else:
            answer = _run_probe(kernel, initrd, seconds)
        files.apply_json(state_path(document, "virt_type.json"), {**answer, **_read_key()}, mode=0o644)
        return {**answer, "warning": None}


def choose_virt_type(document: dict) -> str:
    """``kvm`` or ``qemu`` for a guest that is about to be defined; probes where nobody has."""
    return read_virt_type(document) or apply_probe(document)["virt_type"]


def _read_key() -> dict:
    try:
        status = os.stat(EMULATOR)
        emulator = f"{status.st_size}-{status.st_mtime_ns}"
    except FileNotFoundError:
        emulator = "none"
    return {"boot_id": read_boot_id(), "qemu": emulator}


def _run_probe(kernel: str, initrd: str, seconds: float) -> dict:
    command = [EMULATOR, "-machine", "pc,accel=kvm", "-cpu", "host", "-m", "128", "-nodefaults", "-display", "none"]
    command += ["-no-reboot", "-serial", "stdio", "-kernel", kernel, "-initrd", initrd]
    command += ["-append", "console=ttyS0 panic=-1"]
    started = time.monotonic()
    try:
        guest = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    except FileNotFoundError:
        return {"virt_type": "qemu", "reason": f"{EMULATOR} is not installed", "seconds": 0.0}
    said = b""
    try:
        until = started + seconds
        while WORD not in said and (left := until - time.monotonic()) > 0:
            if not select.select([guest.stdout], [], [], left)[0]:
                break
            chunk = os.read(guest.stdout.fileno(), 65536)
            if not chunk:
                break
            said = (said + chunk)[-65536:]
    finally:
        guest.kill()
        guest.wait()
        guest.stdout.close()
    took = round(time.monotonic() - started, 1)
    if WORD in said:
        return {"virt_type": "kvm", "reason": f"a guest ran under KVM in {took} s", "seconds": took}
    last = said.decode("utf-8", errors="replace").strip().splitlines()[-1:]
    reason = "hung" if took >= seconds else "ended without its word"
    reason = f"a guest under KVM {reason} after {took} s" + (f"; its last line: {last[0][:200]}" if last else "")
    return {"virt_type": "qemu", "reason": reason, "seconds": took}
