"""One row of the document's ``servers`` with its defaults, checked; pure.

A host does not trust the document to be well-formed: a bad row is that server's error and nobody else's.
"""

from __future__ import annotations

import ipaddress
import re

from . import extra_disks, guest_hardware, guest_volumes, posted_passwords
from .core import UUID
from .errors import KumoError

DEFAULTS = {
    "project_id": "",
    "power": "on",
    "reboot": {},
    "start": {},
    "rebuild": {},
    "stop": {},
    "vcpus": 1,
    "memory_mb": 128,
    "root_gb": 0,
    "image": None,
    "ports": [],
    "volumes": [],
    "console": None,
    "incoming": None,
    "outgoing": None,
    "held": False,
    "backup": None,
    "rescue": None,
    "iso": False,
    "ephemeral_gb": [],
    "ephemeral_formats": [],
    "swap_mb": 0,
    "config_drive": False,
    "hardware": {},
    "snapshot": None,
    "password": None,
}
POWERS = ("on", "off", "paused", "suspended")


def parse_server(row: dict) -> dict:
    """The fields of a server that shape its guest; KumoError names the field that is wrong.

    Metadata, user data and the name are left out: they never reach the guest's definition, nor any diff.
    """
    server = {name: default if row.get(name) is None else row[name] for name, default in DEFAULTS.items()}
    server["id"] = row["id"]
    server["reboot"] = {"wanted": 0, "type": "SOFT", **server["reboot"]}
    server["start"] = {"wanted": 0, **server["start"]}
    server["rebuild"] = {"wanted": 0, **server["rebuild"]}
    server["stop"] = {"graceful": True, **server["stop"]}
    server["posted_password"] = posted_passwords.parse_wanted(row)

    def check(right: bool, name: str, sentence: str):
        if not right:
            raise KumoError(f"server {row['id']}: {name} {sentence}")

    check(bool(re.fullmatch(r"[0-9A-Za-z_-]{0,64}", str(server["project_id"]))), "project_id", "is not a project's id")
    check(server["power"] in POWERS, "power", f"is {server['power']!r}; it must be {', '.join(POWERS)}")
    check(server["reboot"]["type"] in ("SOFT", "HARD"), "reboot.type", "must be SOFT or HARD")
    for name, lowest in (("vcpus", 1), ("memory_mb", 1), ("root_gb", 0)):
        check(_is_number(server[name], lowest), name, f"is {server[name]!r}; it must be a number from {lowest}")
    for name in ("reboot", "start", "rebuild"):
        check(_is_number(server[name]["wanted"], 0), f"{name}.wanted", "must be a number from 0")
    check(isinstance(server["stop"]["graceful"], bool), "stop.graceful", "must be true or false")
    check(isinstance(server["volumes"], list), "volumes", "must be a list")
    server["volumes"] = guest_volumes.parse_volumes(server["volumes"], row["id"])
    needs_image = guest_volumes.has_local_root(server)
    check(not needs_image or _is_uuid(server["image"]), "image", f"is {server['image']!r}; it must be an image's UUID")
    check(isinstance(server["ports"], list) and all(map(_is_uuid, server["ports"])), "ports", "must be a list of UUIDs")
    rescue = server["rescue"]
    if rescue is not None:
        check(isinstance(rescue, dict) and _is_uuid(rescue.get("image")), "rescue.image", "must be an image's UUID")
        check(needs_image, "rescue", "needs a root disk of its own; this server's is a volume")
    _parse_made_of(server, check)
    for name in ("incoming", "outgoing", "backup"):
        server[name] = _parse_move(name, server[name], check) if server[name] is not None else None
    if server["snapshot"] is not None:
        check(isinstance(server["snapshot"], dict), "snapshot", "must be a mapping")
        check(_is_uuid(server["snapshot"].get("image")), "snapshot.image", "must be a UUID")
        check(_is_number(server["snapshot"].get("attempt"), 1), "snapshot.attempt", "must be a number from 1")
    order = server["password"]
    if order is not None:
        check(isinstance(order, dict) and _is_number(order.get("wanted"), 1), "password.wanted", "must be a number")
        texts = all(isinstance(order.get(name), str) for name in ("user", "password"))
        check(texts and bool(order["user"]), "password", "needs a user and a password")
    return server


def _parse_made_of(server: dict, check) -> None:
    """Disks beside the root disk, and virtual hardware, checked in place."""
    for name in ("iso", "config_drive"):
        check(isinstance(server[name], bool), name, "must be true or false")
    check(_is_number(server["swap_mb"], 0), "swap_mb", "must be a number from 0")
    sizes = server["ephemeral_gb"]
    check(isinstance(sizes, list) and all(_is_number(size, 1) for size in sizes), "ephemeral_gb", "must be GiB from 1")
    formats = server["ephemeral_formats"] or [extra_disks.FORMATS[0]] * len(sizes)
    known = isinstance(formats, list) and all(name in extra_disks.FORMATS for name in formats)
    check(known and len(formats) == len(sizes), "ephemeral_formats", f"must be {' or '.join(extra_disks.FORMATS)} each")
    server["ephemeral_formats"] = formats
    server["hardware"] = guest_hardware.parse_hardware(server["hardware"], server["id"])


MOVES = {
    "incoming": {"migration": None, "kind": None, "offer": None},
    "outgoing": {"migration": None, "kind": None, "address": None, "abort": False, "force": False},
    "backup": {"id": None, "wanted": None},
}


def _parse_move(name: str, given, check) -> dict:
    """incoming, outgoing or backup with every field; what leads to another host is an address and nothing else."""
    check(isinstance(given, dict), name, "must be a mapping")
    move = {field: given.get(field, default) for field, default in MOVES[name].items()}
    id_field = "id" if name == "backup" else "migration"
    check(_is_uuid(move[id_field]), f"{name}.{id_field}", "must be a UUID")
    if name == "backup":
        check(move["wanted"] in ("kept", "dropped", "restored"), "backup.wanted", "must be kept, dropped or restored")
        return move
    check(move["kind"] in ("live", "cold"), f"{name}.kind", "must be live or cold")
    place = move if name == "outgoing" else move["offer"] or {}
    check(place.get("address") is None or _is_address(place["address"]), f"{name}: address", "is no address of a host")
    if name == "incoming" and move["offer"]:
        port, export = place.get("port"), place.get("name")
        check(port is None or (_is_number(port, 1024) and port < 65536), "incoming.offer.port", "is no port")
        check(export is None or _is_uuid(export), "incoming.offer.name", "must be a UUID")
    return move


def _is_address(text) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return not (address.is_multicast or address.is_unspecified)


def _is_number(value, lowest: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= lowest


def _is_uuid(value) -> bool:
    return isinstance(value, str) and bool(UUID.fullmatch(value))
