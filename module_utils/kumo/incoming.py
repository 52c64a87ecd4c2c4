"""The side that a guest comes to: room for it, passwords of its volumes, the copies of its disks. Starts nothing.

A disk that was copied is another host's bytes: its header must be that of a qcow2 file over this very host's copy of
the image (an ephemeral disk, and the root disk beside an ISO: over nothing) before any tool opens it (security cases 1
and 6). Decides nothing (``moves.py`` plans). Next rooms:
``outgoing.py``, the other side; ``guests.py``, once the guest is here.
"""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path

from . import (
    backups,
    disks,
    domain_xml,
    extra_disks,
    files,
    following,
    guest_volumes,
    guests,
    host_facts,
    image_formats,
    images,
    moves,
    outgoing,
    routers,
    tasks,
)
from .errors import KumoError

COPY_SECONDS = 24 * 3600
RECEIVE_WAIT_S = 2.0
PERCENT = re.compile(rb"\(([0-9.]+)/100%\)")


def apply_prepare(document: dict, server: dict) -> None:
    """Make sure that the guest can be here, and make room for it. What stands in the way is the move's failure."""
    directory = guests.build_directory(document, server["id"])
    for path in (directory.parent, directory):
        path.mkdir(mode=0o711, parents=True, exist_ok=True)
    attachments = [volume["attachment"] for volume in server["volumes"]]
    move = moves.build_move(server, "in", attachments=attachments)
    kept = {**guests.build_kept(server), "move": move}
    try:
        base = _read_base(document, server)
        _check_room(document, server, base)
        _check_bridges(document, server)
        if server["incoming"]["kind"] == "live":
            if base:
                disks.apply_disk(document, server, directory)
            extra_disks.apply_blank(server, directory)
            guest_volumes.apply_keep(server["volumes"], document["settings"]["state_dir"])
    except KumoError as error:
        # Told as the move's failure, not as this run's; what was made goes with the tombstone that follows.
        kept["move"] = {**move, "state": "failed", "error": str(error)}
        files.apply_json(directory / "state.json", kept)
        return
    if base:
        kept["disk"] = {name: base[name] for name in ("image", "driver")}
    files.apply_json(directory / "state.json", kept)
    if server["incoming"]["kind"] == "live":
        following.apply_watch(document, server, routers.apply_following)


def _read_base(document: dict, server: dict) -> dict | None:
    """{image, driver, size of the guest's disk} of what its disk lies over; None for one without a local disk."""
    if not guest_volumes.has_local_root(server):
        return None
    cached = images.read_image(document, server["image"])
    if cached is None:
        raise KumoError(f"image {server['image']} is not on this host (yet)")
    driver = image_formats.build_driver(cached["disk_format"])
    return {"image": server["image"], "driver": driver, "size": disks.choose_size(server, cached["virtual_size"])}


def _check_room(document: dict, server: dict, base: dict | None) -> None:
    free = host_facts.read_machine(document)["memory_free_mb"]
    if free < server["memory_mb"]:
        raise KumoError(f"this host has {free} MiB of memory free; the guest needs {server['memory_mb']} MiB")
    room = os.statvfs(guests.build_directory(document, server["id"]))
    free = room.f_bavail * room.f_frsize
    needed = (base["size"] if base else 0) + sum(one["size"] for one in extra_disks.build_wanted(server))
    if free < needed:
        raise KumoError(f"this host has {free} bytes free for disks; the guest's may grow to {needed}")


def _check_bridges(document: dict, server: dict) -> None:
    for nic in domain_xml.build_nics(document, server):
        flags = files.read_text(Path("/sys/class/net", nic["bridge"], "flags")).strip()
        if not flags or not int(flags, 16) & 1:  # IFF_UP
            raise KumoError(f"the bridge of network {nic['network']} ({nic['bridge']}) is not up on this host")


def apply_keep_secrets(document: dict, server: dict) -> None:
    """libvirt knows the volumes' passwords until the guest runs here; a libvirtd that restarts forgets them."""
    guest_volumes.apply_keep(server["volumes"], document["settings"]["state_dir"])


def apply_drop_secrets(document: dict, server: dict) -> None:
    """The guest runs and has its passwords; nobody else needs them."""
    drop_secrets_of(document, server["id"])


def apply_settle(document: dict, server: dict) -> None:
    """The guest is at home here: nothing of its move is kept."""
    drop_secrets_of(document, server["id"])
    guests.store(document, server["id"], {"move": None})


def drop_secrets_of(document: dict, server_id: str) -> None:
    """The passwords that were kept in libvirt for a guest on its way."""
    move = (guests.read_kept(document, server_id) or {}).get("move") or {}
    if move.get("attachments"):
        guest_volumes.apply_drop(move["attachments"])
        guests.store(document, server_id, {"move": {**move, "attachments": []}})


def apply_receive(document: dict, server: dict) -> None:
    """Copy its disks from the other host, a task; what is on volumes is there already."""
    if not moves.build_copied(server):
        _finish(document, server)
        return
    tasks.apply_forget(document, moves.RECEIVE, server["id"])
    tasks.apply_start(document, moves.RECEIVE, server["id"], lambda progress: _copy(document, server, progress))
    tasks.wait(document, moves.RECEIVE, server["id"], time.monotonic() + RECEIVE_WAIT_S)


def build_source(offer: dict, file: str = "disk") -> list[str]:
    """qemu-img's words that name an offered disk, as the bytes it is of: nobody looks for a format in them."""
    if not offer.get("address") or not offer.get("port") or not offer.get("name"):
        raise KumoError("the other host offers no disk")
    source = {"driver": "raw", "file.driver": "nbd", "file.host": offer["address"], "file.port": str(offer["port"])}
    source |= {"file.export": outgoing.build_name(offer["name"], file), "file.tls-creds": "tls"}
    options = ",".join(f"{name}={value.replace(',', ',,')}" for name, value in source.items())
    return ["--object", outgoing.build_credentials("client"), "--image-opts", options]


def _read_offered_size(offer: dict, file: str) -> int:
    """How many bytes the other host offers of a disk."""
    return json.loads(disks.run_qemu_img("info", "--output=json", *build_source(offer, file)))["virtual-size"]


def _copy(document: dict, server: dict, progress) -> None:
    """The whole of a task: copy, look at what came, keep it. What was kept before this was cut short is copied anew."""
    directory, offer = guests.build_directory(document, server["id"]), server["incoming"]["offer"]
    names = [row["file"] for row in moves.build_copied(server)]
    sizes = {name: _read_offered_size(offer, name) for name in names}
    total, done, room = sum(sizes.values()), 0, os.statvfs(directory)
    if room.f_bavail * room.f_frsize < total:
        raise KumoError(f"this host has {room.f_bavail * room.f_frsize} bytes free; what comes has {total}")
    for name in names:
        part = directory / f".{name}.part"
        part.unlink(missing_ok=True)
        try:
            with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb"):
                pass
            command = ["qemu-img", "convert", "-p", "-O", "raw", *build_source(offer, name), str(part)]
            _run_copy(command, sizes[name], lambda copied, _, before=done: progress(before + copied, total))
            check_disk(document, server, name, part)
            disks.run_qemu_img("check", "-q", "-f", "qcow2", str(part), seconds=COPY_SECONDS)
            with open(part, "rb") as stream:
                os.fsync(stream.fileno())
            os.replace(part, directory / name)
        finally:
            part.unlink(missing_ok=True)
        done += sizes[name]
    _finish(document, server)


def check_disk(document: dict, server: dict, name: str, part: Path) -> None:
    """KumoError unless what came is what such a disk of the server is."""
    if name == "disk" and not server["iso"]:
        kept = guests.read_kept(document, server["id"])
        check_overlay(part, str(images.build_image_path(document, kept["disk"]["image"])), kept["disk"]["driver"])
        return
    found = check_overlay(part, None, None)
    for one in extra_disks.build_wanted(server):
        if one["file"] == name and found["virtual_size"] != one["size"]:
            raise KumoError(f"the {name} that came is one of {found['virtual_size']} bytes; it has {one['size']}")


def _run_copy(command: list[str], size: int, progress) -> None:
    """Run the copy; qemu-img tells its progress in percent."""
    with tasks.running_child(command) as child:
        said = b""
        while chunk := os.read(child.stdout.fileno(), 4096):
            said = (said + chunk)[-64:]
            found = PERCENT.findall(said)
            if found:
                progress(int(float(found[-1]) * size / 100), size)
        errors = child.communicate(timeout=30)[1][-500:].decode(errors="replace").strip()
    if child.returncode:
        raise KumoError(f"the disk could not be copied: {errors or f'qemu-img ended with {child.returncode}'}")


def check_overlay(path: Path, base: str | None, driver: str | None) -> dict:
    """What its header says; KumoError unless it is a qcow2 file that lies over ``base`` and refers to nothing else."""
    with open(path, "rb") as stream:
        found = image_formats.parse_overlay(stream.read(image_formats.HEAD_BYTES))
    if found["backing"] != base or found["backing_format"] != driver:
        raise KumoError(
            f"the disk that came lies over {found['backing']!r} ({found['backing_format']}); here its image is {base}"
        )
    return found


def _finish(document: dict, server: dict) -> None:
    """The disk is whole: as large as the flavor has it, and kept so in state.json; swap is empty and new."""
    if guest_volumes.has_local_root(server):
        backups.apply_grow(document, server)
    extra_disks.apply_swap(server, guests.build_directory(document, server["id"]))
    move = guests.read_kept(document, server["id"])["move"]
    guests.store(document, server["id"], {"move": {**move, "state": "received"}})
