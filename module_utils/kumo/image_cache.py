"""Which cached images nothing needs any more, and their removal: by age, and where the cache has grown too large.

An image is unused where the document does not list it and no disk on this host lies over it. Since when is noted in
its record (``images/<id>.json``, `unused_since`, seconds since the epoch). Without the settings `image_cache_max_age_s`
and `image_cache_max_bytes` nothing is noted and nothing removed. Next room: ``images.py``, whose section this is of.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import struct
import time
from pathlib import Path

from . import files
from .core import UUID, Action, state_path
from .errors import KumoError

SECTION = "images"
VERBS = ("note_unused", "note_used", "remove")
LONGEST_NAME = 1023  # of what a qcow2 file lies over
RECORD = re.compile(rf"({UUID.pattern})\.json")


def is_whole(known: dict, found: os.stat_result) -> bool:
    """Whether a cached file still has the size and the time of change that were recorded with its checksum."""
    return found.st_size == known["size"] and known.get("mtime_ns", found.st_mtime_ns) == found.st_mtime_ns


def read_cache(document: dict) -> dict:
    """{now, max_age_s, max_bytes, images: {id: {bytes, unused_since, needed}}} of every cached image."""
    settings, cache = document["settings"], {"now": int(time.time()), "images": {}}
    for name in ("max_age_s", "max_bytes"):
        cache[name] = settings.get(f"image_cache_{name}") or 0
        if not isinstance(cache[name], int):
            raise KumoError(f"document.settings.image_cache_{name} is {cache[name]!r}; it must be a whole number")
    directory = state_path(document, "images")
    needed = {image["id"] for image in document["images"]}
    bounded = cache["max_age_s"] or cache["max_bytes"]
    below: set | None = None
    for path in sorted(directory.iterdir()) if directory.is_dir() else []:
        match = RECORD.fullmatch(path.name)
        known = files.read_json(path) if match else None
        if not isinstance(known, dict):
            continue
        image_id = match[1]
        if image_id not in needed and bounded and below is None:
            below = read_below(document)
        cache["images"][image_id] = {
            "bytes": known.get("size") or 0,
            "unused_since": known.get("unused_since"),
            "needed": image_id in needed or image_id in (below or ()),
        }
    return cache


def read_below(document: dict) -> set[str]:
    """Names of the files that disks of guests on this host lie over, whether or not the document has the guests."""
    found = set()
    for path in state_path(document, "servers").glob("*/*"):
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISREG(path.lstat().st_mode):
                with open(path, "rb") as stream:
                    found |= _parse_below(stream)
    return found


def _parse_below(stream) -> set[str]:
    head = stream.read(20)
    if len(head) < 20 or head[:4] != b"QFI\xfb":
        return set()
    offset, size = struct.unpack(">QI", head[8:20])
    if not offset or size > LONGEST_NAME:
        return set()
    stream.seek(offset)
    return {Path(stream.read(size).decode(errors="replace")).name}


def plan_cache(cache: dict) -> list[Action]:
    """Note what is unused and what is used again; remove what is unused for too long, or has no room."""
    if not (cache["max_age_s"] or cache["max_bytes"]):
        return []
    actions, unused = [], {}
    for image_id, one in cache["images"].items():
        since = one["unused_since"]
        if one["needed"]:
            if since is not None:
                actions.append(Action(SECTION, image_id, "note_used", {"unused_since": None}))
            continue
        unused[image_id] = cache["now"] if since is None else since
        if since is None or since > cache["now"]:
            actions.append(Action(SECTION, image_id, "note_unused", {"unused_since": cache["now"]}))
    total = sum(one["bytes"] for one in cache["images"].values())
    for image_id, since in sorted(unused.items(), key=lambda pair: (pair[1], pair[0])):
        old = cache["max_age_s"] and cache["now"] - since >= cache["max_age_s"]
        if old or (cache["max_bytes"] and total > cache["max_bytes"]):
            total -= cache["images"][image_id]["bytes"]
            actions = [action for action in actions if action.object_id != image_id]
            before = f"image {image_id} in the cache, used by nothing since {since}\n"
            actions.append(Action(SECTION, image_id, "remove", {}, before=before, after=""))
    return actions


def apply_cache(document: dict, action: Action) -> None:
    """One of VERBS."""
    path = state_path(document, "images", action.object_id)
    record = path.with_name(f"{action.object_id}.json")
    if action.verb == "remove":
        if action.object_id in read_below(document):
            raise KumoError(f"image {action.object_id} is not removed: a disk on this host lies over it")
        path.unlink(missing_ok=True)  # the record last: what is half removed is found again
        record.unlink(missing_ok=True)
        return
    known = files.read_json(record)
    if isinstance(known, dict):
        files.apply_json(record, {**known, "unused_since": action.args["unused_since"]})


def build_report(cache: dict) -> list[dict]:
    """[{id, bytes, unused_since, needed}] as operators see it."""
    return [{"id": image_id, **one} for image_id, one in sorted(cache["images"].items())]
