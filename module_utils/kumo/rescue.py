"""A guest rescued: it boots from a fresh disk over a rescue image, its own root disk comes second.

Owns ``servers/<id>/disk.rescue`` and ``rescue`` in state.json ({image, driver}: what the guest boots from now, null:
its own disk). ``plan_rescue`` is pure. Next rooms: ``power.py``, which follows; ``guests.py``, ``disks.py``.
"""

from __future__ import annotations

import os
from pathlib import Path

from . import disks, guest_hardware, guests, image_formats, images, libvirt_connection, power, suspension
from .errors import KumoError


def choose_wanted(row: dict) -> str | None:
    """The image that the document wants the guest to be rescued with."""
    return (row.get("rescue") or {}).get("image")


def choose_current(kept: dict | None) -> str | None:
    """The image that the guest is rescued with now."""
    return ((kept or {}).get("rescue") or {}).get("image")


def build_path(document: dict, server_id: str) -> Path:
    """Where the disk lies that a rescued guest boots from."""
    return guests.build_directory(document, server_id) / guest_hardware.RESCUE


def read_image_state(document: dict, row: dict, fetching: set) -> str | None:
    """cached | fetching | missing: the rescue image on this host; None where none is wanted."""
    image = choose_wanted(row)
    if image is None or not isinstance(image, str):
        return None
    if image in fetching:
        return "fetching"
    return "cached" if images.build_image_path(document, image).exists() else "missing"


def plan_rescue(document: dict, server: dict, seen: dict, kept: dict, now: float) -> list[tuple]:
    """The verbs of a guest that is to boot from another disk than it does: into a rescue, or out of it.

    A guest goes into it as it is stopped, gracefully, and not before the image is here. Out of it its power is cut.
    """
    image = choose_wanted(server)
    if power.is_saving(seen) or seen["rescue_image"] == "fetching":
        return []  # pending: the run that finds the image goes on
    texts = [power.build_text({"boots from": name or "its own disk"}) for name in (choose_current(kept), image)]
    verbs: list[tuple] = []
    if seen["rescue_image"] == "missing":
        verbs.append(("check_rescue_image", {}, "", ""))
    graceful = image is not None and server["stop"]["graceful"] and seen["state"] == "running"
    if graceful and kept["stopping_since"] is None:
        return [*verbs, ("rescue_soft", {}, *texts)]
    if graceful and not power.is_over(kept["stopping_since"], now, document["settings"]["stop_timeout_s"]):
        return power.plan_press(kept, now)
    verbs.append(("rescue" if image is not None else "unrescue", {}, *texts))
    off = {**seen, "state": "shutoff", "reason": "destroyed"}
    return verbs + power.plan_power(document, server, off, {**kept, "rebooting": None}, now)


def apply_check_image(document: dict, server: dict) -> None:
    """KumoError where the rescue image is not here yet: the guest is not stopped for that."""
    if images.read_image(document, choose_wanted(server)) is None:
        raise KumoError(f"rescue image {choose_wanted(server)} is not on this host (yet)")


def apply_soft(document: dict, server: dict) -> None:
    """Press the power button; go on where the guest is off soon, else in a later run."""
    guests.apply_stop(document, server)
    domain = libvirt_connection.find_domain(server["id"])
    seen = libvirt_connection.read_state(domain) if domain is not None else None
    if seen is None or seen[0] == "shutoff":
        apply_rescue(document, server)
        if server["power"] != "off":
            guests.apply_start(document, server)


def apply_rescue(document: dict, server: dict) -> None:
    """Cut the power, make the disk anew, and have the guest boot from it when it next starts."""
    image = choose_wanted(server)
    cached = images.read_image(document, image)
    if cached is None:
        raise KumoError(f"rescue image {image} is not on this host (yet)")
    size = disks.choose_size({**server, "image": image, "iso": False}, cached["virtual_size"])
    suspension.apply_off(server["id"])
    path = build_path(document, server["id"])
    part = path.with_name(f".{path.name}.part")
    driver = image_formats.build_driver(cached["disk_format"])
    base = str(images.build_image_path(document, image))
    part.unlink(missing_ok=True)
    disks.run_qemu_img("create", "-q", "-f", "qcow2", "-F", driver, "-b", base, str(part), str(size))
    os.chmod(part, 0o600)
    os.replace(part, path)
    guests.store(document, server["id"], {"rescue": {"image": image, "driver": driver}})
    guests.apply_redefine(document, server)


def apply_unrescue(document: dict, server: dict) -> None:
    """Cut the power, remove the disk, and have the guest boot from its own again."""
    suspension.apply_off(server["id"])
    build_path(document, server["id"]).unlink(missing_ok=True)
    guests.store(document, server["id"], {"rescue": None})
    guests.apply_redefine(document, server)


VERBS = {
    "check_rescue_image": apply_check_image,
    "rescue_soft": apply_soft,
    "rescue": apply_rescue,
    "unrescue": apply_unrescue,
}
