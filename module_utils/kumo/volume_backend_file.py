"""The backend `file`: each volume a sparse raw file of the storage host. The embedded default.

Owns ``<directory>/volumes``; the contract is docs/storage-backends.md. A file under construction is ``.<id>.part``:
what is named ``<id>.volume`` or ``<id>.snapshot`` is whole. Next room: ``volumes.py``, which plans.
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

from .errors import KumoError

GIB = 1 << 30
FICLONE = 0x40049409  # ioctl_ficlone(2)
KINDS = ("volume", "snapshot")


def build_path(storage: dict, kind: str, object_id: str) -> Path:
    """Where a whole volume or snapshot lies."""
    return Path(storage["directory"], "volumes", f"{object_id}.{kind}")


def _part(storage: dict, object_id: str) -> Path:
    return Path(storage["directory"], "volumes", f".{object_id}.part")


def parse_settings(storage: dict) -> dict:
    """``storage`` with this backend's own defaults (there are none)."""
    return storage


def read_contents(storage: dict) -> dict:
    """{objects, unfinished, pool} of the directory and its file system."""
    directory = Path(storage["directory"], "volumes")
    contents: dict = {"objects": {}, "unfinished": set(), "pool": _read_pool(Path(storage["directory"]))}
    for path in sorted(directory.iterdir()) if directory.is_dir() else []:
        kind = path.suffix[1:]
        if path.name.startswith("."):
            contents["unfinished"] |= {path.name[1:-5]} if kind == "part" else set()
        elif kind in KINDS:
            contents["objects"][path.stem] = {"kind": kind, "size": path.stat().st_size}
    return contents


def _read_pool(directory: Path) -> dict:
    room = os.statvfs(directory if directory.is_dir() else "/")
    total, free = room.f_blocks * room.f_frsize, room.f_bavail * room.f_frsize
    return {
        "total_gb": total // GIB,
        "free_gb": free // GIB,
        "used_percent": round(100 * (1 - free / total), 1) if total else 100.0,
        "metadata_percent": None,
        # A copy that takes time is of no one moment while somebody writes.
        "snapshot_in_use": _can_clone(directory / "volumes"),
        "problem": None,
    }


def _can_clone(directory: Path) -> bool:
    """Whether the file system shares blocks between files (XFS, Btrfs)."""
    if not directory.is_dir():
        return False
    one, other = directory / ".clone-from", directory / ".clone-to"
    try:
        one.write_bytes(b"\0" * 4096)
        _clone(one, other)
    except OSError:
        return False
    finally:
        one.unlink(missing_ok=True)
        other.unlink(missing_ok=True)
    return True


def _clone(source: Path, target: Path) -> None:
    with open(source, "rb") as origin, open(os.open(target, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as stream:
        fcntl.ioctl(stream.fileno(), FICLONE, origin.fileno())


def apply_open(storage: dict, kind: str, object_id: str) -> Path:
    """The file can be opened; where it is."""
    return build_path(storage, kind, object_id)


def apply_begin(storage: dict, object_id: str, size: int) -> Path:
    """A file of ``size`` zeros to be written to, not yet to be seen; where it lies."""
    part = _part(storage, object_id)
    part.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part.unlink(missing_ok=True)
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
        stream.truncate(size)
    return part


def apply_finish(storage: dict, kind: str, object_id: str) -> None:
    """What apply_begin made is whole."""
    os.replace(_part(storage, object_id), build_path(storage, kind, object_id))


def apply_replace(storage: dict, volume_id: str) -> None:
    """What apply_begin made is whole, in the place of the volume: the blocks of that one go as with a deletion."""
    apply_finish(storage, "volume", volume_id)


def apply_create(storage: dict, volume_id: str, size: int) -> None:
    """A whole volume of zeros."""
    apply_begin(storage, volume_id, size)
    apply_finish(storage, "volume", volume_id)


def apply_snapshot(storage: dict, snapshot_id: str, volume_id: str) -> bool:
    """A snapshot of this moment; False where the file system cannot, and a copy is needed."""
    if not _clone_part(storage, snapshot_id, build_path(storage, "volume", volume_id)):
        return False
    apply_finish(storage, "snapshot", snapshot_id)
    return True


def apply_clone(storage: dict, volume_id: str, kind: str, source_id: str, size: int) -> bool:
    """A volume that begins as what a volume or snapshot is at this moment; False where that takes a copy."""
    if not _clone_part(storage, volume_id, build_path(storage, kind, source_id)):
        return False
    part = _part(storage, volume_id)
    if part.stat().st_size < size:
        os.truncate(part, size)
    apply_finish(storage, "volume", volume_id)
    return True


def _clone_part(storage: dict, object_id: str, source: Path) -> bool:
    part = _part(storage, object_id)
    part.unlink(missing_ok=True)
    try:
        _clone(source, part)
    except OSError as error:
        part.unlink(missing_ok=True)
        if error.errno in (errno.EOPNOTSUPP, errno.EINVAL, errno.EXDEV, errno.ENOTTY):
            return False
        raise KumoError(f"{object_id} from {source.name}: {error.strerror}") from None
    return True


def apply_extend(storage: dict, volume_id: str, size: int) -> None:
    """Make a volume larger; what is new is zeros."""
    path = build_path(storage, "volume", volume_id)
    if path.stat().st_size < size:
        os.truncate(path, size)


def apply_delete(storage: dict, object_id: str) -> None:
    """Remove a volume or snapshot, begun or whole. Its blocks read as zeros to whoever gets them next."""
    _part(storage, object_id).unlink(missing_ok=True)
    for kind in KINDS:
        build_path(storage, kind, object_id).unlink(missing_ok=True)
