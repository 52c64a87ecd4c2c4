"""What a disk image's first bytes say: the format it really has, and what a host refuses to open.

Pure but for reading the given file; nothing is written and no tool is started. The API inspects uploads
with oslo.utils; a host has no PyPI packages and checks again, whatever came over the wire or lies in its
cache (security cases 1, 2, 4 and 7). Sources: qemu/docs/interop/qcow2.rst, the magic numbers of the formats' headers.
"""

from __future__ import annotations

import struct
from pathlib import Path

from .errors import KumoError

FORMATS = ("qcow2", "raw", "iso")  # what a host keeps in its cache; an iso is handed to a guest as raw
HEAD_BYTES = 4096

_HEADS = (
    (0, b"QFI\xfb", "qcow2"),
    (0, b"QED\0", "qed"),
    (0, b"KDMV", "vmdk"),
    (0, b"COWD", "vmdk"),
    (0, b"# Disk DescriptorFile", "vmdk"),
    (0, b"vhdxfile", "vhdx"),
    (0, b"conectix", "vpc"),
    (0x40, b"\x7f\x10\xda\xbe", "vdi"),
    (0, b"LUKS\xba\xbe", "luks"),
    (0, b"WithoutFreeSpace", "parallels"),
    (0, b"WithouFreSpacExt", "parallels"),
    (0, b"Bochs Virtual HD Image", "bochs"),
    (0, b"OOOM", "cow"),
)
_TAILS = ((b"conectix", "vpc"), (b"koly", "dmg"))  # in the last 512 bytes

_QCOW2_BACKING_EXTENSION = 0xE2792ACA
_QCOW2_DATA_FILE_EXTENSION = 0x44415441
_QCOW2_INCOMPATIBLE_DATA_FILE = 1 << 2
_QCOW2_INCOMPATIBLE_KNOWN = 0b11111  # dirty, corrupt, data file, compression type, extended L2


def build_driver(disk_format: str) -> str:
    """QEMU's name of the format a cached image is opened with, always said, never probed."""
    return "qcow2" if disk_format == "qcow2" else "raw"


def parse_format(head: bytes, tail: bytes = b"") -> str:
    """The format that the bytes show; ``raw`` where they show none that QEMU would open as another."""
    for offset, magic, name in _HEADS:
        if head[offset : offset + len(magic)] == magic:
            return name
    for magic, name in _TAILS:
        if tail[-512:].startswith(magic):
            return name
    return "raw"


def parse_qcow2(head: bytes) -> int:
    """The virtual size in bytes of a qcow2 image; KumoError where it refers to any other file or is encrypted."""
    if len(head) < 72 or head[:4] != b"QFI\xfb":
        raise KumoError("it is not a qcow2 image")
    version, backing_offset, backing_size = struct.unpack(">IQI", head[4:20])
    virtual_size, encryption = struct.unpack(">QI", head[24:36])
    if version not in (2, 3):
        raise KumoError(f"its qcow2 version is {version}; 2 and 3 are known")
    if backing_offset or backing_size:
        raise KumoError("it names a backing file, which is refused")
    if encryption:
        raise KumoError("it is encrypted, which is refused")
    header_length = 72
    if version == 3:
        (incompatible,) = struct.unpack(">Q", head[72:80])
        if incompatible & _QCOW2_INCOMPATIBLE_DATA_FILE:
            raise KumoError("it names an external data file, which is refused")
        if incompatible & ~_QCOW2_INCOMPATIBLE_KNOWN:
            raise KumoError("it uses qcow2 features this host does not know")
        (header_length,) = struct.unpack(">I", head[100:104])
    _check_qcow2_extensions(head, header_length)
    return virtual_size


def parse_overlay(head: bytes) -> dict:
    """{virtual_size, backing, backing_format} of a guest's disk; KumoError where it refers to more than one file below.

    ``head`` are its first HEAD_BYTES (QEMU writes the name of what lies below within them).
    """
    if len(head) < 104 or head[:4] != b"QFI\xfb":
        raise KumoError("it is not a qcow2 image")
    version, offset, size = struct.unpack(">IQI", head[4:20])
    virtual_size, encryption = struct.unpack(">QI", head[24:36])
    (incompatible,), (header_length,) = struct.unpack(">Q", head[72:80]), struct.unpack(">I", head[100:104])
    if version != 3 or encryption or incompatible & ~_QCOW2_INCOMPATIBLE_KNOWN:
        raise KumoError("it is of a kind of qcow2 that no disk here is of")
    if incompatible & _QCOW2_INCOMPATIBLE_DATA_FILE:
        raise KumoError("it names an external data file, which is refused")
    if offset and (size > 1023 or offset + size > len(head)):
        raise KumoError("what lies below it has a name that cannot be read")
    found = {"virtual_size": virtual_size, "backing": None, "backing_format": None}
    if offset:
        found["backing"] = head[offset : offset + size].decode(errors="replace")
    at = header_length
    while at + 8 <= len(head):
        kind, length = struct.unpack(">II", head[at : at + 8])
        if kind == 0:
            break
        if kind == _QCOW2_DATA_FILE_EXTENSION:
            raise KumoError("it names an external data file, which is refused")
        if kind == _QCOW2_BACKING_EXTENSION:
            found["backing_format"] = head[at + 8 : at + 8 + length].decode(errors="replace")
        at += 8 + (length + 7) // 8 * 8
    return found


def _check_qcow2_extensions(head: bytes, offset: int) -> None:
    while offset + 8 <= len(head):
        kind, length = struct.unpack(">II", head[offset : offset + 8])
        if kind == 0:
            return
        if kind == _QCOW2_DATA_FILE_EXTENSION:
            raise KumoError("it names an external data file, which is refused")
        if kind == _QCOW2_BACKING_EXTENSION:
            raise KumoError("it names a backing file, which is refused")
        offset += 8 + (length + 7) // 8 * 8


def read_virtual_size(path: Path, disk_format: str) -> int:
    """The bytes a guest would see of the image in ``path``, after the check that it is what it is said to be.

    Raises KumoError with the reason of the refusal; the text does not name the image.
    """
    if disk_format not in FORMATS:
        raise KumoError(f"its format is {disk_format!r}; a host takes {', '.join(FORMATS)}")
    size = Path(path).stat().st_size
    with open(path, "rb") as stream:
        head = stream.read(HEAD_BYTES)
        stream.seek(max(0, size - 512))
        tail = stream.read(512)
    found = parse_format(head, tail)
    if found != build_driver(disk_format):
        raise KumoError(f"it is said to be {disk_format} but its content is {found}")
    return parse_qcow2(head) if found == "qcow2" else size
