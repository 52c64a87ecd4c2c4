"""The elements of a guest's own disks and CD-ROMs, and of the controllers they need. Pure.

Every file's format is said, and every chain to its end: libvirt never looks into a file for one (security case 5).
Next rooms: ``domain_xml.py``, which has the rest; ``extra_disks.py`` and ``config_drive.py``, which make the files.
"""

from __future__ import annotations

from pathlib import Path
from xml.etree.ElementTree import Element, SubElement

from . import guest_hardware

# Places into which NICs and volumes are plugged later: a q35 guest has no more than its definition names.
ROOT_PORTS = 16


def build_disks(server: dict, directory: Path, base: dict | None, rescue: dict | None = None) -> list[Element]:
    """Root, ephemeral disks and swap; ``base`` and ``rescue`` as domain_xml.build_domain has them."""
    found = []
    for row in guest_hardware.build_local_disks(server, base is not None):
        below = base if row["file"] == "disk" and not server["iso"] else None
        if row["file"] == "disk" and rescue is not None:
            found.append(_build_disk(directory / guest_hardware.RESCUE, row, rescue))
            row = {**row, "target": guest_hardware.choose_rescued_target(server)}
        found.append(_build_disk(directory / row["file"], row, below))
    return found


def build_cdroms(server: dict, directory: Path, base: dict | None) -> list[Element]:
    """The ISO that the guest boots from (the shared image itself, read-only), and its config drive."""
    found = []
    for row in guest_hardware.build_cdroms(server, base is not None):
        shared = row["file"] == "image"
        disk = Element("disk", type="file", device="cdrom")
        SubElement(disk, "driver", name="qemu", type="raw")
        source = SubElement(disk, "source", file=base["path"] if shared else str(directory / row["file"]))
        if shared:
            SubElement(source, "seclabel", model="dac", relabel="no")  # it keeps its owner
        SubElement(disk, "target", dev=row["target"], bus=row["bus"])
        SubElement(disk, "readonly")
        found.append(disk)
    return found


def build_controllers(server: dict, cdroms: bool) -> list[Element]:
    """What libvirt would choose otherwise, or not at all."""
    hardware, found = server["hardware"], []
    if hardware["machine"] == "q35":
        found.append(Element("controller", type="pci", index="0", model="pcie-root"))
        found += [Element("controller", type="pci", model="pcie-root-port") for _ in range(ROOT_PORTS)]
    if hardware["disk_bus"] == "scsi" or (cdroms and hardware["cdrom_bus"] == "scsi"):
        found.append(Element("controller", type="scsi", index="0", model=hardware["scsi_model"]))
    return found


def _build_disk(path: Path, row: dict, base: dict | None) -> Element:
    disk = Element("disk", type="file", device="disk")
    SubElement(disk, "driver", name="qemu", type="qcow2", discard="unmap")
    SubElement(disk, "source", file=str(path))
    if base is None:
        SubElement(disk, "backingStore")
    else:
        below = SubElement(disk, "backingStore", type="file")
        SubElement(below, "format", type=base["driver"])
        source = SubElement(below, "source", file=base["path"])
        SubElement(source, "seclabel", model="dac", relabel="no")  # the shared image keeps its owner
        SubElement(below, "backingStore")
    SubElement(disk, "target", dev=row["target"], bus=row["bus"])
    return disk
