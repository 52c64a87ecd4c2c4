"""The tiny guest image, built and booted for real under TCG.

Owns: that roles/guest_image builds a small, reproducible image, and that a guest made of it does what a
cloud guest is expected to do (keys, name, user data, DHCP, ssh, power button, growing disk). May not: need
libvirt or Kumo's API. Next rooms: built_image.py, roles/guest_image/files/build_guest_image.py.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from built_image import BUILDER, WORK, build
from libvirt_lab import GUEST_IMAGE
from plain_guest import BOOT_S, READY, Guest, Metadata, build_openstack, run, wait_until

CACHE = GUEST_IMAGE.parent


@pytest.fixture(scope="session")
def image(guest_image) -> Path:
    return guest_image


@pytest.fixture(scope="session")
def key(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("key") / "id"
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path)
    return path


def test_image_is_small_described_and_self_contained(image):
    description = json.loads((CACHE / "kumo-guest.json").read_text())
    assert image.stat().st_size <= 40_000_000
    assert description["size"] == image.stat().st_size
    assert description["sha512"] == hashlib.sha512(image.read_bytes()).hexdigest()
    header = json.loads(run("qemu-img", "info", "--output=json", "-f", "qcow2", image).stdout)
    assert header["virtual-size"] == description["virtual_size"] < 1 << 30
    assert "backing-filename" not in header
    assert "data-file" not in header["format-specific"]["data"]


def test_second_build_is_left_alone(image):
    before = image.stat().st_mtime_ns
    assert build("--output", CACHE, "--work", WORK) == "unchanged"
    assert image.stat().st_mtime_ns == before


def test_build_is_reproducible_and_a_damaged_one_is_noticed(image, tmp_path):
    """The same inputs give the same bytes; a cut-off image is built anew."""
    options = ("--output", tmp_path / "out", "--work", WORK)
    assert build(*options, "--check") == "would build"
    assert build(*options) == "built"
    again = tmp_path / "out/kumo-guest.qcow2"
    assert again.read_bytes() == image.read_bytes()
    os.truncate(again, 1000)
    assert build(*options, "--check") == "would build"


@pytest.mark.parametrize("name", ["", "a/b", ".hidden", "probe"])
def test_bad_name_is_refused(name, tmp_path):
    done = run(sys.executable, BUILDER, "--output", tmp_path, "--name", name, check=False)
    assert done.returncode == 2
    assert "--name" in done.stderr


def test_probe_says_so_and_powers_off(image):
    """QEMU ends by itself: the probe's guest has powered off."""
    qemu = ["qemu-system-x86_64", "-accel", "tcg", "-m", "96", "-display", "none", "-nodefaults", "-no-reboot"]
    qemu += ["-serial", "stdio", "-append", "console=ttyS0 panic=-1 quiet"]
    done = run(*qemu, "-kernel", CACHE / "probe/vmlinuz", "-initrd", CACHE / "probe/initrd", timeout=BOOT_S)
    assert "KUMO-PROBE-OK" in done.stdout


def test_life_of_a_guest(image, key, tmp_path):
    """Keys, name, user data (once), sudo, a grown disk, what survives reboots, and the power button."""
    script = "#!/bin/sh\necho ran >>/var/user-data-runs\necho from-the-user-data\n"
    metadata = Metadata(build_openstack(key, user_data=script))
    with Guest(image, tmp_path, key, metadata=metadata).start() as guest:
        console = guest.wait_for(f"{READY} web1\n")
        fingerprint = re.search(
            r"BEGIN SSH HOST KEY FINGERPRINTS-----\s+256 (SHA256:\S+) \(ED25519\)\s+-----END", console
        ).group(1)
        guest.wait_for("from-the-user-data")
        assert guest.ssh("hostname") == "web1"
        assert fingerprint in run("ssh-keygen", "-lf", tmp_path / "known_hosts").stdout
        assert guest.ssh("hostname -f") == "web1.kumo.internal"
        assert guest.ssh("id -un; sudo id -un; sudo -n sh -c 'id -u'").split() == ["cirros", "root", "0"]
        assert guest.ssh("cat .ssh/authorized_keys").splitlines()[1] == "ssh-ed25519 AAAAsecond other"
        assert "denied" in guest.ssh("cat /etc/shadow", check=False)
        assert guest.ssh("ping -c 1 -W 2 169.254.169.2 >/dev/null && echo pong") == "pong"
        guest.ssh(
            "wget -q -O - http://169.254.169.254/openstack/latest/meta_data.json >kept; sudo touch /root/mine; sync"
        )
        wait_until(
            lambda: int(guest.ssh("df -m / | awk 'END { print $2 }'")) > 900, 20, "the file system grows to 1 GB"
        )
        assert (
            "Permission denied"
            in run(
                *("ssh", "-p", guest.port, "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"),
                *("-o", "BatchMode=yes", "-o", "PubkeyAuthentication=no", "cirros@127.0.0.1", "true"),
                check=False,
            ).stderr
        )

        guest.ssh("sudo reboot", check=False)
        wait_until(lambda: guest.console().count(READY) == 2, BOOT_S, "ready again after a reboot from within")
        guest.ssh("test -s kept && sudo test -e /root/mine && (echo; echo more) >>kept && sync")
        guest.kill()
        guest.start().wait_for(READY)
        assert guest.ssh("tail -n 1 kept; cat /var/user-data-runs").split() == ["more", "ran"]
        assert fingerprint in guest.console()

        guest.qmp("system_powerdown")
        assert guest.process.wait(30) == 0

    # The same disk as another server, as after a snapshot: new name and host key, script runs again.
    metadata.pages = build_openstack(key, uuid="uuid-2", user_data=script)
    (tmp_path / "known_hosts").unlink()
    with guest.start():
        guest.wait_for(READY)
        assert fingerprint not in guest.console()
        guest.wait_for("from-the-user-data")
        assert guest.ssh("wc -l </var/user-data-runs") == "2"


@pytest.mark.parametrize(
    ("machine", "bus", "memory"),
    [("q35", "virtio", 80), ("pc", "scsi", 128), ("pc", "ide", 128), ("q35", "scsi", 256)],
)
def test_boots_on(machine, bus, memory, image, key, tmp_path):
    """Machine types, disk buses, and the smallest memory the description promises."""
    metadata = Metadata(build_openstack(key))
    with Guest(image, tmp_path, key, metadata=metadata).start("-M", machine, bus=bus, memory=memory) as guest:
        guest.wait_for(f"{READY} web1")
        assert guest.ssh("uname -s") == "Linux"
        guest.qmp("system_powerdown")
        assert guest.process.wait(10) == 0


# Who may not read a device finds it by its label all the same.
FIND_DRIVE = """
su cirros -c 'echo its user finds "$(blkid -L config-2 -o device)"'
mount "$(blkid -L config-2 -o device)" /mnt && ls /mnt/openstack/latest/meta_data.json
"""


@pytest.mark.parametrize("attachment", ["virtio", "cdrom", "vfat"])
def test_config_drive_without_network(attachment, image, key, tmp_path):
    """Name, key and user data come from a drive labelled config-2; no NIC is present."""
    tree = tmp_path / "drive/openstack/latest"
    tree.mkdir(parents=True)
    (tree / "meta_data.json").write_text(build_openstack(key)["/openstack/latest/meta_data.json"])
    (tree / "user_data").write_text("#!/bin/sh\ncat /home/cirros/.ssh/authorized_keys\n" + FIND_DRIVE)
    drive = tmp_path / "drive.img"
    if attachment == "vfat":
        os.truncate(os.open(drive, os.O_CREAT | os.O_WRONLY), 8 << 20)
        tools = WORK / "unpacked"
        run(tools / "sbin/mkfs.fat", "-n", "config-2", drive)
        run(tools / "usr/bin/mcopy", "-s", "-i", drive, tmp_path / "drive/openstack", "::")
    else:
        run("genisoimage", "-quiet", "-J", "-r", "-V", "config-2", "-o", drive, tmp_path / "drive")
    device = "ide-cd,drive=c" if attachment == "cdrom" else "virtio-blk-pci,drive=c"
    extra = ["-drive", f"file={drive},format=raw,if=none,id=c,readonly=on", "-device", device]
    with Guest(image, tmp_path, key).start(*extra, network=False) as guest:
        guest.wait_for(f"{READY} web1")
        guest.wait_for(key.with_suffix(".pub").read_text().split()[1])
        guest.wait_for("its user finds /dev/")
        guest.wait_for("/mnt/openstack/latest/meta_data.json")


def test_console_login_without_any_metadata(image, key, tmp_path):
    """The documented password works on the console at once; nothing waits for a metadata service."""
    with Guest(image, tmp_path, key).start() as guest:
        guest.wait_for("login: ")
        with socket.socket(socket.AF_UNIX) as serial:
            serial.connect(f"{tmp_path}/serial")
            serial.sendall(b"cirros\n")
            guest.wait_for("Password: ")
            serial.sendall(b"gocubsgo\n")
            guest.wait_for("$ ")
            serial.sendall(b"sudo id -u | sed 's/^/uid is /'\n")
            guest.wait_for("uid is 0")
            serial.sendall(b"sudo poweroff\n")
            assert guest.process.wait(20) == 0


@pytest.fixture
def namespace(tmp_path):
    """A network namespace with a bridge (10.77.0.1/24, metadata address) and dnsmasq; gone afterwards."""
    name = f"kgi-{os.getpid()}"
    processes = []
    run("ip", "netns", "del", name, check=False)
    run("ip", "netns", "add", name)
    try:
        for line in (
            "ip link set lo up",
            "ip link add br0 type bridge",
            "ip addr add 10.77.0.1/24 dev br0",
            "ip addr add 169.254.169.254/32 dev br0",
            "ip link set br0 up",
            "ip tuntap add tap0 mode tap",
            "ip link set tap0 master br0 up",
        ):
            run("ip", "netns", "exec", name, *line.split())
        yield name, processes
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait(10)
        run("ip", "netns", "del", name)


def test_dhcp_routes_mtu_dns_and_ec2_metadata(image, key, tmp_path, namespace):
    """RFC 3442 routes beat the router option, MTU and DNS are taken, and the EC2 paths serve as fallback."""
    name, processes = namespace
    inside = ["ip", "netns", "exec", name]
    pages = tmp_path / "pages/latest/meta-data/public-keys/0"
    pages.mkdir(parents=True)
    (pages / "openssh-key").write_text(key.with_suffix(".pub").read_text())
    (pages.parent / "index.html").write_text("0=k1\n")
    (pages.parents[1] / "instance-id").write_text("i-00000001")
    (pages.parents[1] / "hostname").write_text("ec2guest.kumo.internal")
    server = [sys.executable, "-m", "http.server", "80", "--bind", "169.254.169.254", "-d", tmp_path / "pages"]
    dhcp = [
        "dnsmasq",
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--port=0",
        "--interface=br0",
        "--bind-interfaces",
    ]
    dhcp += ["--dhcp-range=10.77.0.50,10.77.0.60,2m", "--dhcp-option=option:mtu,1380", "--dhcp-option=3,10.77.0.9"]
    dhcp += ["--dhcp-option=6,10.77.0.53", "--dhcp-option=15,kumo.internal", f"--dhcp-leasefile={tmp_path}/leases"]
    dhcp += ["--dhcp-option=121,0.0.0.0/0,10.77.0.1,169.254.169.254/32,10.77.0.1,192.0.2.0/24,0.0.0.0"]
    for command in (server, dhcp):
        output = (tmp_path / f"{Path(command[0]).name}.log").open("w")
        processes.append(subprocess.Popen([*inside, *map(str, command)], stdout=output, stderr=output))
    guest = Guest(image, tmp_path, key)
    guest.net = "tap,id=n,ifname=tap0,script=no,downscript=no"
    with guest.start(wrap=inside):
        guest.wait_for(f"{READY} ec2guest")
        address = wait_until(lambda: (tmp_path / "leases").read_text().split(), 5, "a lease")[2]
        flags = [
            "-i",
            key,
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "UserKnownHostsFile=/dev/null",
            "-o",
            "BatchMode=yes",
        ]
        command = "ip route; ip link show eth0; cat /etc/resolv.conf; ip -6 addr show eth0"
        seen = run(*inside, "ssh", *flags, f"cirros@{address}", command, timeout=30).stdout
    assert re.search(r"^default via 10\.77\.0\.1 dev eth0", seen, re.MULTILINE)
    assert re.search(r"^192\.0\.2\.0/24 dev eth0", seen, re.MULTILINE)
    assert "10.77.0.9" not in seen
    assert "mtu 1380" in seen
    assert "nameserver 10.77.0.53" in seen
    assert "search kumo.internal" in seen
    assert "fe80::" in seen


def test_module_order_and_boot_record_are_pure():
    """Dependencies come first, cycles of nothing end, unknown modules are named; the partition table is exact."""
    sys.path.insert(0, str(BUILDER.parent))
    try:
        assert importlib.util.find_spec("guest_build")
        from guest_build import disk, kernel_modules, packages
    finally:
        sys.path.remove(str(BUILDER.parent))
    depends = {"net": ["ring", "fail"], "fail": [], "ring": ["core"], "core": []}
    assert kernel_modules.choose_load_order(("net",), depends) == ["core", "ring", "fail", "net"]
    with pytest.raises(packages.BuildError, match="nothing_such"):
        kernel_modules.choose_load_order(("nothing-such",), depends)
    record = disk.build_boot_record(b"\xfa" * 600)
    assert len(record) == 512
    assert record[440:444] == b"OMUK"
    assert record[474:478] == (disk.ROOT_SIZE // 512).to_bytes(4, "little")
    assert record[510:] == b"\x55\xaa"


def test_needed_tools_are_here():
    """What these tests call beyond the role's packages."""
    assert not [tool for tool in ("busybox", "genisoimage", "dnsmasq", "ssh-keygen") if not shutil.which(tool)]
