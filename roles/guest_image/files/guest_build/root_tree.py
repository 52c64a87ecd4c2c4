"""The guest's root file system as a directory.

Owns: which files of the unpacked packages go where, the overlay of our own files, and the modes of
both. May not: make disk images or need to be root (owners are set later, inside the image). Next
room: disk.py turns the tree into a file system.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from . import kernel_modules
from .packages import BuildError, run

LIBRARY_DIRECTORIES = ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu", "usr/libexec/sudo")
DYNAMIC_LINKER = "lib64/ld-linux-x86-64.so.2"
DIRECTORIES = ("dev", "etc/dropbear", "home/cirros", "mnt", "proc", "root", "run", "sys", "tmp", "usr/bin")
DIRECTORIES += ("usr/sbin", "usr/lib", "usr/lib64", "var/lib/kumo", "var/log")
LINKS = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64", "var/run": "../run"}
# File in the packages → its place in the guest.
PROGRAMS = {
    "bin/busybox": "usr/bin/busybox",
    "sbin/blkid": "usr/sbin/blkid",
    "bin/lsblk": "usr/bin/lsblk",
    "sbin/mke2fs": "usr/sbin/mkfs.ext4",
    "sbin/resize2fs": "usr/sbin/resize2fs",
    "usr/bin/dbclient": "usr/bin/ssh",
    "usr/bin/dropbearkey": "usr/bin/dropbearkey",
    "usr/bin/sudo": "usr/bin/sudo",
    "usr/lib/openssh/sftp-server": "usr/lib/sftp-server",
    "usr/libexec/sudo/sudoers.so": "usr/libexec/sudo/sudoers.so",
    "usr/libexec/sudo/libsudo_util.so.0": "usr/lib/x86_64-linux-gnu/libsudo_util.so.0",
    "usr/sbin/dropbear": "usr/sbin/dropbear",
    "lib/x86_64-linux-gnu/security/pam_permit.so": "usr/lib/x86_64-linux-gnu/security/pam_permit.so",
    "etc/mke2fs.conf": "etc/mke2fs.conf",
}
# Applets of busybox that would only confuse here, or whose real program is present.
LEFT_OUT_APPLETS = {"busybox", "depmod", "dpkg", "dpkg-deb", "linuxrc", "mkdosfs", "rpm", "rpm2cpio", "run-init"}
EXECUTABLE = re.compile(r"usr/lib/kumo/[a-z-]+|etc/acpi/PWRF/.*")
MODES = {
    "etc/shadow": 0o600,
    "etc/sudoers": 0o440,
    "etc/dropbear": 0o700,
    "home/cirros": 0o755,
    "root": 0o700,
    "tmp": 0o1777,
    # For ping and su; busybox drops the privilege in every other applet.
    "usr/bin/busybox": 0o4755,
    "usr/bin/sudo": 0o4755,
    "var/lib/kumo": 0o700,
}
OWNERS = {"home/cirros": 1000}


def build_root_tree(unpacked: Path, overlay: Path, root: Path) -> None:
    """Fill `root` (made anew) from the unpacked packages and the overlay; owners are set by disk.py."""
    if root.exists():
        shutil.rmtree(root)
    for directory in DIRECTORIES:
        (root / directory).mkdir(parents=True, exist_ok=True)
    for link, target in LINKS.items():
        (root / link).symlink_to(target)
    for source, place in PROGRAMS.items():
        apply_copy(unpacked / source, root / place)
    for library in read_libraries(unpacked, [unpacked / source for source in PROGRAMS]):
        apply_copy(library, root / "usr/lib/x86_64-linux-gnu" / library.name)
    apply_copy(unpacked / DYNAMIC_LINKER, root / "usr/lib64" / Path(DYNAMIC_LINKER).name)
    (root / "etc/mtab").symlink_to("/proc/mounts")
    apply_applets(root)
    apply_modules(read_modules_directory(unpacked), root)
    shutil.copytree(overlay, root, dirs_exist_ok=True, symlinks=True)
    apply_modes(root)


def apply_copy(source: Path, target: Path) -> None:
    if not source.exists():
        raise BuildError(f"the packages hold no {source}: is this Debian 12?")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(0o755)


def read_libraries(unpacked: Path, programs: list[Path]) -> list[Path]:
    """The shared libraries `programs` need, found in `unpacked` only, by asking its own dynamic linker."""
    search = ":".join(str(unpacked / directory) for directory in LIBRARY_DIRECTORIES)
    found: set[Path] = set()
    for program in programs:
        if program.name == "busybox" or program.read_bytes()[:4] != b"\x7fELF":
            continue  # busybox-static needs none, and the linker cannot list it
        text = run([str(unpacked / DYNAMIC_LINKER), "--library-path", search, "--list", str(program)])
        for name, path in re.findall(r"(\S+) => (\S+|not found)", text):
            if not path.startswith(str(unpacked)):
                raise BuildError(f"{program.name} needs {name}, which is in none of the packages")
            found.add(Path(path))
    return sorted(found)


def apply_applets(root: Path) -> None:
    """A symbolic link per busybox applet, except where a real program has the name."""
    for line in run([str(root / "usr/bin/busybox"), "--list-full"]).split():
        directory, _, name = line.rpartition("/")
        place = root / ("usr/sbin" if directory.endswith("sbin") else "usr/bin") / name
        if name not in LEFT_OUT_APPLETS and not place.exists():
            place.symlink_to("/usr/bin/busybox")


def read_modules_directory(unpacked: Path) -> Path:
    """The one /lib/modules/VERSION of the kernel package."""
    found = sorted((unpacked / "lib/modules").iterdir())
    if len(found) != 1:
        raise BuildError(f"expected one kernel in {unpacked / 'lib/modules'}, found {len(found)}")
    return found[0]


def apply_modules(tree: Path, root: Path) -> None:
    """Copy the root file system's modules and write their index."""
    paths = kernel_modules.read_module_paths(tree)
    order = kernel_modules.choose_load_order(kernel_modules.ROOT_MODULES, kernel_modules.read_dependencies(paths))
    target = root / "usr/lib/modules" / tree.name
    for name in order:
        place = target / paths[name].relative_to(tree)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(paths[name], place)
    for name, text in kernel_modules.build_index(order, paths, tree).items():
        (target / name).write_text(text)


def choose_mode(path: str, is_directory: bool, is_program: bool) -> int:
    """The permission bits of one path of the guest (relative, no leading slash)."""
    if path in MODES:
        return MODES[path]
    return 0o755 if is_directory or is_program or EXECUTABLE.fullmatch(path) else 0o644


def apply_modes(root: Path) -> None:
    """Set every path's mode from the tables above, so that the builder's umask and checkout do not matter."""
    programs = set(PROGRAMS.values()) - {"etc/mke2fs.conf"}
    for directory, directories, files in os.walk(root):
        for name in directories + files:
            path = Path(directory, name)
            if path.is_symlink():
                continue
            place = str(path.relative_to(root))
            is_program = place in programs or place.startswith("usr/lib64/")
            path.chmod(choose_mode(place, path.is_dir(), is_program))
    root.chmod(0o755)


def choose_owner(path: str) -> int:
    """Owner and group (one number) of one path of the guest."""
    return next((owner for prefix, owner in OWNERS.items() if path == prefix or path.startswith(prefix + "/")), 0)
