"""Tests on this very machine: root, Debian's libvirt and pyroute2, a state directory of their own.

Everything made here carries ``kumo-test-<pid>``; what a killed run left is swept before the first test.
"""

import os
import re
import shutil
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

# libvirt and pyroute2 are Debian's on a host; the test's own Python is a venv of the same version.
if "/usr/lib/python3/dist-packages" not in sys.path:
    sys.path.append("/usr/lib/python3/dist-packages")

from built_image import build_guest_image
from libvirt_lab import GUEST_IMAGE, remove_state, virsh, wait_for

PREFIX = "/var/lib/kumo-test-"


@pytest.fixture(scope="session")
def libvirt_host():
    """A libvirtd that answers: the machine's own, or one started for this session and ended after it."""
    started = []
    if virsh("version").returncode:
        if Path("/dev/kvm").exists():  # what udev does where there is one (see the role hypervisor)
            shutil.chown("/dev/kvm", "root", "kvm")
            os.chmod("/dev/kvm", 0o660)
        reaper = ["tini", "-s", "--"] if shutil.which("tini") else []
        for command in (["virtlogd"], [*reaper, "libvirtd"]):
            quiet = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
            started.append(subprocess.Popen(command, start_new_session=True, **quiet))
        wait_for("libvirtd answers", lambda: virsh("version").returncode == 0)
    for leftover in Path("/var/lib").glob("kumo-test-*"):
        owner = re.match(r"kumo-test-(\d+)-", leftover.name)
        if owner and not Path("/proc", owner[1]).exists():
            remove_state(leftover)
    yield
    for daemon in reversed(started):
        daemon.terminate()
        daemon.wait(timeout=30)


@pytest.fixture(scope="session")
def guest_image() -> Path:
    """Kumo's guest image, up to date."""
    build_guest_image()
    return GUEST_IMAGE


@pytest.fixture
def state_dir():
    """A state directory that libvirt-qemu may traverse, gone afterwards with all its guests."""
    directory = Path(f"{PREFIX}{os.getpid()}-{uuid.uuid4().hex[:8]}")
    directory.mkdir(mode=0o711)
    os.chmod(directory, 0o711)
    yield directory
    remove_state(directory)


@pytest.fixture
def bridge():
    """A network's id whose bridge, made by hand, is up; the bridge goes with the test."""
    from ansible.module_utils.kumo import names

    network_id = str(uuid.uuid4())
    name = names.build_bridge_name(network_id)
    subprocess.run(["ip", "link", "add", name, "type", "bridge"], check=True)
    subprocess.run(["ip", "link", "set", name, "up"], check=True)
    yield network_id
    subprocess.run(["ip", "link", "del", name], check=False)
