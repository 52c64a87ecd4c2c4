"""A volume's content made anew from an image: wanted is a count, which ``reimaged/<volume id>.json``'s done follows.

The new content is made beside the old one, as a task, and takes its place only when it is whole; the count is written
after that. Whatever cuts it short, it begins again. Nobody may use the volume meanwhile: the document says so
(``idle``), and ``volumes.py`` closes what target it still has. ``plan_`` is pure. Next room: ``volumes.py``.
"""

from __future__ import annotations

from pathlib import Path

from . import disk_copies, files, image_formats, images, tasks
from .core import UUID, state_path
from .errors import KumoError

KIND = "reimage"
GIB = 1 << 30


def _record(document: dict, volume_id: str) -> Path:
    return state_path(document, "reimaged", f"{volume_id}.json")


def read_reimage(document: dict, volume_id: str, task: dict | None) -> dict:
    """{done, task}: how often its content was made anew, and the record of a task that does so (read before)."""
    return {"done": int(files.read_json(_record(document, volume_id), {}).get("done", 0)), "task": task}


def is_wanted(row: dict, seen: dict) -> bool:
    """Whether the volume's content is to be made anew; KumoError where the document does not say it well."""
    order = row.get("reimage")
    if order is None:
        return False
    kinds = {"wanted": int, "idle": bool}
    if not isinstance(order, dict) or not all(isinstance(order.get(name), kind) for name, kind in kinds.items()):
        raise KumoError(f"volume {row['id']}: reimage must have wanted, image and idle")
    if not isinstance(order.get("image"), str) or not UUID.fullmatch(order["image"]):
        raise KumoError(f"volume {row['id']}: reimage.image is {order.get('image')!r}; it must be an image's UUID")
    return order["wanted"] > seen["reimage"]["done"]


def is_running(seen: dict) -> bool:
    """Whether a task makes the volume's content anew now."""
    return (seen["reimage"]["task"] or {}).get("state") == "running"


def build_state(row: dict, seen: dict) -> dict:
    """What is told of a volume while nobody may use it, over what was seen of it."""
    try:
        if not is_wanted(row, seen) or not row["reimage"]["idle"]:
            return {}
    except KumoError:
        return {}  # the plan has told it
    task = seen["reimage"]["task"] or {}
    return {"state": "creating", "progress": task.get("progress"), "error": task.get("error")}


def plan_reimage(row: dict, seen: dict, size_gb: int, first: list[str]) -> list[tuple]:
    """(verb, args, before, after, requires) of a volume of which that is wanted.

    ``first``: ids of what is still to be made of the volume as it is. KumoError where the document contradicts itself.
    """
    order, task = row["reimage"], seen["reimage"]["task"]
    if is_running(seen):
        return []
    needs = (("images", order["image"]),)
    args = {"image": order["image"], "size_gb": size_gb}
    if not order["idle"]:
        return [("check_image", args, "", "", needs)]
    if row.get("exports"):
        raise KumoError(f"volume {row['id']}: it is to be made anew, and offered to somebody at once")
    if task:
        return [("refuse", {"error": task["error"], "forget": KIND}, "", "", ())]
    texts = (f"volume {seen['size_gb'] or '?'} GiB\n", f"volume {size_gb} GiB, anew from image {order['image']}\n")
    needs += tuple(("volumes", object_id) for object_id in first)
    return [("reimage", {**args, "wanted": order["wanted"], "first": first}, *texts, needs)]


def apply_check(document: dict, volume_id: str, args: dict) -> dict | None:
    """The cached image, which fits the volume; None while it is on its way. KumoError where it cannot be."""
    cached = images.read_image(document, args["image"])
    if cached is not None and cached["virtual_size"] > args["size_gb"] * GIB:
        raise KumoError(
            f"volume {volume_id}: image {args['image']} is a disk of {cached['virtual_size']} bytes, "
            f"the volume has {args['size_gb']} GiB"
        )
    return cached


def apply_start(document: dict, storage: dict, backend, volume_id: str, args: dict) -> None:
    """Begin to make the volume's content anew, as a task; nothing while the image is on its way."""
    cached = apply_check(document, volume_id, args)
    if cached is None:
        return
    source, driver = images.build_image_path(document, args["image"]), image_formats.build_driver(cached["disk_format"])
    record, size = _record(document, volume_id), args["size_gb"] * GIB
    record.parent.mkdir(mode=0o711, parents=True, exist_ok=True)

    def make(progress) -> None:
        target = backend.apply_begin(storage, volume_id, size)
        disk_copies.apply_copy(source, driver, target, size, progress)
        backend.apply_replace(storage, volume_id)
        files.apply_json(record, {"done": args["wanted"]})

    tasks.apply_start(document, KIND, volume_id, make)


def apply_forget(document: dict, volume_id: str) -> None:
    """The volume goes: so does what is under way for it, and what is known of it."""
    tasks.apply_end(document, KIND, volume_id)
    _record(document, volume_id).unlink(missing_ok=True)
