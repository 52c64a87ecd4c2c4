"""A guest's virtual hardware (the document's ``hardware``) checked and filled in, and its own disks named. Pure.

The disks of a guest, but for its volumes, are on the bus ``disk_bus`` in this order: root, ephemeral disks, swap.
Volumes are always virtio's. CD-ROMs (the image of a guest that boots from an ISO, the config drive) follow on
``cdrom_bus``. Next rooms: ``domain_disks.py`` and ``domain_xml.py``, which make elements of it.
"""

from __future__ import annotations

import string

from .errors import KumoError

CHOICES: dict[str, tuple] = {
    "disk_bus": ("virtio", "scsi", "sata", "ide"),
    "scsi_model": ("virtio-scsi", "lsilogic"),
    "cdrom_bus": ("ide", "sata", "scsi"),
    "vif_model": ("virtio", "e1000", "e1000e", "rtl8139"),
    "video_model": ("vga", "virtio", "cirrus", "bochs", "none"),
    "machine": ("pc", "q35"),
    "firmware": ("bios", "uefi"),
    "watchdog": ("disabled", "reset", "poweroff", "pause", "none"),
    "guest_agent": (False, True),
}
PREFIXES = {"virtio": "vd", "scsi": "sd", "sata": "sd", "ide": "hd"}
CONFIG_DRIVE = "disk.config"
SWAP = "disk.swap"
RESCUE = "disk.rescue"


def build_defaults(machine: str = "pc") -> dict:
    """Every field as it is where nobody says otherwise."""
    found = {name: values[0] for name, values in CHOICES.items()}
    return {**found, "machine": machine, "cdrom_bus": "sata" if machine == "q35" else "ide"}


def parse_hardware(given, server_id: str) -> dict:
    """``hardware`` with every field; KumoError names the one that is wrong."""
    if not isinstance(given, dict):
        raise KumoError(f"server {server_id}: hardware must be a mapping")
    for name, value in given.items():
        if name not in CHOICES:
            raise KumoError(f"server {server_id}: hardware.{str(name)[:40]} is not known to this host")
        if not any(value == one and type(value) is type(one) for one in CHOICES[name]):
            offered = ", ".join(map(str, CHOICES[name]))
            raise KumoError(f"server {server_id}: hardware.{name} is {value!r}; it must be one of {offered}")
    return {**build_defaults(given.get("machine", "pc")), **given}


def build_ephemeral_name(number: int) -> str:
    """The file of a guest's ephemeral disk."""
    return f"disk.eph{number}"


def build_local_disks(server: dict, local_root: bool) -> list[dict]:
    """[{file, target, bus}] of the guest's own disks, in order; the first name is the root disk's, wherever that is."""
    bus = server["hardware"]["disk_bus"]
    files = ["disk", *map(build_ephemeral_name, range(len(server["ephemeral_gb"])))]
    files += [SWAP] if server["swap_mb"] else []
    letters = string.ascii_lowercase
    if len(files) > len(letters):
        raise KumoError(f"server {server['id']}: a guest has at most {len(letters)} disks")
    rows = [{"file": file, "target": PREFIXES[bus] + letters[at], "bus": bus} for at, file in enumerate(files)]
    return rows if local_root else rows[1:]


def build_cdroms(server: dict, local_root: bool) -> list[dict]:
    """[{file, target, bus}] of its CD-ROMs: ``image`` for the ISO it boots from, and the config drive."""
    bus = server["hardware"]["cdrom_bus"]
    files = [*(["image"] if server["iso"] and local_root else []), *([CONFIG_DRIVE] if server["config_drive"] else [])]
    taken = {row["target"] for row in build_local_disks(server, local_root)}
    free = [PREFIXES[bus] + letter for letter in string.ascii_lowercase]
    free = [target for target in free if target not in taken]
    return [{"file": file, "target": target, "bus": bus} for file, target in zip(files, free, strict=False)]


def choose_root_target(server: dict) -> str:
    """The root disk's name in the guest's definition."""
    return build_local_disks(server, True)[0]["target"]


def choose_rescued_target(server: dict) -> str:
    """Where a rescued guest finds its root disk: the first name of its bus that nothing else has."""
    taken = {row["target"] for row in [*build_local_disks(server, True), *build_cdroms(server, True)]}
    taken |= {volume["device"] for volume in server.get("volumes") or []}
    prefix = PREFIXES[server["hardware"]["disk_bus"]]
    return next(prefix + letter for letter in string.ascii_lowercase if prefix + letter not in taken)
