"""What a guest is made of beside its image, flavor and volumes, from its row. Pure; what is not there is left out."""

from __future__ import annotations

from ..models.hardware import boots_from_iso, build_hardware, read_devices


def build_made_of(server) -> dict:
    """The fields of the document's server (docs/compute.md, "What a server is made of")."""
    disks, properties = server.disks or {}, server.image_properties or {}
    ephemeral = disks.get("ephemeral", [])
    formats = [one["format"] for one in ephemeral]
    found = {
        "iso": boots_from_iso(server),
        "ephemeral_gb": [one["gb"] for one in ephemeral],
        "ephemeral_formats": formats if set(formats) - {"ext4"} else [],
        "swap_mb": disks.get("swap_mb", 0),
        "disk_tags": disks.get("tags", {}),
        "config_drive": bool(server.config_drive),
        "injected": _build_injected(server),
        "hardware": build_hardware(properties, server.flavor.get("extra_specs") or {}),
    }
    return {name: value for name, value in found.items() if value}


def _build_injected(server) -> dict:
    injected = server.injected or {}
    if not server.config_drive or not injected:
        return {}
    return {"files": injected.get("files", []), "admin_pass": injected.get("admin_pass")}


def build_block_devices(server) -> dict:
    """{"block_devices": EC2's mapping} of a guest's metadata, where it is not one disk at vda."""
    devices = read_devices(server)
    if devices == {"root": "vda"}:
        return {}
    named = {name: f"/dev/{device}" for name, device in devices.items()}
    return {"block_devices": {"ami": devices["root"], **named}}
