"""The kernel's modules: which ones the guest gets and in which order they load.

Owns: the lists of modules, their dependencies (read from the modules themselves) and the index files
modprobe reads. May not: run depmod or touch this machine's modules. Next room: root_tree.py and
disk.py, which place what is chosen here.
"""

from __future__ import annotations

import re
from pathlib import Path

from .packages import BuildError

# Loaded by the initramfs in any case, then only if the root file system does not show up.
BOOT_MODULES = ("virtio_pci", "virtio_blk")
LATE_BOOT_MODULES = ("virtio_scsi", "sd_mod", "ata_piix")
# In the root file system. ext4, ipv6, packet sockets, NVMe and the PS/2 keyboard are built into this kernel.
ROOT_MODULES = (
    *BOOT_MODULES,
    *LATE_BOOT_MODULES,
    "virtio_net",
    "virtio_rng",
    "virtio_console",
    "virtio_balloon",
    "virtio_input",
    "virtiofs",
    "ata_generic",
    "sr_mod",
    "isofs",
    "vfat",
    "nls_ascii",
    "nls_cp437",
    "nls_utf8",
    "button",
    "evdev",
    "8021q",
    "dummy",
    "loop",
)


def read_module_paths(tree: Path) -> dict[str, Path]:
    """Every module below /lib/modules/VERSION/kernel by its name, '-' folded into '_' as the kernel does."""
    return {path.stem.replace("-", "_"): path for path in sorted((tree / "kernel").rglob("*.ko"))}


def parse_modinfo(blob: bytes, key: str) -> list[str]:
    """The values of one key in a module's .modinfo section (NUL-separated key=value)."""
    pattern = rb"(?:^|\0)" + re.escape(key.encode()) + rb"=([^\0]*)"
    return [value.decode() for value in re.findall(pattern, blob)]


def parse_dependencies(blob: bytes) -> list[str]:
    values = parse_modinfo(blob, "depends")
    return [name.replace("-", "_") for name in values[0].split(",") if name] if values else []


def choose_load_order(wanted: tuple[str, ...], depends: dict[str, list[str]]) -> list[str]:
    """`wanted` and all they depend on, each after its dependencies; a module named nowhere is a BuildError."""
    order: list[str] = []

    def visit(name: str) -> None:
        if name in order:
            return
        if name not in depends:
            raise BuildError(f"the kernel package has no module {name}")
        for other in depends[name]:
            visit(other)
        order.append(name)

    for name in wanted:
        visit(name.replace("-", "_"))
    return order


def build_index(order: list[str], paths: dict[str, Path], tree: Path) -> dict[str, str]:
    """The texts of modules.dep and modules.alias for the modules in `order`, as depmod would write them."""
    blobs = {name: paths[name].read_bytes() for name in order}
    depends = {name: parse_dependencies(blob) for name, blob in blobs.items()}
    place = {name: str(paths[name].relative_to(tree)) for name in order}
    lines, aliases = [], []
    for name in order:
        needed = choose_load_order(tuple(depends[name]), depends)[::-1]
        lines.append(f"{place[name]}:{''.join(' ' + place[other] for other in needed)}")
        aliases += [f"alias {alias} {name}" for alias in parse_modinfo(blobs[name], "alias")]
    return {"modules.dep": "\n".join(lines) + "\n", "modules.alias": "\n".join(aliases) + "\n"}


def read_dependencies(paths: dict[str, Path]) -> dict[str, list[str]]:
    """Dependencies of every module by name (reads each file once)."""
    return {name: parse_dependencies(path.read_bytes()) for name, path in paths.items()}
