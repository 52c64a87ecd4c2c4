"""What machines boot: the prepared tree with a kernel as one root file system, that kernel, and an initramfs.

Owns: /var/cache/kumo-hosts/machine-<sha256 of the inputs>/{root.img,vmlinuz,initrd}. The initramfs is ours and loads
three modules: Debian's own, with udev in it, takes some ten seconds under emulation. May not: hold anything of one
host. Next room: machine_memory.py, which boots it once; tree.py, what is in it.
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

from .commands import run
from .tree import CACHE, PROJECT, hold_cache, prepare_tree, remove_old, say

BUILDER = PROJECT / "roles/guest_image/files"
if str(BUILDER) not in sys.path:
    sys.path.append(str(BUILDER))

from guest_build import disk, kernel_modules  # noqa: E402

INIT = Path(__file__).with_name("machine_init")
AGENT = Path(__file__).with_name("machine_agent.py")
UNIT = """[Unit]
Description=Makes this machine a host of its own, once
ConditionPathExists=!/etc/lab-host
After=multi-user.target
[Service]
ExecStart=/usr/bin/python3 -I /usr/local/lib/machine_agent.py
[Install]
WantedBy=multi-user.target
"""
MODULES = ("virtio_pci", "virtio_blk", "virtio_net")
# What a whole kernel needs, and the suite of storage backends, which runs in a machine.
PACKAGES = ("linux-image-cloud-amd64", "kmod", "python3-pytest")
ROOT_SIZE = "8G"  # sparse; a host's own writes go to its overlay

# In a mount namespace of its own: $1 the tree, $2 the place that is built, where `agent` and `unit` are already.
BUILD = r"""
set -eu
tree=$1 place=$2
mkdir "$place/upper" "$place/work" "$place/merged"
mount -t overlay kumo-lab-machine -o "lowerdir=$tree,upperdir=$place/upper,workdir=$place/work" "$place/merged"
cd "$place/merged"
mount -t proc proc proc
mount --bind /dev dev
cat /etc/resolv.conf >etc/resolv.conf
printf '#!/bin/sh\nexit 101\n' >usr/sbin/policy-rc.d
chmod 0755 usr/sbin/policy-rc.d
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 INITRD=No
# The tree's own lists stay: by them the guest image in it is what its builder would make.
mkdir -p tmp/lists/partial
chroot . apt-get -qq -o Dir::State::lists=/tmp/lists update
chroot . apt-get -qq -y -o Dir::State::lists=/tmp/lists --no-install-recommends install PACKAGES >/dev/null
# Under emulation each service that nobody asked for costs a second of every boot; the roles start what they need.
# ssh waits for its keys, which are each host's own.
chroot . systemctl disable --quiet libvirtd.service libvirt-guests.service e2scrub_reap.service ssh.service
cp "$place/agent" usr/local/lib/machine_agent.py
cp "$place/unit" etc/systemd/system/lab-agent.service
chroot . systemctl enable --quiet lab-agent.service
rm usr/sbin/policy-rc.d
: >etc/resolv.conf
umount proc dev
rm -rf var/cache/apt/archives/*.deb tmp/lists boot/initrd.img*
cp boot/vmlinuz-* "$place/vmlinuz"
truncate -s ROOT_SIZE "$place/root.img"
mkfs.ext4 -q -F -L kumo-lab -E lazy_itable_init=1,nodiscard -d . "$place/root.img"
"""


def build_script() -> str:
    """BUILD with its packages and sizes."""
    return BUILD.replace("PACKAGES", " ".join(PACKAGES)).replace("ROOT_SIZE", ROOT_SIZE)


def read_inputs(tree: Path) -> str:
    """SHA-256 over everything that the image is made of, but for Debian's own versions."""
    texts = [tree.name, build_script(), INIT.read_text(), AGENT.read_text(), UNIT, " ".join(MODULES)]
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def prepare_image() -> Path:
    """The image's folder, built if it is not there yet (a minute beyond the tree's three); never to be written to."""
    tree = prepare_tree()
    final = CACHE / f"machine-{read_inputs(tree)}"
    with hold_cache():
        if not final.is_dir():
            remove_old("machine", final)
            build_image(tree, final)
        os.utime(final)
    return final


def build_image(tree: Path, final: Path) -> None:
    """Build beside the final place and rename at the end: what is at the final place is whole."""
    partial = final.with_name(f"{final.name}.partial")
    say(f"building the image of machines ({final.name[:16]}…)")
    partial.mkdir()
    (partial / "agent").write_bytes(AGENT.read_bytes())
    (partial / "unit").write_text(UNIT)
    command = ["unshare", "--mount", "--propagation", "private", "/bin/sh", "-c", build_script(), "sh"]
    run([*command, tree, partial], timeout=1200)
    modules = next(partial.glob("upper/**/lib/modules/*"))
    (partial / "initrd").write_bytes(build_initramfs(tree, modules))
    for name in ("upper", "work", "merged", "agent", "unit"):
        run(["rm", "-rf", "--one-file-system", partial / name])
    partial.rename(final)
    say("the image is ready")


def build_initramfs(tree: Path, modules: Path) -> bytes:
    """busybox, our init and the modules of disk and network, in the order in which they load."""
    paths = kernel_modules.read_module_paths(modules)
    order = kernel_modules.choose_load_order(MODULES, kernel_modules.read_dependencies(paths))
    return disk.build_initramfs(tree / "usr/bin/busybox", INIT, {"order": [paths[name] for name in order]}, 0)
