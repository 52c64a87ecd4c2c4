"""A guest's root disk made anew from its image: wanted is a count, which state.json's ``rebuild_done`` follows.

The old disk is gone for good; the guest's id, ports and volumes stay. Nothing is touched before the image is here and
fits. ``plan_`` is pure. Next rooms: ``disks.py``, ``guests.py``.
"""

from __future__ import annotations

import os

from . import disks, guest_volumes, guests, libvirt_connection
from .libvirt_connection import call


def is_wanted(server: dict, kept: dict | None) -> bool:
    """Whether the disk is to be made anew; of a guest that was never made, nothing is."""
    return kept is not None and server["rebuild"]["wanted"] > kept["rebuild_done"]


def build_done(server: dict) -> dict:
    """What state.json has after a rebuild, beside the new disk's base: a guest that is off, and nothing asked of it."""
    return {**guests.build_off(server), "rebuild_done": server["rebuild"]["wanted"], "pressed_at": None}


def plan_rebuild(server: dict, seen: dict, kept: dict) -> tuple[list[tuple], dict, dict]:
    """(verbs, what is seen, what is kept) as after them. While the image is fetched the guest goes on as it is."""
    if not is_wanted(server, kept) or seen["fetching"]:
        return [], seen, kept
    local = guest_volumes.has_local_root(server)
    texts = [f"root disk of image {(kept['disk'] or {}).get('image')}\n", f"root disk of image {server['image']}\n"]
    if not local:
        texts = ["guest on its volume\n", "guest on its volume, defined and started anew\n"]
    after = {**seen, "defined": True, "disk": local, "state": "shutoff", "reason": "destroyed", "job": {}}
    after |= {"nics": None, "volumes": None, "disk_size": None}
    return [("rebuild", {}, *texts)], after, {**kept, **build_done(server)}


def apply_rebuild(document: dict, server: dict) -> None:
    """Make the new disk, cut the power, put the one in the other's place; power's plan starts the guest.

    A root disk that is a volume is what its storage host has made of it (``reimages.py``), or as it was.
    """
    if not guest_volumes.has_local_root(server):
        _apply_off(server)
        guests.store(document, server["id"], build_done(server))
        guests.apply_redefine(document, server)
        return
    directory = guests.build_directory(document, server["id"])
    part, base = disks.apply_part(document, server, directory)
    _apply_off(server)
    os.replace(part, directory / "disk")
    guests.store(document, server["id"], {**build_done(server), "disk": base})
    guests.apply_redefine(document, server)


def _apply_off(server: dict) -> None:
    domain = libvirt_connection.find_domain(server["id"])
    if domain is None:
        return
    guests.destroy(domain)
    sentence = f"the saved memory of server {server['id']} cannot be removed"
    if call(sentence, domain.hasManagedSaveImage):
        call(sentence, domain.managedSaveRemove)  # of a system that lay on the old disk
