"""What a new server's guest is made of beside image and volumes: virtual hardware, local disks, config drive.

The image's properties are copied into the server's row, so that later changes of the image change no guest. What
cannot be realised is refused with the property's name. Source: Compute API reference, "Create Server"; Image API,
"useful image properties". Next rooms: `web/models/hardware.py`, which has the tables; `local_disks.py`.
"""

from __future__ import annotations

import base64
import binascii
import secrets
import string

from ...errors import BadRequest, OverQuota
from ...fields import TRUE
from ...http import Context
from ...models import Volume, read_limit
from ...models.hardware import (
    build_devices,
    build_hardware,
    find_conflict,
    find_unsupported,
    is_iso,
)
from .local_disks import check_places, choose_local_disks, choose_tags
from .server_requests import invalid
from .volume_images import MAPPING, MARK

PASSWORD_LETTERS = "".join(sorted(set(string.ascii_letters + string.digits) - set("0O1lI")))
PASSWORD_LENGTH = 12


def read_properties(ctx: Context, devices) -> dict:
    """The properties of what the server boots: its image's, or those that its root volume has from one."""
    if devices.image is not None:
        return {**(devices.image.properties or {}), "disk_format": devices.image.disk_format}
    root = next((one for one in devices.volumes if one.root), None)
    if root is None:
        return {}
    if root.image is not None:
        return dict(root.image.properties or {})
    volume = root.volume or ctx.session.get(Volume, root.snapshot.volume_id)
    kept = dict(volume.image_metadata or {}) if volume is not None else {}
    kept.pop("disk_format", None)  # of the image that it was once copied from
    own = devices.mapped.properties if devices.mapped is not None else {}
    return {**kept, **{name: value for name, value in own.items() if name not in (MAPPING, MARK)}}


def check_hardware(properties: dict, specs: dict) -> None:
    """BadRequest for the first image property or extra spec that promises what no guest here has."""
    found = find_unsupported(properties, specs)
    if found is not None:
        raise invalid(*found)


def read_made_of(ctx: Context, body: dict, flavor, devices) -> dict:
    """Columns of the new servers: image_properties, disks, config_drive, injected."""
    properties = read_properties(ctx, devices)
    check_hardware(properties, flavor.extra_specs)
    disks = {**choose_local_disks(devices.blanks, flavor), **choose_tags(devices.blanks, devices.root_tag)}
    given = body.get("config_drive")
    drive = given in TRUE or str(properties.get("img_config_drive")).strip().lower() == "mandatory"
    hardware = build_hardware(properties, flavor.extra_specs)
    local_root = devices.image is not None
    _check_disks(properties, hardware, disks, drive, local_root, flavor.disk_gb)
    names = build_devices(hardware, len(disks.get("ephemeral", ())), bool(disks.get("swap_mb")))
    check_places(devices.blanks, names, hardware.get("disk_bus", "virtio"))
    injected = _read_injected(ctx, body, drive)
    return {"image_properties": properties, "disks": disks, "config_drive": drive, "injected": injected}


def read_remade_of(ctx: Context, body: dict, server, image, local_root: bool = True) -> dict:
    """Columns of a server that is rebuilt from ``image``: its flavor, its other disks and its config drive stay."""
    properties = {**(image.properties or {}), **({"disk_format": image.disk_format} if local_root else {})}
    specs, drive = server.flavor["extra_specs"], server.config_drive
    check_hardware(properties, specs)
    hardware = build_hardware(properties, specs)
    _check_disks(properties, hardware, server.disks, drive, local_root, server.flavor["disk_gb"])
    injected = dict(server.injected)
    given = _read_injected(ctx, body, drive)
    for name, field in (("files", "personality"), ("admin_pass", "adminPass")):
        if body.get(field) and drive:
            injected[name] = given[name]
    return {"image_properties": properties, "injected": injected}


def _check_disks(properties: dict, hardware: dict, disks: dict, drive: bool, local_root: bool, disk_gb: int) -> None:
    """BadRequest where the hardware has no place for all of a server's disks and CD-ROMs."""
    iso = local_root and is_iso(properties)
    if iso and not disk_gb:
        raise BadRequest("Invalid imageRef: an ISO image needs a flavor with a root disk to install onto.")
    count = len(disks.get("ephemeral", ())) + bool(disks.get("swap_mb"))
    conflict = find_conflict(hardware, count + local_root, iso + drive, local_root)
    if conflict is not None:
        raise invalid(conflict[0], properties.get(conflict[0]), conflict[1])


def _read_injected(ctx: Context, body: dict, drive: bool) -> dict:
    if drive:
        return {"files": _read_files(ctx, body), "admin_pass": choose_password(body)}
    if body.get("personality"):
        reason = "Files reach guests by a config drive only; ask for one, or use user_data."
        raise invalid("personality", "(not shown)", reason)
    return {}


def choose_password(body: dict) -> str:
    """The ``adminPass`` of a request, or one that is made up; it reaches a guest by its config drive alone."""
    return body.get("adminPass") or _make_password()


def _make_password() -> str:
    return "".join(secrets.choice(PASSWORD_LETTERS) for _ in range(PASSWORD_LENGTH))


def _read_files(ctx: Context, body: dict) -> list[dict]:
    """The files to be put on the drive, within the project's quotas (403 elsewise, as the reference has it)."""
    given = body.get("personality") or []
    for index, entry in enumerate(given):
        where = f"personality/{index}"
        if set(entry) != {"path", "contents"} or not all(isinstance(text, str) for text in entry.values()):
            raise invalid(where, sorted(entry), "It must have a path and contents, both texts.")
        if not entry["path"] or not entry["path"].isprintable():
            raise invalid(f"{where}/path", entry["path"], "It must be a path without control characters.")
    limits = {
        name: read_limit(ctx.session, ctx.project_id, f"injected_{name}")
        for name in ("files", "file_path_bytes", "file_content_bytes")
    }
    if limits["files"] != -1 and len(given) > limits["files"]:
        raise OverQuota("Personality file limit exceeded")
    for entry in given:
        if limits["file_path_bytes"] != -1 and len(entry["path"].encode()) > limits["file_path_bytes"]:
            raise OverQuota(f"Personality file path exceeds maximum {limits['file_path_bytes']}")
        try:
            content = base64.b64decode("".join(entry["contents"].split()), validate=True)
        except (binascii.Error, ValueError):
            raise BadRequest(f"Personality content for {entry['path'][:255]} cannot be decoded") from None
        if limits["file_content_bytes"] != -1 and len(content) > limits["file_content_bytes"]:
            raise OverQuota(f"Personality file content exceeds maximum {limits['file_content_bytes']}")
    return [{"path": entry["path"], "contents": entry["contents"]} for entry in given]
