"""A guest's ephemeral disks and swap: qcow2 files of their own, formatted, without ever being mounted or probed.

Owns ``servers/<id>/disk.eph<n>`` and ``disk.swap``. Made once, before the guest; they live as long as it does, and go
with it to another host (``incoming.py``), but for swap of a guest that was off, which is made anew there. Tools of
file systems run on a file that was made a moment ago and holds nothing. Next rooms: ``disks.py``,
``guest_hardware.py``.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from . import disks, guest_hardware
from .errors import KumoError

MKFS_DEADLINE_S = 60
FORMATS = ("ext4", "vfat")
PACKAGES = {"mkfs.ext4": "e2fsprogs", "mkfs.vfat": "dosfstools", "mkswap": "util-linux"}


def build_format(name: str, label: str, path: Path) -> list[str]:
    """The words that write an empty file system (or swap) into a file."""
    if name == "vfat":
        return ["mkfs.vfat", "-n", label, str(path)]
    if name == "swap":
        return ["mkswap", str(path)]
    # Tables are written when the guest first needs them: a large disk takes no longer than a small one.
    return ["mkfs.ext4", "-q", "-F", "-L", label, "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard", str(path)]


def build_wanted(server: dict) -> list[dict]:
    """[{file, size (bytes), format, label}] of what a guest has beside its root disk."""
    wanted = [
        {"file": guest_hardware.build_ephemeral_name(number), "size": size * disks.GIB, "format": name,
         "label": f"ephemeral{number}"}
        for number, (size, name) in enumerate(zip(server["ephemeral_gb"], server["ephemeral_formats"], strict=True))
    ]  # fmt: skip
    if server["swap_mb"]:
        size = server["swap_mb"] << 20
        wanted.append({"file": guest_hardware.SWAP, "size": size, "format": "swap", "label": "swap"})
    return wanted


def apply_extra(server: dict, directory: Path) -> None:
    """Make whatever of them is missing; KumoError says what cannot be made."""
    for one in build_wanted(server):
        path = directory / one["file"]
        if not path.exists():
            _make(one, path)


def apply_swap(server: dict, directory: Path) -> None:
    """The swap disk of a guest that was off when it came from another host; an ephemeral disk is not made anew."""
    apply_extra({**server, "ephemeral_gb": [], "ephemeral_formats": []}, directory)


def apply_blank(server: dict, directory: Path) -> None:
    """Empty files of their sizes, not formatted: what is on them comes from another host."""
    for one in build_wanted(server):
        path, part = directory / one["file"], directory / f".{one['file']}.part"
        if not path.exists():
            part.unlink(missing_ok=True)
            disks.run_qemu_img("create", "-q", "-f", "qcow2", str(part), str(one["size"]))
            os.chmod(part, 0o600)
            os.replace(part, path)


def find_lost(server: dict, directory: Path) -> list[str]:
    """The files that should be there and are not."""
    return [one["file"] for one in build_wanted(server) if not (directory / one["file"]).exists()]


def _make(one: dict, path: Path) -> None:
    raw, part = path.with_name(f".{path.name}.raw"), path.with_name(f".{path.name}.part")
    try:
        for leftover in (raw, part):
            leftover.unlink(missing_ok=True)
        with open(os.open(raw, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
            stream.truncate(one["size"])
        _run(build_format(one["format"], one["label"], raw))
        disks.run_qemu_img("convert", "-q", "-f", "raw", "-O", "qcow2", str(raw), str(part), seconds=MKFS_DEADLINE_S)
        os.chmod(part, 0o600)
        os.replace(part, path)
    finally:
        for leftover in (raw, part):
            leftover.unlink(missing_ok=True)


def _run(command: list[str]) -> None:
    # A host's root may have no sbin in its PATH.
    places = {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin", "LC_ALL": "C"}
    try:
        ended = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", env=places,
            timeout=MKFS_DEADLINE_S, check=False,
        )  # fmt: skip
    except FileNotFoundError:
        what = f"{command[0]} (package {PACKAGES[command[0]]})"
        raise KumoError(f"{what} is not installed on this host; the role hypervisor installs it") from None
    except subprocess.TimeoutExpired:
        raise KumoError(f"{command[0]} took longer than {MKFS_DEADLINE_S} s") from None
    if ended.returncode:
        raise KumoError(f"{command[0]} failed: {ended.stderr.strip()[:500]}")
