"""Kumo's guest image, built once for all tests of this folder: in .cache/guest-image, where those of others find it."""

from __future__ import annotations

import sys

from libvirt_lab import GUEST_IMAGE, ROOT
from plain_guest import run

BUILDER = ROOT / "roles/guest_image/files/build_guest_image.py"
WORK = ROOT / ".cache/guest-image-work"


def build(*options: object) -> str:
    """Run the builder; its last line."""
    return run(sys.executable, BUILDER, *options, timeout=300).stdout.splitlines()[-1]


def build_guest_image() -> None:
    """GUEST_IMAGE as the role's files want it now; nothing is done where it is."""
    # The unpacked mtools in WORK make config drives for tests.
    whole = (WORK / "unpacked/usr/bin/mcopy").exists()
    build("--output", GUEST_IMAGE.parent, "--work", WORK, *([] if whole else ["--force"]))
