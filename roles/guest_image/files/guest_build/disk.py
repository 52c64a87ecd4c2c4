"""From files to a bootable disk: initramfs, boot partition, root file system, partition table, qcow2.

Owns: the disk's layout and everything that writes images. May not: mount, use loop devices or need to
be root, so that it works in containers. Next room: ../build_guest_image.py, which calls it in order.
"""

from __future__ import annotations

import os
import stat
import struct
from pathlib import Path

from .packages import run
from .root_tree import choose_owner

SECTOR = 512
MIB = 1 << 20
BOOT_START, BOOT_SIZE = 1 * MIB, 23 * MIB
ROOT_START, ROOT_SIZE = 24 * MIB, 96 * MIB
DISK_SIZE = ROOT_START + ROOT_SIZE
ROOT_LABEL = "kumo-root"
ROOT_UUID = "4b756d6f-0000-4000-8000-677565737401"
DISK_SIGNATURE = 0x4B554D4F

KERNEL_ARGUMENTS = "console=tty1 console=ttyS0,115200 panic=5 cryptomgr.notests lsm=capability audit=0"
BOOT_MENU = f"""DEFAULT kumo
PROMPT 0
LABEL kumo
  KERNEL vmlinuz
  INITRD initrd
  APPEND {KERNEL_ARGUMENTS}
"""


def build_cpio(entries: dict[str, tuple[int, bytes]], epoch: int) -> bytes:
    """An initramfs archive ("newc"; see the kernel's early-userspace/buffer-format).

    `entries`: path → (st_mode, content; for a symbolic link its target). Everything belongs to root.
    """
    parts = []
    names = [*sorted(entries), "TRAILER!!!"]
    for number, name in enumerate(names, start=1):
        mode, content = entries.get(name, (0, b""))
        links = 2 if stat.S_ISDIR(mode) else 1
        fields = (number, mode, 0, 0, links, epoch, len(content), 0, 0, 0, 0, len(name) + 1, 0)
        header = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
        parts += [header, b"\0" * (-len(header) % 4), content, b"\0" * (-len(content) % 4)]
    return b"".join(parts)


def build_initramfs(busybox: Path, init: Path, modules: dict[str, list[Path]], epoch: int) -> bytes:
    """busybox, our init, and lists of modules by the name of the list (insmod order), as one archive."""
    directory, program, text = stat.S_IFDIR | 0o755, stat.S_IFREG | 0o755, stat.S_IFREG | 0o644
    entries = dict.fromkeys(("bin", "dev", "proc", "sys", "root", "modules"), (directory, b""))
    entries["bin/busybox"] = (program, busybox.read_bytes())
    entries["bin/sh"] = (stat.S_IFLNK | 0o777, b"busybox")
    entries["init"] = (program, init.read_bytes())
    for name, paths in modules.items():
        entries[f"modules/{name}"] = (text, "".join(f"{path.name}\n" for path in paths).encode())
        entries |= {f"modules/{path.name}": (text, path.read_bytes()) for path in paths}
    return build_cpio(entries, epoch)


def apply_boot_partition(image: Path, files: dict[str, Path], unpacked: Path, epoch: int) -> None:
    """A FAT16 file system with `files` and syslinux, which reads the BIOS's disk only."""
    tools = {**os.environ, "SOURCE_DATE_EPOCH": str(epoch), "TZ": "UTC", "MTOOLS_SKIP_CHECK": "1"}
    tools["PATH"] = f"{unpacked}/usr/bin:{unpacked}/sbin:{os.environ['PATH']}"
    image.unlink(missing_ok=True)
    with image.open("wb") as stream:
        stream.truncate(BOOT_SIZE)
    mkfs = ["mkfs.fat", "-F", "16", "-s", "8", "-h", str(BOOT_START // SECTOR)]
    run([*mkfs, "-n", "KUMO-BOOT", "--invariant", str(image)], env=tools)
    for name, path in files.items():
        os.utime(path, (epoch, epoch))
        run(["mcopy", "-m", "-i", str(image), str(path), f"::{name}"], env=tools)
    run(["syslinux", "--install", str(image)], env=tools)


def apply_root_partition(image: Path, root: Path, epoch: int) -> None:
    """An ext4 file system filled from `root`; owners and times are set in the image itself."""
    times = {**os.environ, "E2FSPROGS_FAKE_TIME": str(epoch), "SOURCE_DATE_EPOCH": str(epoch)}
    places = sorted(str(path.relative_to(root)) for path in root.rglob("*"))
    for place in places:
        os.utime(root / place, (epoch, epoch), follow_symlinks=False)
    os.utime(root, (epoch, epoch))
    image.unlink(missing_ok=True)
    run(
        ["mkfs.ext4", "-q", "-F", "-b", "4096", "-m", "0", "-J", "size=4", "-L", ROOT_LABEL, "-U", ROOT_UUID]
        + ["-O", "^metadata_csum_seed,^orphan_file", "-d", str(root), str(image)]
        + [
            "-E",
            f"hash_seed={ROOT_UUID},lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0",
            f"{ROOT_SIZE // 1024}k",
        ],
        env=times,
    )
    script = []
    for place in ["", *places, "lost+found"]:
        owner = choose_owner(place)
        changes = {"uid": owner, "gid": owner, "ctime": f"@{epoch}", "crtime": f"@{epoch}", "atime": f"@{epoch}"}
        script += [f'sif "/{place}" {field} {value}' for field, value in changes.items()]
    run(["debugfs", "-w", "-f", "-", str(image)], env=times, input="\n".join(script) + "\n")


def build_boot_record(boot_code: bytes) -> bytes:
    """The first sector: boot code, then two primary partitions (FAT16 LBA, active; Linux)."""

    def entry(active: bool, kind: int, start: int, size: int) -> bytes:
        beyond = b"\xfe\xff\xff"  # cylinder/head/sector out of range: use the block numbers
        return struct.pack("<B3sB3sII", 0x80 * active, beyond, kind, beyond, start // SECTOR, size // SECTOR)

    table = entry(True, 0x0E, BOOT_START, BOOT_SIZE) + entry(False, 0x83, ROOT_START, ROOT_SIZE)
    return (
        boot_code[:440].ljust(440, b"\0") + struct.pack("<IH", DISK_SIGNATURE, 0) + table.ljust(64, b"\0") + b"\x55\xaa"
    )


def apply_disk(disk: Path, boot_code: bytes, boot: Path, root: Path) -> None:
    """Put boot record and partitions together into one raw, sparse disk."""
    disk.unlink(missing_ok=True)
    with disk.open("wb") as stream:
        stream.write(build_boot_record(boot_code))
        for start, part in ((BOOT_START, boot), (ROOT_START, root)):
            with part.open("rb") as source:
                position = start
                while block := source.read(MIB):
                    if block.strip(b"\0"):
                        stream.seek(position)
                        stream.write(block)
                    position += len(block)
        stream.truncate(DISK_SIZE)


def apply_qcow2(disk: Path, image: Path) -> None:
    """Convert the raw disk; clusters are compressed."""
    run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-c", "-o", "compat=1.1", str(disk), str(image)])
