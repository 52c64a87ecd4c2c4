"""A disk whose boot sector is the whole guest: a second after its start it has read and written its own disk.

It prints sector 100 to the serial port, writes SAYING there, prints that, and halts. In 16-bit code (BIOS interrupt
0x13, functions 0x42 and 0x43 with a disk address packet): for tests that need a guest's write and no system.
"""

from __future__ import annotations

import os
from pathlib import Path

CODE = bytes.fromhex(
    "31c08ed88ed0bc00708816547cb442e81b00be0080e82100be557c8936487cb443e80900be557ce80f00f4ebfd"  # read, say, write …
    "be447c8a16547c30c0cd13c3"  # disk: si = packet, dl = drive, int 0x13
    "baf803b91100aceee2fcc3"  # say: 17 bytes to port 0x3f8
    "10000100008000006400000000000000"  # packet: one sector, 0000:8000, LBA 100
    "00"  # drive
)
SAYING = "WRITTEN-BY-GUEST\n"
BEFORE = "MADE-BY-THE-TEST\n"
AT = 100 * 512


def make_disk(path: Path, ballast_mb: int = 0) -> Path:
    """A raw image of 8 MiB, and as many MiB more that cannot be left out of a copy."""
    with open(path, "wb") as stream:
        stream.write((CODE + SAYING.encode()).ljust(510, b"\0") + b"\x55\xaa")
        stream.seek(AT)
        stream.write(BEFORE.encode())
        stream.truncate(8 << 20)
        stream.seek(8 << 20)
        for _ in range(ballast_mb):
            stream.write(os.urandom(1 << 20))
    return path
