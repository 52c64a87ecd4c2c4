"""The host's image cache: each image once, read-only, checked, whole or not there at all.

Owns ``images/<id>`` and its ``images/<id>.json`` ({checksum, disk_format, virtual_size, size, mtime_ns, fetch}) in
the state directory. A file whose size or time of change is no longer what was recorded is not used, and is fetched
again; with the setting `verify_images` (`kumo verify --images`) so is one whose bytes differ. Next rooms:
``image_cache.py``, which removes what nothing needs; ``disks.py``, which lays guests' disks over these files.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from . import files, image_cache, image_fetch, image_formats, tasks
from .core import Action, state_path
from .errors import KumoError

SECTION = "images"
KIND = "fetch"
# A fetch that ends within this time lets the server that waits for it start in the same run. One budget for a call.
WAIT_S = 5.0


class ChangedError(KumoError):
    """A cached file is not what was fetched: it is to be fetched again."""


def build_image_path(document: dict, image_id: str) -> Path:
    """Where an image lies in the cache."""
    return state_path(document, "images", image_id)


def read_image(document: dict, image_id: str) -> dict | None:
    """The cached image's {checksum, disk_format, virtual_size, size}; None where it is not (wholly) there.

    Its first bytes are looked at again each time: KumoError where they are not what was stored.
    """
    path = build_image_path(document, image_id)
    known = files.read_json(path.with_name(f"{image_id}.json"))
    if not known or not path.is_file():
        return None
    if not image_cache.is_whole(known, path.stat()):
        raise ChangedError(f"image {image_id} in this host's cache has changed since it was fetched")
    try:
        virtual_size = image_formats.read_virtual_size(path, known["disk_format"])
    except KumoError as error:
        raise KumoError(f"image {image_id} in this host's cache is refused: {error}") from None
    if virtual_size != known["virtual_size"]:
        raise KumoError(f"image {image_id} in this host's cache has changed since it was fetched")
    return known


def read_images(document: dict) -> dict:
    """{image id: {state, bytes, total, error, task_failed}}, and ``_tasks``, ``_leftovers`` and ``_cache``."""
    _budget.clear()
    records = tasks.read_tasks(document, KIND)
    observed: dict = {"_tasks": records, "_leftovers": [], "_cache": image_cache.read_cache(document)}
    for image in document["images"]:
        observed[image["id"]] = _read_state(document, image, records.get(tasks.build_task_id(KIND, image["id"])))
    running = {record["object_id"] for record in records.values() if record["state"] == "running"}
    directory = state_path(document, "images")
    if directory.is_dir():
        for path in sorted(directory.glob(".*.part")):
            if path.name[1:-5] not in running:
                observed["_leftovers"].append(path.name)
    return observed


def _read_state(document: dict, image: dict, task: dict | None) -> dict:
    size = image.get("size") or 0
    state = {"state": "missing", "bytes": 0, "total": size, "error": None, "task_failed": False}
    if task and task["state"] == "running":
        return {**state, "state": "fetching", "bytes": task["bytes"], "total": task["total"] or size}
    if task:
        return {**state, "state": "failed", "error": task["error"], "task_failed": True}
    try:
        cached = read_image(document, image["id"])
        if cached and document["settings"].get("verify_images") and cached["checksum"] == image.get("checksum"):
            _check_bytes(document, image)
    except ChangedError as error:
        return {**state, "state": "changed", "error": str(error)}
    except KumoError as error:
        return {**state, "state": "failed", "error": str(error)}
    if cached:
        if image.get("checksum") and cached["checksum"] != image["checksum"]:
            message = f"image {image['id']} in this host's cache has another checksum than the document's"
            return {**state, "state": "failed", "error": message}
        if (image.get("fetch") or 0) > cached.get("fetch", 0):
            return {**state, "state": "changed", "error": f"image {image['id']} is to be fetched again"}
        return {**state, "state": "cached", "bytes": cached["size"], "total": cached["size"]}
    return state


def _check_bytes(document: dict, image: dict) -> None:
    """ChangedError where the cached file's bytes are not the image's; reads all of it."""
    try:
        image_fetch.check_digest(build_image_path(document, image["id"]), image["checksum"], f"image {image['id']}")
    except KumoError as error:
        raise ChangedError(f"{error}, in this host's cache") from None


def plan_images(document: dict, observed: dict) -> list[Action]:
    """Fetch what is not there; tell a failure once, so that the next run tries anew."""
    actions = [
        Action(SECTION, name[1:-5], "discard", {"name": name}, before=f"half-fetched {name}\n", after="")
        for name in observed["_leftovers"]
    ]
    for image in document["images"]:
        seen = observed[image["id"]]
        if seen["state"] == "failed":
            args = {"error": seen["error"], "forget": seen["task_failed"]}
            actions.append(Action(SECTION, image["id"], "refuse", args))
        elif seen["state"] in ("missing", "changed"):
            verb = "fetch" if seen["state"] == "missing" else "fetch_again"
            before = "" if seen["error"] is None else f"{seen['error']}\n"
            after = f"image {image['id']} {image.get('disk_format')} {image.get('size') or 0} bytes\n"
            actions.append(Action(SECTION, image["id"], verb, {"image": image}, before=before, after=after))
    return actions + image_cache.plan_cache(observed["_cache"])


# When this call's waiting for fetches ends (time.monotonic); empty until the first fetch of a run.
_budget: list[float] = []


def apply_images(document: dict, action: Action) -> None:
    """Start a fetch and wait a little for its end; or raise the failure of an earlier one."""
    if action.verb in image_cache.VERBS:
        image_cache.apply_cache(document, action)
        return
    if action.verb == "discard":
        state_path(document, "images", action.args["name"]).unlink(missing_ok=True)
        return
    if action.verb == "refuse":
        if action.args["forget"]:
            tasks.apply_forget(document, KIND, action.object_id)
        raise KumoError(action.args["error"])
    if not _budget:
        _budget.append(time.monotonic() + WAIT_S)
    image = action.args["image"]
    image_fetch.check_image(image)
    directory = state_path(document, "images")
    directory.mkdir(mode=0o711, parents=True, exist_ok=True)
    _check_room(directory, image)
    tasks.apply_start(document, KIND, image["id"], lambda progress: image_fetch.apply_fetch(directory, image, progress))
    record = tasks.wait(document, KIND, image["id"], _budget[0])
    if record and record["state"] == "failed":
        tasks.apply_forget(document, KIND, image["id"])
        raise KumoError(record["error"])


def _check_room(directory: Path, image: dict) -> None:
    room = os.statvfs(directory)
    free = room.f_bavail * room.f_frsize
    if (image.get("size") or 0) > free:
        raise KumoError(f"image {image['id']} has {image['size']} bytes; this host has room for {free}")


def report_images(document: dict, observed: dict) -> dict:
    """``images``, ``image_cache`` and ``tasks`` as docs/foundation.md has them; pending while one is being fetched."""
    images = {
        image["id"]: {name: observed[image["id"]][name] for name in ("state", "bytes", "total", "error")}
        for image in document["images"]
        if observed[image["id"]]["state"] not in ("missing", "changed")
    }
    pending = any(image["state"] == "fetching" for image in images.values())
    return {
        "images": images,
        "image_cache": image_cache.build_report(observed["_cache"]),
        "tasks": tasks.build_report(observed["_tasks"]),
        "pending": pending,
    }
