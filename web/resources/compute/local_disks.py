"""A new server's disks beside its root disk that are no volumes: ephemeral disks and swap, within what its flavor has.

Source: Compute API reference, "Create Server", block_device_mapping_v2 (source_type blank, destination_type local); the
user guide, "Block Device Mapping". Without entries of a kind the server has what the flavor says. Next room:
`block_devices.py`, which reads the entries that are images and volumes.
"""

from __future__ import annotations

import math

from ...errors import BadRequest
from ...fields import FALSE
from .server_requests import invalid

FORMATS = ("ext4", "vfat")
TOO_LARGE = (
    "Block Device Mapping is Invalid: Ephemeral disks requested are larger than the instance type allows. If no size "
    "is given in one block device mapping, flavor ephemeral size will be used."
)
SWAP_TOO_LARGE = "Block Device Mapping is Invalid: Swap drive requested is larger than instance type allows."
MOST = 16


def read_blank(entry: dict, where: str) -> dict:
    """{swap, size, format, device_name, disk_bus, tag, where} of one entry; size None is the flavor's."""
    for name in ("uuid", "volume_type"):
        if entry.get(name) is not None:
            raise invalid(f"{where}/{name}", entry[name], "A blank local disk has none.")
    if str(entry.get("boot_index")) not in ("None", "-1", ""):
        raise invalid(f"{where}/boot_index", entry["boot_index"], "Nothing can be booted from a blank disk.")
    keeps = entry.get("delete_on_termination")
    if isinstance(keeps, bool | str) and keeps in FALSE:
        raise invalid(f"{where}/delete_on_termination", False, "A local disk is deleted with its server.")
    if entry.get("device_type") not in (None, "disk"):
        raise invalid(f"{where}/device_type", entry["device_type"], "Only disk is offered.")
    size = entry.get("volume_size")
    if size is not None and not (isinstance(size, int | str) and str(size).isdigit() and 0 < int(size) < 1 << 30):
        raise invalid(f"{where}/volume_size", size, "It must be a number from 1: GiB, and MiB of swap.")
    if not isinstance(entry.get("device_name"), str | None):
        raise invalid(f"{where}/device_name", entry["device_name"], "It must be a text.")
    name = entry.get("guest_format") or FORMATS[0]
    if name not in (*FORMATS, "swap"):
        raise invalid(f"{where}/guest_format", name, f"It must be one of {', '.join(FORMATS)} and swap.")
    return {
        "swap": name == "swap",
        "size": int(size) if size is not None else None,
        "format": name,
        "device_name": entry.get("device_name"),
        "disk_bus": entry.get("disk_bus"),
        "tag": entry.get("tag"),
        "where": where,
    }


def choose_local_disks(blanks: list[dict], flavor) -> dict:
    """{"ephemeral": [{gb, format}], "swap_mb", "gb": in all}, or nothing; BadRequest beyond what the flavor has."""
    swaps = [one for one in blanks if one["swap"]]
    ephemeral = [
        {"gb": one["size"] or flavor.ephemeral_gb, "format": one["format"]} for one in blanks if not one["swap"]
    ]
    if len(swaps) > 1:
        raise BadRequest("Block Device Mapping is Invalid: More than one swap drive requested.")
    if sum(one["gb"] for one in ephemeral) > flavor.ephemeral_gb or any(not one["gb"] for one in ephemeral):
        raise BadRequest(TOO_LARGE)
    if len(ephemeral) > MOST:
        raise BadRequest(f"Block Device Mapping is Invalid: at most {MOST} ephemeral disks are offered.")
    swap_mb = (swaps[0]["size"] or flavor.swap_mb) if swaps else flavor.swap_mb
    if swap_mb > flavor.swap_mb or (swaps and not swap_mb):
        raise BadRequest(SWAP_TOO_LARGE)
    if not ephemeral and flavor.ephemeral_gb:
        ephemeral = [{"gb": flavor.ephemeral_gb, "format": FORMATS[0]}]
    if not ephemeral and not swap_mb:
        return {}
    total = sum(one["gb"] for one in ephemeral) + math.ceil(swap_mb / 1024)
    return {"ephemeral": ephemeral, "swap_mb": swap_mb, "gb": total}


def choose_tags(blanks: list[dict], root_tag: str | None) -> dict:
    """{"tags": {"root", "ephemeral0" …, "swap": tag}} of a server's own disks; nothing where none has one."""
    ephemeral = [one for one in blanks if not one["swap"]]
    tags = {"root": root_tag, **{f"ephemeral{number}": one["tag"] for number, one in enumerate(ephemeral)}}
    tags["swap"] = next((one["tag"] for one in blanks if one["swap"]), None)
    tags = {name: tag for name, tag in tags.items() if tag}
    return {"tags": tags} if tags else {}


def check_places(blanks: list[dict], devices: dict[str, str], disk_bus: str) -> None:
    """BadRequest where an entry asks for a bus or a name that its disk will not have."""
    number = 0
    for one in blanks:
        device = devices["swap"] if one["swap"] else devices[f"ephemeral{number}"]
        number += not one["swap"]
        if one["disk_bus"] not in (None, disk_bus):
            text = f"Local disks are on the bus of the root disk, {disk_bus}."
            raise invalid(f"{one['where']}/disk_bus", one["disk_bus"], text)
        name = (one["device_name"] or device).removeprefix("/dev/")
        if name != device:
            raise invalid(f"{one['where']}/device_name", one["device_name"], f"Its place is /dev/{device}.")
