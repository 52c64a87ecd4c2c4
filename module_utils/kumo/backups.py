"""The disk as it was before a resize on its own host: kept beside the new one, dropped, or put back. And growing.

Owns ``servers/<id>/backup-<migration>``. A copy is whole or not there; putting back is one rename. Decides nothing
(``moves.py`` plans). Next room: ``disks.py``, which makes disks.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from . import disks, guests, image_formats, moves, tasks
from .errors import KumoError

KEEP_WAIT_S = 3.0
COPY_SECONDS = 24 * 3600


def build_path(document: dict, server_id: str, migration: str) -> Path:
    """Where the disk of before a resize lies."""
    return guests.build_directory(document, server_id) / f"backup-{migration}"


def read_size(disk: Path) -> int | None:
    """The bytes that a guest sees of its disk; None where there is none. Reads the header of our own file only."""
    try:
        with open(disk, "rb") as stream:
            return image_formats.parse_overlay(stream.read(image_formats.HEAD_BYTES))["virtual_size"]
    except FileNotFoundError:
        return None


def apply_keep(document: dict, server: dict) -> None:
    """Copy the disk, a task: by reference where the file system can, else what is in it, holes left out."""
    disk = guests.build_directory(document, server["id"]) / "disk"
    target = build_path(document, server["id"], server["backup"]["id"])
    part = disk.with_name(f".{target.name}.part")
    used, room = disk.stat().st_blocks * 512, os.statvfs(disk.parent)
    free = room.f_bavail * room.f_frsize
    if free < used:
        error = f"this host has {free} bytes free for disks; the old disk takes {used}"
        guests.note_failure(document, server["id"], error, moves.build_backup_move(server))
        return

    def copy(progress):
        part.unlink(missing_ok=True)
        try:
            _copy(disk, part, progress)
            os.chmod(part, 0o600)
            os.replace(part, target)
        finally:
            part.unlink(missing_ok=True)

    tasks.apply_start(document, moves.KEEP, server["id"], copy)
    tasks.wait(document, moves.KEEP, server["id"], time.monotonic() + KEEP_WAIT_S)


def _copy(disk: Path, part: Path, progress) -> None:
    command = ["cp", "--reflink=auto", "--sparse=always", str(disk), str(part)]
    total = disk.stat().st_blocks * 512
    with tasks.running_child(command) as child:
        while child.poll() is None:
            time.sleep(0.1)
            if part.exists():
                progress(min(total, part.stat().st_blocks * 512), total)
        errors = child.stderr.read()[-500:].decode(errors="replace").strip()
    if child.returncode:
        raise KumoError(f"the old disk could not be kept: {errors or child.returncode}")
    with open(part, "rb") as stream:
        os.fsync(stream.fileno())


def apply_drop(document: dict, server: dict) -> None:
    """The new size is the one."""
    build_path(document, server["id"], server["backup"]["id"]).unlink(missing_ok=True)


def apply_restore(document: dict, server: dict) -> None:
    """The old disk is the one: what was written since is lost, as asked."""
    target = build_path(document, server["id"], server["backup"]["id"])
    if target.exists():
        os.replace(target, target.with_name("disk"))


def apply_grow(document: dict, server: dict) -> None:
    """Make the disk of a guest that is off as large as its flavor has it; never smaller."""
    disk = guests.build_directory(document, server["id"]) / "disk"
    size = server["root_gb"] * moves.GIB
    if (read_size(disk) or size) < size:
        disks.run_qemu_img("resize", "-q", "-f", "qcow2", str(disk), str(size))
