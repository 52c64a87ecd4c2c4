"""A guest's root disk: a qcow2 file over the host's read-only copy of its image; an empty one where that is an ISO.

Owns ``servers/<id>/disk``. Never opens a guest's disk to find out what it is: every qemu-img call names its
formats (security cases 5 and 6). Next room: ``images.py`` below it, ``guests.py`` above.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from . import image_formats, images
from .errors import KumoError

GIB = 1 << 30
QEMU_IMG_DEADLINE_S = 30


def choose_size(server: dict, virtual_size: int) -> int:
    """The disk's bytes: the flavor's root disk, or the image's own size where that is 0.

    KumoError where the image is larger than the flavor allows (security case 7).
    """
    allowed = server["root_gb"] * GIB
    if server.get("iso"):
        if not allowed:
            raise KumoError(f"server {server['id']} boots from an ISO, and its flavor has no disk to install onto")
        return allowed
    if allowed and virtual_size > allowed:
        raise KumoError(
            f"image {server['image']} is a disk of {virtual_size} bytes; "
            f"the flavor of server {server['id']} allows {server['root_gb']} GiB"
        )
    return max(allowed, virtual_size)


def apply_disk(document: dict, server: dict, directory: Path) -> dict:
    """Make the disk where there is none: {image, driver} of what lies below it. KumoError says why it cannot be."""
    cached = _read_image(document, server)
    path = directory / "disk"
    if path.exists():
        return _build_base(server, cached)
    part, base = apply_part(document, server, directory)
    os.replace(part, path)
    return base


def apply_part(document: dict, server: dict, directory: Path) -> tuple[Path, dict]:
    """A new disk beside the place it is for, and {image, driver} of what lies below; KumoError where it cannot be."""
    cached = _read_image(document, server)
    base, size = _build_base(server, cached), choose_size(server, cached["virtual_size"])
    part = directory / ".disk.part"
    part.unlink(missing_ok=True)
    image = images.build_image_path(document, server["image"])
    over = [] if server["iso"] else ["-F", base["driver"], "-b", str(image)]
    run_qemu_img("create", "-q", "-f", "qcow2", *over, str(part), str(size))
    os.chmod(part, 0o600)
    return part, base


def _build_base(server: dict, cached: dict) -> dict:
    return {"image": server["image"], "driver": image_formats.build_driver(cached["disk_format"])}


def _read_image(document: dict, server: dict) -> dict:
    cached = images.read_image(document, server["image"])
    if cached is None:
        raise KumoError(f"image {server['image']} is not on this host (yet)")
    return cached


def run_qemu_img(*arguments: str, seconds: float = QEMU_IMG_DEADLINE_S) -> str:
    """What qemu-img prints to these words; KumoError with what it said where it failed."""
    try:
        ended = subprocess.run(
            ["qemu-img", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
        )
    except FileNotFoundError:
        raise KumoError("qemu-img is not installed on this host; the role hypervisor installs it") from None
    except subprocess.TimeoutExpired:
        raise KumoError(f"qemu-img {arguments[0]} took longer than {seconds} s") from None
    if ended.returncode:
        raise KumoError(f"qemu-img {arguments[0]} failed: {ended.stderr.strip()[:500]}")
    return ended.stdout
