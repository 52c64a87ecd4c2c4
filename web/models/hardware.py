"""What of image properties and flavor extra specs shapes a guest's virtual hardware: names, values, result. Pure.

Source: Image API "useful image properties" and Compute's "extra specs" references. A name beginning with ``hw_`` (of an
image) or ``hw:``, ``hw_rng:``, ``hw_video:`` (of a flavor) promises something of the guest: one that no host here
realises is refused when a server is made. Other names are free. A host checks the same again:
module_utils/kumo/guest_hardware.py.
"""

from __future__ import annotations

import string

# Of the document's `hardware`: the values it may have, the default first.
CHOICES: dict[str, tuple] = {
    "disk_bus": ("virtio", "scsi", "sata", "ide"),
    "scsi_model": ("virtio-scsi", "lsilogic"),
    "cdrom_bus": ("ide", "sata", "scsi"),  # with machine q35 the default is sata
    "vif_model": ("virtio", "e1000", "e1000e", "rtl8139"),
    "video_model": ("vga", "virtio", "cirrus", "bochs", "none"),
    "machine": ("pc", "q35"),
    "firmware": ("bios", "uefi"),
    "watchdog": ("disabled", "reset", "poweroff", "pause", "none"),
    "guest_agent": (False, True),
}
PROPERTIES = {
    "hw_disk_bus": "disk_bus",
    "hw_scsi_model": "scsi_model",
    "hw_cdrom_bus": "cdrom_bus",
    "hw_vif_model": "vif_model",
    "hw_video_model": "video_model",
    "hw_machine_type": "machine",
    "hw_firmware_type": "firmware",
    "hw_watchdog_action": "watchdog",
    "hw_qemu_guest_agent": "guest_agent",
}
# Where only one value is true of the guests here: there is no choice, and nothing to write down.
FIXED_PROPERTIES = {
    "hw_rng_model": ("virtio",),
    "img_config_drive": ("mandatory", "optional"),
    "os_secure_boot": ("optional", "disabled"),
}
SPECS = {"hw:watchdog_action": "watchdog"}
FIXED_SPECS = {"hw_rng:allowed": ("true",), "hw:cpu_policy": ("shared",)}
RESERVED_SPECS = ("hw:", "hw_rng:", "hw_video:")
TRUE = ("true", "yes", "1", "on", "t", "y")
FALSE = ("false", "no", "0", "off", "f", "n")
PREFIXES = {"virtio": "vd", "scsi": "sd", "sata": "sd", "ide": "hd"}
IDE_DISKS = 4


def _parse(field: str, text: object):
    """The value of a field that a text says; None where it is none of them."""
    word = str(text).strip().lower()
    if field == "guest_agent":
        return True if word in TRUE else False if word in FALSE else None
    return word if word in CHOICES[field] else None


def find_unsupported(properties: dict, specs: dict) -> tuple[str, str, str] | None:
    """(name, value, why) of the first property or extra spec that no guest can have; None where there is none."""
    for given, known, fixed, reserved in (
        (properties, PROPERTIES, FIXED_PROPERTIES, ("hw_",)),
        (specs, SPECS, FIXED_SPECS, RESERVED_SPECS),
    ):
        for name, value in sorted(given.items()):
            if name in known:
                if _parse(known[name], value) is None:
                    offered = ", ".join(str(one).lower() for one in CHOICES[known[name]])
                    return name, str(value), f"It must be one of {offered}."
            elif name in fixed:
                if str(value).strip().lower() not in fixed[name]:
                    return name, str(value), f"Only {' and '.join(fixed[name])} can be had here."
            elif name.startswith(reserved):
                return name, str(value), "No host here realises it."
    return None


def build_hardware(properties: dict, specs: dict) -> dict:
    """The document's ``hardware``: what differs from the defaults. An image's word counts more than a flavor's.

    What is not known is left out: it was refused when the server was made, or the server is older than the check.
    """
    found: dict = {}
    for given, known in ((specs, SPECS), (properties, PROPERTIES)):
        for name, field in known.items():
            value = _parse(field, given[name]) if name in given else None
            if value is not None:
                found[field] = value
    default = {field: values[0] for field, values in CHOICES.items()}
    if found.get("machine") == "q35":
        default["cdrom_bus"] = "sata"
    return {field: found[field] for field in CHOICES if field in found and found[field] != default[field]}


def find_conflict(hardware: dict, local_disks: int, cdroms: int, local_root: bool) -> tuple[str, str] | None:
    """(image property, why) where choices do not go together; None where they do."""
    disk_bus = hardware.get("disk_bus", "virtio")
    q35 = hardware.get("machine") == "q35"
    cdrom_bus = hardware.get("cdrom_bus", "sata" if q35 else "ide")
    if disk_bus != "virtio" and not local_root:
        return "hw_disk_bus", "Volumes are attached by virtio only, and the root disk is a volume."
    if q35 and disk_bus == "ide":
        return "hw_disk_bus", "A guest of machine type q35 has no IDE bus."
    if q35 and cdrom_bus == "ide":
        return "hw_cdrom_bus", "A guest of machine type q35 has no IDE bus."
    if not q35 and hardware.get("vif_model") == "e1000e":
        return "hw_vif_model", "The NIC e1000e needs hw_machine_type q35."
    on_ide = (local_disks if disk_bus == "ide" else 0) + (cdroms if cdrom_bus == "ide" else 0)
    if on_ide > IDE_DISKS:
        return "hw_disk_bus", f"There is room for {IDE_DISKS} disks and CD-ROMs on IDE; this server has {on_ide}."
    return None


def build_devices(hardware: dict, ephemerals: int, has_swap: bool) -> dict[str, str]:
    """{"root", "ephemeral0" …, "swap"}: the names of a guest's own disks, as its definition has them."""
    prefix = PREFIXES[hardware.get("disk_bus", "virtio")]
    names = ["root", *(f"ephemeral{number}" for number in range(ephemerals)), *(["swap"] if has_swap else [])]
    return {name: prefix + letter for name, letter in zip(names, string.ascii_lowercase, strict=False)}


def read_devices(server) -> dict[str, str]:
    """The same of a server's row."""
    hardware = build_hardware(server.image_properties or {}, server.flavor.get("extra_specs") or {})
    disks = server.disks or {}
    return build_devices(hardware, len(disks.get("ephemeral", ())), bool(disks.get("swap_mb")))


def boots_from_iso(server) -> bool:
    """Whether the guest of this row does; one that was unshelved has the disk that it installed onto."""
    return server.image_id is not None and server.disk_image_id is None and is_iso(server.image_properties or {})


def is_iso(properties: dict) -> bool:
    """Whether a guest of an image with these properties boots from it as from a CD."""
    return properties.get("disk_format") == "iso"
