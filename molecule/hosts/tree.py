"""The prepared tree: Debian 12 with everything that the roles install, for hosts that reach no registry.

Owns: what is in it, and /var/cache/kumo-hosts/<name>-<sha256 of the inputs>/ where it is kept. In it are the Debian
packages that the roles' lists name, the wheels of requirements.txt (/usr/share/kumo-wheels, which pip's own settings
name), and the guest image, built by the role's own builder with the tree's own apt: the role finds it unchanged.
May not: hold anything of one host or lab. Next room: containers.py, machines.py.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from .commands import run

PROJECT = Path(__file__).resolve().parent.parent.parent
CACHE = Path("/var/cache/kumo-hosts")
WHEELS = "usr/share/kumo-wheels"
# Raise it with every change here that gives another tree; CUSTOMIZE and the lists are counted by themselves.
FORM = 1
KEPT_SECONDS = 24 * 3600

# What makes it a host, and what a machine's operator and its tests find handy; the rest is the roles' lists.
PACKAGES = (
    "busybox-static", "ca-certificates", "curl", "dbus", "iproute2", "iputils-ping", "libpam-systemd",
    "libvirt-daemon-system-systemd", "netbase", "openssh-client", "openssh-server", "procps", "python3",
    "python3-apt", "python3-venv", "sudo", "systemd", "systemd-sysv", "udev",
)  # fmt: skip

# The guest image is built in the tree, and the builder's inputs are its own files.
BUILDER = PROJECT / "roles/guest_image/files"
# noVNC's files, by the controller's own script.
NOVNC = PROJECT / "roles/controller/files/install_novnc.sh"

CUSTOMIZE = r"""
set -eu
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8
useradd --create-home --shell /bin/bash admin
echo 'admin ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/admin
chmod 0440 /etc/sudoers.d/admin
install -d -o admin -g admin -m 0700 /home/admin/.ssh
rm -f /etc/ssh/ssh_host_*
: >/etc/machine-id
rm -f /var/lib/dbus/machine-id
# As the role storage_node does before it installs the package: Debian's unit listens on every address.
ln -sf /dev/null /etc/systemd/system/tgt.service
# Nothing that goes to the network or wakes up by itself.
systemctl mask --quiet apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer fstrim.timer dpkg-db-backup.timer \
    man-db.timer logrotate.timer e2scrub_reap.service console-getty.service \
    systemd-networkd.service systemd-networkd.socket systemd-resolved.service
# Control groups are read-only in a container.
echo 'cgroup_controllers = []' >>/etc/libvirt/qemu.conf
cat >/etc/pip.conf <<END
[global]
no-index = true
find-links = /usr/share/kumo-wheels
disable-pip-version-check = true
END
python3 -B /run/kumo-builder/build_guest_image.py --quiet --output /var/lib/kumo/guest-image --work /tmp/guest-image
rm -rf /tmp/guest-image
sh /run/kumo-novnc/install_novnc.sh /opt/kumo/novnc
"""


def read_packages(extra: tuple[str, ...] = ()) -> list[str]:
    """Debian packages of every host: the roles' lists and what makes it a host."""
    listed = run([sys.executable, PROJECT / "scripts/list_packages.py", "--all"]).split()
    return sorted({*listed, *PACKAGES, *extra})


def read_inputs(packages: list[str]) -> str:
    """SHA-256 over everything that the tree is made of, but for Debian's own versions."""
    digest = hashlib.sha256("\n".join([str(FORM), CUSTOMIZE, *packages]).encode())
    files = [PROJECT / "requirements.txt", NOVNC, *sorted(BUILDER.rglob("*"))]
    for path in files:
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(f"{path.relative_to(PROJECT)}\0{path.stat().st_mode:o}\0".encode() + path.read_bytes())
    return digest.hexdigest()


@contextmanager
def hold_cache():
    """One builder at a time on this machine; the lock goes with its process."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def prepare_tree(name: str = "tree", extra_packages: tuple[str, ...] = ()) -> Path:
    """The tree's directory, built if it is not there yet (three minutes); never to be written to, nor booted itself."""
    packages = read_packages(extra_packages)
    final = CACHE / f"{name}-{read_inputs(packages)}"
    with hold_cache():
        if not final.is_dir():
            remove_old(name, final)
            build_tree(packages, final)
        os.utime(final)
    return final


def remove_old(name: str, final: Path) -> None:
    """Remove what killed builds left, and trees that nothing has used for a day and no host is running on."""
    mounts = Path("/proc/self/mountinfo").read_text()
    for path in CACHE.glob(f"{name}-*"):
        stale = path.name.endswith(".partial") or time.time() - path.stat().st_mtime > KEPT_SECONDS
        if path != final and stale and f"{path}," not in mounts and f"{path} " not in mounts:
            run(["rm", "-rf", "--one-file-system", path], timeout=300)


def choose_source() -> list[str]:
    """What mmdebstrap takes Debian from: this machine's own sources, else its own default."""
    for path in (Path("/etc/apt/sources.list.d/debian.sources"), Path("/etc/apt/sources.list")):
        if path.is_file() and any(line.strip() and line[0] != "#" for line in path.read_text().splitlines()):
            return [str(path)]
    return []


def read_apt_options() -> list[str]:
    """This machine's own settings for mirrors that are older than their lists' dates, and for proxies."""
    wanted = ("Acquire::Check-Valid-Until ", "Acquire::Check-Date ", "Acquire::http::Proxy ", "Acquire::https::Proxy ")
    lines = [line for line in run(["apt-config", "dump"]).splitlines() if line.startswith(wanted)]
    return [f"--aptopt={line}" for line in lines if not line.endswith('"";')]


def build_tree(packages: list[str], final: Path) -> None:
    """Build beside the final place and rename at the end: what is at the final place is whole."""
    partial = final.with_name(f"{final.name}.partial")
    say(f"building the tree of test hosts, {len(packages)} packages named ({final.name[:16]}…)")
    run([
        "mmdebstrap", "--mode=root", "--variant=minbase", "--skip=cleanup/apt/lists", f"--include={','.join(packages)}",
        *read_apt_options(), "bookworm", partial, *choose_source(),
    ], timeout=1200)  # fmt: skip
    say("wheels of requirements.txt")
    python = PROJECT / ".venv/bin/python"
    run([
        python if python.exists() else sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-input",
        "--requirement", PROJECT / "requirements.txt", "--wheel-dir", partial / WHEELS,
    ], timeout=600)  # fmt: skip
    say("the guest image")
    customize(partial)
    partial.rename(final)
    say("the tree is ready")


def customize(tree: Path) -> None:
    """Run CUSTOMIZE in the tree, with this machine's names of mirrors and the builder's files for its duration."""
    builder = tree / "run/kumo-builder"
    shutil.copytree(BUILDER, builder, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    novnc = tree / "run/kumo-novnc"
    novnc.mkdir()
    shutil.copy(NOVNC, novnc)
    resolv = tree / "etc/resolv.conf"
    resolv.unlink(missing_ok=True)
    shutil.copyfile("/etc/resolv.conf", resolv)
    # A namespace of its own: what is mounted for it goes with it, also when it is killed.
    script = f'mount -t proc proc {tree}/proc && mount --bind /dev {tree}/dev && exec chroot {tree} /bin/sh -c "$1"'
    run(["unshare", "--mount", "--propagation", "private", "/bin/sh", "-ec", script, "sh", CUSTOMIZE], timeout=600)
    resolv.write_text("")
    shutil.rmtree(builder)
    shutil.rmtree(novnc)


def say(text: str) -> None:
    """Progress, for a person who waits."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)
