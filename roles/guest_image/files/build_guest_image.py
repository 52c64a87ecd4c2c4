#!/usr/bin/env python3
"""Builds Kumo's tiny cloud guest image, and the probe that shows whether a hypervisor runs guests.

Owns: the order of the build, what is written into the output directory and when it is left alone. May
not: install packages, mount, or need root. Next room: guest_build/ (the steps), guest/ (the guest's own
files), initramfs/init and probe/init (the first programs of the two initial file systems).

Writes into --output: NAME.qcow2, NAME.json, probe/vmlinuz, probe/initrd. The last line on standard
output is "built", "unchanged" or (with --check) "would build".
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from guest_build import disk, kernel_modules, packages, root_tree, stamp

SOURCE = Path(__file__).resolve().parent
LOGIN_USER, LOGIN_PASSWORD = "cirros", "gocubsgo"
# The kernel starts at 16 MiB and needs 52 MiB to unpack itself; below this nothing is left for programs.
MINIMUM_RAM_MB = 80
DEFAULT_EPOCH = 1_700_000_000
PROBE_NAME = "probe"


class Progress:
    """Progress lines: seconds since the start, then what begins now."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self.start = time.monotonic()

    def __call__(self, text: str) -> None:
        if not self.quiet:
            print(f"{time.monotonic() - self.start:6.1f} s  {text}", flush=True)


def apply_fetch(resolved: list[packages.Package], work: Path, say: Progress) -> Path:
    """Fetch and unpack; returns the directory with the unpacked packages."""
    say(f"fetching {len(resolved)} packages")
    packages.apply_download(resolved, work / "packages")
    say("unpacking")
    shutil.rmtree(work / "unpacked", ignore_errors=True)
    packages.apply_unpack(resolved, work / "packages", work / "unpacked")
    return work / "unpacked"


def apply_probe(unpacked: Path, work: Path, epoch: int) -> dict[str, Path]:
    """The probe's kernel and initramfs, by their place in the output directory."""
    version = root_tree.read_modules_directory(unpacked).name
    shutil.copyfile(unpacked / "boot" / f"vmlinuz-{version}", work / "vmlinuz")
    initrd = disk.build_initramfs(unpacked / "bin/busybox", SOURCE / "probe/init", {}, epoch)
    (work / "probe-initrd").write_bytes(initrd)
    return {"probe/vmlinuz": work / "vmlinuz", "probe/initrd": work / "probe-initrd"}


def build_boot_initramfs(unpacked: Path, epoch: int) -> bytes:
    """The initramfs of the disk image: busybox and the modules that reach the root file system."""
    modules = root_tree.read_modules_directory(unpacked)
    paths = kernel_modules.read_module_paths(modules)
    depends = kernel_modules.read_dependencies(paths)
    order = kernel_modules.choose_load_order(kernel_modules.BOOT_MODULES, depends)
    late = kernel_modules.choose_load_order(kernel_modules.LATE_BOOT_MODULES, depends)
    lists = {"order": [paths[name] for name in order], "late": [paths[name] for name in late if name not in order]}
    return disk.build_initramfs(unpacked / "bin/busybox", SOURCE / "initramfs/init", lists, epoch)


def apply_image(unpacked: Path, work: Path, epoch: int, say: Progress) -> Path:
    """The disk image, out of the unpacked packages and `work`/vmlinuz; returns the qcow2."""
    say("root file system")
    root_tree.build_root_tree(unpacked, SOURCE / "guest", work / "root")
    disk.apply_root_partition(work / "root.img", work / "root", epoch)
    say("boot partition")
    (work / "initrd").write_bytes(build_boot_initramfs(unpacked, epoch))
    (work / "syslinux.cfg").write_text(disk.BOOT_MENU)
    boot_files = {name: work / name for name in ("vmlinuz", "initrd", "syslinux.cfg")}
    boot_files["ldlinux.c32"] = unpacked / "usr/lib/syslinux/modules/bios/ldlinux.c32"
    disk.apply_boot_partition(work / "boot.img", boot_files, unpacked, epoch)
    say("disk")
    boot_code = (unpacked / "usr/lib/syslinux/mbr/mbr.bin").read_bytes()
    disk.apply_disk(work / "disk.raw", boot_code, work / "boot.img", work / "root.img")
    disk.apply_qcow2(work / "disk.raw", work / "disk.qcow2")
    return work / "disk.qcow2"


def build_description(name: str, image: Path | None, resolved: list[packages.Package]) -> dict:
    """What clients need to know of the result; the same keys are documented in the role's README."""
    kernel = next(package.filename for package in resolved if package.name.startswith("linux-image-"))
    if image is None:
        return {"name": name, "kernel": kernel}
    with image.open("rb") as stream:
        sha512 = hashlib.file_digest(stream, "sha512").hexdigest()
    return {
        "name": name,
        "file": f"{name}.qcow2",
        "disk_format": "qcow2",
        "container_format": "bare",
        "size": image.stat().st_size,
        "virtual_size": disk.DISK_SIZE,
        "sha512": sha512,
        "min_ram_mb": MINIMUM_RAM_MB,
        "login_user": LOGIN_USER,
        "console_password": LOGIN_PASSWORD,
        "kernel": kernel,
    }


def apply_output(output: Path, name: str, files: dict[str, Path], description: dict) -> None:
    """Put the results in place, the description last, so that an interrupted build is never taken for whole."""
    (output / "probe").mkdir(parents=True, exist_ok=True)
    (output / f"{name}.json").unlink(missing_ok=True)
    for target, source in files.items():
        partial = output / f"{target}.partial"
        shutil.copyfile(source, partial)
        partial.chmod(0o644)
        partial.replace(output / target)
    stamp.store_description(output, name, description)


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="directory for image, description and probe/")
    parser.add_argument("--work", type=Path, help="directory for packages and intermediate files, kept (default: none)")
    parser.add_argument("--name", default="kumo-guest", help="name of the image's files (default: %(default)s)")
    parser.add_argument(
        "--parts", choices=("all", "probe"), default="all", help="probe: build only probe/ and probe.json"
    )
    parser.add_argument("--force", action="store_true", help="build even if nothing changed")
    parser.add_argument("--check", action="store_true", help="only say whether a build is needed; change nothing")
    parser.add_argument("--quiet", action="store_true", help="no progress lines")
    chosen = parser.parse_args(arguments)
    if not chosen.name or "/" in chosen.name or chosen.name.startswith(".") or chosen.name == PROBE_NAME:
        parser.error(f"--name: a plain file name other than {PROBE_NAME} is needed")
    if chosen.parts == "probe":
        chosen.name = PROBE_NAME
    return chosen


def build(chosen: argparse.Namespace, say: Progress) -> str:
    """Do what the arguments ask; returns the last line of the output."""
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH", DEFAULT_EPOCH))
    settings = {"epoch": epoch, "name": chosen.name}
    source_hash, apt_state = stamp.read_source_hash(SOURCE, settings), stamp.read_apt_state()
    known = stamp.read_description(chosen.output, chosen.name)
    if not chosen.force and stamp.is_complete(chosen.output, known):
        if (known.get("source"), known.get("apt_state")) == (source_hash, apt_state):
            return "unchanged"
        inputs = stamp.build_input_hash(source_hash, packages.read_packages())
        if known.get("inputs") == inputs:
            if not chosen.check:
                stamp.store_description(chosen.output, chosen.name, known | {"apt_state": apt_state})
            return "unchanged"
    if chosen.check:
        return "would build"
    resolved = packages.read_packages()
    with tempfile.TemporaryDirectory(prefix="kumo-guest-") as temporary:
        work = (chosen.work or Path(temporary)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        with (work / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            unpacked = apply_fetch(resolved, work, say)
            files = apply_probe(unpacked, work, epoch)
            image = None if chosen.parts == "probe" else apply_image(unpacked, work, epoch, say)
            if image:
                files[f"{chosen.name}.qcow2"] = image
            description = build_description(chosen.name, image, resolved)
            inputs = stamp.build_input_hash(source_hash, resolved)
            marks = {"inputs": inputs, "source": source_hash, "apt_state": apt_state}
            apply_output(chosen.output, chosen.name, files, description | marks)
    if image:
        say(f"{chosen.output / description['file']}: {description['size'] / 1e6:.1f} MB")
    return "built"


def main(arguments: list[str]) -> int:
    chosen = parse_arguments(arguments)
    try:
        print(build(chosen, Progress(chosen.quiet)))
    except (packages.BuildError, OSError, ValueError) as error:
        if chosen.check:
            print(f"would build ({error})")
            return 0
        print(f"build_guest_image: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    sys.exit(main(sys.argv[1:]))
