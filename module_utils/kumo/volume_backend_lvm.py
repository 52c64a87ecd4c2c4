"""The backend `lvm`: each volume a thin logical volume of one pool, each snapshot a thin snapshot of it.

Owns the logical volumes named ``kumo-<kind>-<id>`` that carry the tag of this state directory (decision 0006), and
touches no other; the contract is docs/storage-backends.md. What is under construction is ``kumo-part-<id>``. LVM's
own lock of the volume group makes writers wait for each other. Next room: ``volumes.py``, which plans.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from pathlib import Path

from .errors import KumoError

GIB = 1 << 30
KINDS = ("volume", "snapshot")
PART = "part"
THIN_POOL = "kumo"
NAME = re.compile(r"[A-Za-z0-9_+][A-Za-z0-9_+.-]{0,126}")  # lvm(8), "Valid names"
TAG = re.compile(r"[A-Za-z0-9_+./=!:&#-]{1,1000}")
COLUMNS = (
    "lv_name", "lv_size", "pool_lv", "lv_tags", "lv_layout", "lv_active", "lv_health_status",
    "zero", "data_percent", "metadata_percent",
)  # fmt: skip
# A guest may write LVM's labels on its volume: logical volumes are never looked into, whatever lvm.conf says. And
# LVM's archive would get a file for each change; its backup of the newest metadata stays.
CONFIG = "devices { scan_lvs = 0 } backup { archive = 0 }"
COMMAND_S = 45
DISCARD_S = 20
IN_USE_S = 5


def parse_settings(storage: dict) -> dict:
    """``storage`` with this backend's own defaults; KumoError names a wrong field."""
    storage = {"thin_pool": THIN_POOL, **storage}
    for name in ("volume_group", "thin_pool"):
        if not isinstance(storage.get(name), str) or not NAME.fullmatch(storage[name]):
            raise KumoError(f"settings.storage.{name} is {storage.get(name)!r}; it must be a name of LVM's")
    if not TAG.fullmatch(build_tag(storage)):
        raise KumoError(
            f"settings.storage.directory {storage['directory']!r} cannot be a tag of LVM's; use plain letters"
        )
    return storage


def build_tag(storage: dict) -> str:
    """What marks logical volumes as this state directory's."""
    return f"kumo:{storage['directory']}"


def build_name(kind: str, object_id: str) -> str:
    """The name of the logical volume of a volume, a snapshot or a part."""
    return f"kumo-{kind}-{object_id}"


def build_path(storage: dict, kind: str, object_id: str) -> Path:
    """The block device of a volume, a snapshot or a part."""
    return Path("/dev", storage["volume_group"], build_name(kind, object_id))


def parse_report(text: str, storage: dict) -> tuple[dict, dict | None]:
    """({name: row} of what is this state directory's, the pool's row or None) of ``lvs --reportformat json``."""
    try:
        rows = [row for report in json.loads(text)["report"] for row in report["lv"]]
        named = {row["lv_name"]: row for row in rows}
        owned = {name: row for name, row in named.items() if build_tag(storage) in row["lv_tags"].split(",")}
    except (ValueError, KeyError, TypeError):
        raise KumoError("lvs gave no report that this host's Kumo can read") from None
    pool = named.get(storage["thin_pool"])
    return owned, pool if pool and "pool" in pool["lv_layout"].split(",") else None


def parse_contents(text: str, storage: dict) -> dict:
    """{objects, unfinished, pool} as docs/storage-backends.md has it, of the same text."""
    owned, pool = parse_report(text, storage)
    contents: dict = {"objects": {}, "unfinished": set(), "pool": parse_pool(pool, storage)}
    for name, row in sorted(owned.items()):
        found = re.fullmatch(r"kumo-([a-z]+)-([0-9a-f-]{36})", name)
        if found and found[1] == PART:
            contents["unfinished"].add(found[2])
        elif found and found[1] in KINDS:
            contents["objects"][found[2]] = {"kind": found[1], "size": int(row["lv_size"])}
    return contents


def parse_pool(row: dict | None, storage: dict) -> dict:
    """How large and how full the pool is; KumoError where there is none, or none that volumes may be in."""
    name = f"{storage['volume_group']}/{storage['thin_pool']}"
    if row is None:
        raise KumoError(f"there is no thin pool {name} on this host")
    percents = [float(row[column]) if row[column] else None for column in ("data_percent", "metadata_percent")]
    size = int(row["lv_size"])
    return {
        "total_gb": size // GIB,
        "free_gb": int(size * (100 - (100 if percents[0] is None else percents[0])) / 100) // GIB,
        "used_percent": percents[0],
        "metadata_percent": percents[1],
        "snapshot_in_use": True,
        "problem": find_problem(row, name),
    }


def find_problem(row: dict, name: str) -> str | None:
    """Why nothing may be made in the pool now, as a sentence; None where nothing is in the way."""
    if row["lv_health_status"]:
        return f"the thin pool {name} is not well: {row['lv_health_status']}"
    if row["zero"] != "zero":
        return f"the thin pool {name} gives out blocks as they were, others' data in them: lvchange --zero y {name}"
    if not row["data_percent"] or not row["metadata_percent"]:
        return f"the thin pool {name} is not active, so nobody knows how full it is: lvchange --activate y {name}"
    return None


def build_create(storage: dict, name: str, size: int) -> list[str]:
    """The command that makes room of ``size`` zeros."""
    group, pool = storage["volume_group"], storage["thin_pool"]
    return [
        "lvcreate", "--yes", "--type", "thin", "--virtualsize", f"{size}b", "--thinpool", f"{group}/{pool}",
        "--name", name, "--addtag", build_tag(storage), "--setactivationskip", "n",
        "--wipesignatures", "n", group,
    ]  # fmt: skip


def build_snapshot(storage: dict, name: str, origin: str, is_active: bool) -> list[str]:
    """The command that makes ``name`` what ``origin`` is at this moment."""
    return [
        "lvcreate", "--yes", "--snapshot", "--name", name, "--addtag", build_tag(storage),
        "--setactivationskip", "n" if is_active else "y", "--activate", "y" if is_active else "n",
        f"{storage['volume_group']}/{origin}",
    ]  # fmt: skip


def plan_finish(owned: dict, storage: dict, kind: str, object_id: str) -> list[list[str]]:
    """The commands that make a part whole; none where it is. KumoError where neither is there."""
    part, whole = build_name(PART, object_id), build_name(kind, object_id)
    if part in owned:
        return [["lvrename", "--yes", storage["volume_group"], part, whole]]
    if whole not in owned:
        raise KumoError(f"{kind} {object_id} was never begun in volume group {storage['volume_group']}")
    return []


def plan_replace(owned: dict, volume_id: str) -> list[str]:
    """The names that go before a part takes their place; KumoError where there is no part, and nothing goes then."""
    if build_name(PART, volume_id) not in owned:
        raise KumoError(f"nothing was begun that could take the place of volume {volume_id}")
    return [name for name in (build_name("volume", volume_id),) if name in owned]


def plan_extend(owned: dict, storage: dict, name: str, size: int) -> list[list[str]]:
    """The commands that make it as large as ``size`` bytes; none where it is."""
    if name not in owned:
        raise KumoError(f"there is no logical volume {name} in volume group {storage['volume_group']}")
    if int(owned[name]["lv_size"]) >= size:
        return []
    return [["lvextend", "--yes", "--size", f"{size}b", f"{storage['volume_group']}/{name}"]]


def plan_delete(owned: dict, object_id: str) -> list[str]:
    """The names that go with an object, begun or whole."""
    return [name for kind in (PART, *KINDS) if (name := build_name(kind, object_id)) in owned]


def _ask(*words: str) -> str:
    """What one of LVM's commands says; KumoError with its reason."""
    command = [words[0], "--config", CONFIG, *words[1:]]
    try:
        ended = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=COMMAND_S,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "LVM_SUPPRESS_FD_WARNINGS": "1"},
        )
    except FileNotFoundError:
        raise KumoError(f"{words[0]} is not on this host: it was not prepared for the backend lvm") from None
    except subprocess.TimeoutExpired:
        raise KumoError(f"{words[0]}: no end within {COMMAND_S} s") from None
    if ended.returncode:
        lines = [line.strip() for line in ended.stderr.decode(errors="replace").splitlines()]
        told = [line for line in lines if line and not line.startswith("WARNING")]
        raise KumoError(f"{words[0]}: {'; '.join(told)[:300] or f'exit status {ended.returncode}'}")
    return ended.stdout.decode(errors="replace")


def _read_report(storage: dict) -> str:
    columns = ["--reportformat", "json", "--units", "b", "--nosuffix", "--options", ",".join(COLUMNS)]
    return _ask("lvs", *columns, storage["volume_group"])


def _read_owned(storage: dict) -> dict:
    return parse_report(_read_report(storage), storage)[0]


def read_contents(storage: dict) -> dict:
    """{objects, unfinished, pool}; KumoError where there is no such pool."""
    return parse_contents(_read_report(storage), storage)


def apply_open(storage: dict, kind: str, object_id: str) -> Path:
    """The device can be opened; where it is."""
    path = build_path(storage, kind, object_id)
    if not path.exists():  # not active: a snapshot, or the host was started without
        _activate(f"{storage['volume_group']}/{path.name}")
    return path


def _activate(path: str) -> None:
    _ask("lvchange", "--yes", "--activate", "y", "--ignoreactivationskip", path)


def apply_create(storage: dict, volume_id: str, size: int) -> None:
    """A whole volume of zeros, in one step of LVM's; what a part of it left goes."""
    if (part := build_name(PART, volume_id)) in _read_owned(storage):
        _remove(storage, part, is_active=True)
    _ask(*build_create(storage, build_name("volume", volume_id), size))


def apply_begin(storage: dict, object_id: str, size: int) -> Path:
    """A thin volume of ``size`` zeros to be written to, not yet to be seen; its device."""
    if (part := build_name(PART, object_id)) in _read_owned(storage):
        _remove(storage, part, is_active=True)
    _ask(*build_create(storage, part, size))
    return build_path(storage, PART, object_id)


def apply_finish(storage: dict, kind: str, object_id: str) -> None:
    """What apply_begin made is whole."""
    for command in plan_finish(_read_owned(storage), storage, kind, object_id):
        _ask(*command)


def apply_replace(storage: dict, volume_id: str) -> None:
    """What apply_begin made is whole, in the place of the volume. Snapshots of thin volumes stay without them."""
    owned = _read_owned(storage)
    for name in plan_replace(owned, volume_id):
        _remove(storage, name, owned[name]["lv_active"] == "active")
    apply_finish(storage, "volume", volume_id)


def apply_snapshot(storage: dict, snapshot_id: str, volume_id: str) -> bool:
    """A snapshot of this moment, of a volume in use too: LVM stops its writes for that long. Never active by itself."""
    name = build_name("snapshot", snapshot_id)
    if name not in _read_owned(storage):
        _ask(*build_snapshot(storage, name, build_name("volume", volume_id), is_active=False))
    return True


def apply_clone(storage: dict, volume_id: str, kind: str, source_id: str, size: int) -> bool:
    """A volume that begins as what a volume or snapshot is at this moment; what is larger is zeros."""
    part = build_name(PART, volume_id)
    if part in _read_owned(storage):
        _remove(storage, part, is_active=True)
    _ask(*build_snapshot(storage, part, build_name(kind, source_id), is_active=True))
    owned = _read_owned(storage)
    for command in [*plan_extend(owned, storage, part, size), *plan_finish(owned, storage, "volume", volume_id)]:
        _ask(*command)
    return True


def apply_extend(storage: dict, volume_id: str, size: int) -> None:
    """Make a volume larger, in use or not; what is new is zeros."""
    for command in plan_extend(_read_owned(storage), storage, build_name("volume", volume_id), size):
        _ask(*command)


def apply_delete(storage: dict, object_id: str) -> None:
    """Remove a volume or snapshot, begun or whole. The pool zeroes its blocks before anybody else reads them."""
    owned = _read_owned(storage)
    for name in plan_delete(owned, object_id):
        _remove(storage, name, owned[name]["lv_active"] == "active")


def _remove(storage: dict, name: str, is_active: bool) -> None:
    path = f"{storage['volume_group']}/{name}"
    _discard(path, is_active)
    until = time.monotonic() + IN_USE_S
    while True:
        try:
            _ask("lvremove", "--yes", "--force", path)
            return
        except KumoError as error:  # udev, or the end of a killed copy, may hold it for a moment
            if "in use" not in str(error) or time.monotonic() > until:
                raise
            time.sleep(0.2)


def _discard(path: str, is_active: bool) -> None:
    """Give the blocks that nobody shares back to the disks below; nothing depends on it (see ``find_problem``)."""
    try:
        if not is_active:
            _activate(path)
        # blkdiscard will not touch what another has opened for itself alone; the removal says what is in the way.
        subprocess.run(["blkdiscard", f"/dev/{path}"], stdin=subprocess.DEVNULL, capture_output=True, timeout=DISCARD_S)
    except (KumoError, OSError, subprocess.TimeoutExpired):
        return
