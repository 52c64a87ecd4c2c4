"""What guests are made of, on this machine's libvirt: seen from inside, by isoinfo, and by virsh; gone afterwards."""

import base64
import hashlib
import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from libvirt_lab import Host, Serial, virsh, wait_for

EVERYTHING = {
    "ephemeral_gb": [1],
    "swap_mb": 16,
    "config_drive": True,
    "injected": {
        "files": [{"path": "/etc/motd", "contents": base64.b64encode(b"injected-canary").decode()}],
        "admin_pass": "pass-canary",
    },
    # The guest's kernel has no driver for q35's own SATA.
    "hardware": {"machine": "q35", "cdrom_bus": "scsi", "guest_agent": True, "watchdog": "pause"},
}
# Runs at each start, since it takes away the mark that it has run.
SCRIPT = """#!/bin/sh
mkdir -p /mnt/e
mount -t ext4 "$(findfs LABEL=ephemeral0)" /mnt/e && echo start >>/mnt/e/starts
swapon /dev/vdc
echo "MADE chipset $(cat /sys/bus/pci/devices/0000:00:00.0/device)"
echo "MADE ephemeral $(cat /sys/block/vdb/size) $(grep -c start /mnt/e/starts)"
echo "MADE swap $(awk '/vdc/ { print $3 }' /proc/swaps)"
echo "MADE agent $(cat /sys/class/virtio-ports/*/name)"
echo "MADE file $(cat /run/kumo/config-drive/openstack/content/0000)"
umount /mnt/e
rm -f /var/lib/kumo/user-data-done
echo "MADE end"
"""
# 16-bit code that says so on the serial port and halts (Intel's manual, volume 2): a disk's first sector, or a CD's.
SECTOR = bytes.fromhex("31c08ed8be157cbaf803ac84c07403eeebf8f4ebfd") + b"KUMO-ISO-BOOTED\r\n\0"


@pytest.fixture
def host(libvirt_host, guest_image, state_dir, bridge):
    return Host(state_dir, bridge)


def verbs(result: dict) -> list[str]:
    return [action["verb"] for action in result["actions"]]


def read_log(host) -> str:
    path = host.directory / "console.log"
    return path.read_text(errors="replace") if path.exists() else ""


def look_from_inside(host, since: int = 0) -> str:
    """What is on the console since that many characters, once the guest has found its CD-ROM and run the script.

    Logs in on the serial console to load drivers: nothing in the guest's image does for a CD-ROM on SCSI.
    """
    wait_for("the guest asks for a login", lambda: "login:" in read_log(host)[since:], seconds=90)
    with Serial(host.name) as stream:
        stream.write(b"\n")
        for prompt, line in (
            ("login:", b"cirros\n"),
            ("assword:", b"gocubsgo\n"),
            ("$", b"sudo modprobe -a virtio_scsi sr_mod\n"),
        ):
            wait_for(f"the prompt {prompt}", lambda p=prompt: p in read_log(host)[since:].splitlines()[-1], 30)
            stream.write(line)
    wait_for("the script of its user data ends", lambda: "MADE end" in read_log(host)[since:], 60)
    return read_log(host)[since:]


def parse_made(log: str) -> dict[str, str]:
    """What the guest said of each thing."""
    return dict(re.findall(r"^MADE (\w+) (.+)$", log, re.M))


def read_iso(path: Path, name: str) -> bytes:
    """A file of an ISO, by Rock Ridge's names, read by a program that did not make it."""
    return subprocess.check_output(["isoinfo", "-R", "-i", path, "-x", name])


def test_a_guest_of_everything(host):
    """Disks and drive are seen from inside, outlive a stop, and are gone with the guest; the drive follows metadata."""
    facts = {
        "uuid": host.id,
        "hostname": "web1",
        "name": "web1",
        "user_data": base64.b64encode(SCRIPT.encode()).decode(),
    }
    made = host.call(metadata=facts, **EVERYTHING)
    assert verbs(made) == ["fetch", "create", "start"]
    assert "canary" not in json.dumps(made)
    assert verbs(host.call()) == []
    drive = host.directory / "disk.config"
    listing = subprocess.check_output(["isoinfo", "-d", "-i", drive], text=True)
    assert "Volume id: config-2" in listing
    data = json.loads(read_iso(drive, "/openstack/latest/meta_data.json"))
    assert (data["hostname"], data["admin_pass"]) == ("web1", "pass-canary")
    assert read_iso(drive, "/openstack/latest/user_data") == SCRIPT.encode()
    network = json.loads(read_iso(drive, "/openstack/latest/network_data.json"))
    assert network["links"][0]["vif_id"] == host.port
    log = look_from_inside(host)
    assert "KUMO-GUEST-READY web1" in log
    assert parse_made(log) == {
        "chipset": "0x29c0", "ephemeral": f"{(1 << 30) // 512} 1", "swap": str((16 << 10) - 4),
        "agent": "org.qemu.guest_agent.0", "file": "injected-canary",
    }  # fmt: skip

    before = drive.stat().st_ino
    host.settle(power="off")
    since = len(read_log(host))
    facts["hostname"] = "web2"
    assert verbs(host.call(power="on")) == ["start"]
    assert drive.stat().st_ino != before
    log = look_from_inside(host, since)
    assert "KUMO-GUEST-READY web2" in log
    assert parse_made(log)["ephemeral"].endswith(" 2")
    running = drive.stat().st_ino
    facts["hostname"] = "web3"
    assert verbs(host.call()) == []
    assert drive.stat().st_ino == running

    assert verbs(host.call(wanted="absent")) == ["remove"]
    assert virsh("domstate", host.name).returncode != 0
    assert not host.directory.exists()
    assert list((host.state_dir / "servers").iterdir()) == []


def test_an_iso_is_booted_from(host, tmp_path):
    """The CD-ROM starts, though there is a disk: an empty one of the flavor's size."""
    folder, iso = tmp_path / "iso", host.state_dir / "boot.iso"
    folder.mkdir()
    (folder / "boot.bin").write_bytes(SECTOR.ljust(2048, b"\0"))
    quiet = ["genisoimage", "-quiet", "-b", "boot.bin", "-no-emul-boot", "-boot-load-size", "4"]
    subprocess.run([*quiet, "-o", iso, folder], check=True, stderr=subprocess.DEVNULL)
    image = host.document["images"][0]
    image |= {"disk_format": "iso", "source": {"path": str(iso)}, "size": iso.stat().st_size}
    image["checksum"] = f"sha512:{hashlib.sha512(iso.read_bytes()).hexdigest()}"
    assert verbs(host.call(iso=True)) == ["fetch", "create", "start"]
    wait_for("the CD-ROM's own code runs", lambda: "KUMO-ISO-BOOTED" in read_log(host), seconds=60)
    assert verbs(host.call()) == []
    disks = virsh("domblklist", host.name, "--details").stdout
    assert re.search(r"disk\s+vda\s+\S+/disk\n", disks)
    assert re.search(r"cdrom\s+hda\s+\S+/images/", disks)
    described = json.loads(
        subprocess.check_output(["qemu-img", "info", "-U", "-f", "qcow2", "--output=json", host.directory / "disk"])
    )
    assert described["virtual-size"] == 1 << 30
    assert "backing-filename" not in described
    host.call(wanted="absent")
    assert oct((host.state_dir / "images" / image["id"]).stat().st_mode & 0o777) == "0o444"


LOCAL = {"ephemeral_gb": [1, 1], "ephemeral_formats": ["ext4", "ext4"], "swap_mb": 1, "config_drive": True}
VARIANTS = [
    {"disk_bus": "scsi"},
    {"disk_bus": "scsi", "scsi_model": "lsilogic", "cdrom_bus": "scsi", "vif_model": "rtl8139"},
    {"disk_bus": "sata", "video_model": "cirrus", "vif_model": "e1000"},
    {"machine": "q35", "disk_bus": "sata", "vif_model": "e1000e", "video_model": "virtio", "watchdog": "none"},
    {"machine": "q35", "video_model": "bochs", "guest_agent": True, "watchdog": "poweroff"},
    {"video_model": "none", "watchdog": "reset", "cdrom_bus": "sata"},
]


def test_each_choice_of_hardware_starts(host):
    """QEMU runs each, libvirt's own form of it is no difference, and going from one to the next is one redefinition."""
    host.document["settings"]["stop_timeout_s"] = 1
    host.call(power="off", metadata={"uuid": host.id}, **LOCAL)
    for given in VARIANTS:
        changed = verbs(host.call(power="on", stop={"graceful": False}, hardware=given))
        assert changed == ["redefine", "start"], given
        assert host.state() == "running", given
        assert verbs(host.call()) == [], given
        assert verbs(host.call(power="off")) == ["destroy"], given
        assert verbs(host.call()) == [], given
    # IDE has room for four: with the config drive one ephemeral disk and the root, and swap.
    fewer = {"ephemeral_gb": [1], "ephemeral_formats": [], "hardware": {"disk_bus": "ide"}}
    assert verbs(host.call(power="on", **fewer)) == ["redefine", "start"]
    assert verbs(host.call()) == []
    host.call(power="off")
    seen = host.try_call(power="on", hardware={"firmware": "uefi"})["objects"]["servers"][host.id]
    if os.path.exists("/usr/share/OVMF/OVMF_CODE_4M.fd"):
        assert host.state() == "running"
        assert verbs(host.call()) == []
    else:
        assert "package ovmf" in seen["error"]
    host.call(wanted="absent")
    assert not host.directory.exists()
