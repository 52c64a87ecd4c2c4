"""What a guest is made of beside its image: disks, CD-ROMs, hardware, a config drive, as tables."""

import base64
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from ansible.module_utils.kumo import (
    config_drive,
    core,
    disks,
    domain_xml,
    extra_disks,
    guest_hardware,
    guests,
    outgoing,
    server_rows,
)
from ansible.module_utils.kumo.errors import KumoError

from web.desired import document as schema
from web.models import hardware

S = "aaaaaaaa-0000-4000-8000-000000000001"
I = "aaaaaaaa-0000-4000-8000-000000000002"  # noqa: E741
P = "aaaaaaaa-0000-4000-8000-000000000003"
N = "aaaaaaaa-0000-4000-8000-000000000004"
DIRECTORY = Path("/state/servers") / S
BASE = {"path": f"/state/images/{I}", "driver": "qcow2"}
DOCUMENT = {
    "ports": [{"id": P, "network": N, "mac": "FA:16:3E:00:00:01"}],
    "networks": [{"id": N, "mtu": 1450}],
}
VOLUME = {
    "attachment": S, "volume": I, "device": "vdd", "portal": "10.0.0.1:3260", "iqn": "iqn.2025-01.kumo:x", "lun": 1,
    "username": "u", "password": "p", "size_gb": 1,
}  # fmt: skip


def parse(**changes):
    return server_rows.parse_server({"id": S, "project_id": "p1", "image": I, "ports": [P], "root_gb": 1, **changes})


def build(**changes):
    server = parse(**changes)
    return domain_xml.build_domain(server, domain_xml.build_nics(DOCUMENT, server), DIRECTORY, BASE, "qemu")


def list_disks(tree) -> list[str]:
    """Each disk as "device bus:target file", where it is a file."""
    rows = domain_xml.parse_owned(tree)["disks"]
    return [
        f"{one['device']} {one['bus']}:{one['target']} {Path(one['file']).name}" if "file" in one else one["target"]
        for one in rows
    ]


ALL = {"ephemeral_gb": [1, 2], "ephemeral_formats": ["ext4", "vfat"], "swap_mb": 64, "config_drive": True}
DISKS = {
    # name: (changes, disks)
    "a root disk": ({}, ["disk virtio:vda disk"]),
    "all, and a volume": (
        {**ALL, "volumes": [{**VOLUME, "device": "vde"}]},
        ["disk virtio:vda disk", "disk virtio:vdb disk.eph0", "disk virtio:vdc disk.eph1", "disk virtio:vdd disk.swap",
         "vde", "cdrom ide:hda disk.config"],
    ),
    "swap alone": ({"swap_mb": 1}, ["disk virtio:vda disk", "disk virtio:vdb disk.swap"]),
    "SCSI": (
        {**ALL, "hardware": {"disk_bus": "scsi", "cdrom_bus": "scsi"}},
        ["disk scsi:sda disk", "disk scsi:sdb disk.eph0", "disk scsi:sdc disk.eph1", "disk scsi:sdd disk.swap",
         "cdrom scsi:sde disk.config"],
    ),
    "SCSI with a volume": (
        {"hardware": {"disk_bus": "scsi"}, "volumes": [{**VOLUME, "device": "vdb"}]}, ["disk scsi:sda disk", "vdb"],
    ),
    "IDE": (
        {"ephemeral_gb": [1], "config_drive": True, "hardware": {"disk_bus": "ide"}},
        ["disk ide:hda disk", "disk ide:hdb disk.eph0", "cdrom ide:hdc disk.config"],
    ),
    "q35": ({"config_drive": True, "hardware": {"machine": "q35"}},
            ["disk virtio:vda disk", "cdrom sata:sda disk.config"]),
    "SATA on q35": ({"config_drive": True, "hardware": {"machine": "q35", "disk_bus": "sata"}},
                    ["disk sata:sda disk", "cdrom sata:sdb disk.config"]),
    "an ISO": ({"iso": True, "config_drive": True},
               ["disk virtio:vda disk", f"cdrom ide:hda {I}", "cdrom ide:hdb disk.config"]),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "disks"), DISKS.values(), ids=DISKS.keys())
def test_disks_of_a_guest(changes, disks):
    """Names go on from disk to disk, no two are one, and every chain says where it ends."""
    tree = build(**changes)
    assert list_disks(tree) == disks
    for disk in tree.findall("devices/disk[@type='file'][@device='disk']"):
        chain = disk.find("backingStore")
        below = f"/state/images/{I}" if disk.find("source").get("file").endswith("/disk") else None
        if "iso" in changes:
            below = None
        assert (chain.find("source").get("file") if list(chain) else None) == below
    for cdrom in tree.findall("devices/disk[@device='cdrom']"):
        assert cdrom.find("readonly") is not None
        assert cdrom.find("driver").get("type") == "raw"


def test_root_volume_comes_first():
    server = parse(image=None, ephemeral_gb=[1], volumes=[VOLUME, {**VOLUME, "device": "vda", "boot_index": 0}])
    assert list_disks(domain_xml.build_domain(server, [], DIRECTORY, None, "qemu")) == [
        "vda",
        "disk virtio:vdb disk.eph0",
        "vdd",
    ]


HARDWARE = {
    # name: (hardware, what parse_owned says of it)
    "NIC e1000": ({"vif_model": "e1000"}, {"model": "e1000"}),
    "NIC e1000e": ({"vif_model": "e1000e", "machine": "q35"}, {"model": "e1000e", "machine": "q35"}),
    "NIC rtl8139": ({"vif_model": "rtl8139"}, {"model": "rtl8139"}),
    "video virtio": ({"video_model": "virtio"}, {"video": "virtio"}),
    "video cirrus": ({"video_model": "cirrus"}, {"video": "cirrus"}),
    "video bochs": ({"video_model": "bochs"}, {"video": "bochs"}),
    "no video": ({"video_model": "none"}, {"video": "none"}),
    "q35": ({"machine": "q35"}, {"machine": "q35"}),
    "UEFI": ({"firmware": "uefi"}, {"firmware": domain_xml.UEFI_CODE}),
    "watchdog": ({"watchdog": "reset"}, {"watchdog": "reset"}),
    "guest agent": ({"guest_agent": True}, {"agent": True}),
    "SCSI": ({"disk_bus": "scsi"}, {"scsi": "virtio-scsi"}),
    "LSI": ({"disk_bus": "scsi", "scsi_model": "lsilogic"}, {"scsi": "lsilogic"}),
}


@pytest.mark.parametrize(("given", "expected"), HARDWARE.values(), ids=HARDWARE.keys())
def test_hardware_of_a_guest(given, expected):
    """Each choice is in the definition, and is seen as a difference from a guest without it."""
    owned, plain = domain_xml.parse_owned(build(hardware=given)), domain_xml.parse_owned(build())
    said = {**owned, "model": owned["nics"][0]["model"]}
    assert {name: said[name] for name in expected} == expected
    assert owned != plain


def test_an_iso_boots_before_the_disk():
    assert domain_xml.parse_owned(build(iso=True))["boot"] == ["cdrom", "hd"]
    assert domain_xml.parse_owned(build(config_drive=True))["boot"] == ["hd"]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"hardware": {"disk_bus": "usb"}}, "hardware.disk_bus"),
        ({"hardware": {"guest_agent": 1}}, "hardware.guest_agent"),
        ({"hardware": {"colour": "red"}}, "hardware.colour"),
        ({"hardware": []}, None),
        ({"hardware": "x"}, "hardware"),
        ({"ephemeral_gb": [0]}, "ephemeral_gb"),
        ({"ephemeral_gb": ["1"]}, "ephemeral_gb"),
        ({"ephemeral_gb": [1], "ephemeral_formats": ["ntfs"]}, "ephemeral_formats"),
        ({"ephemeral_gb": [1], "ephemeral_formats": ["ext4", "ext4"]}, "ephemeral_formats"),
        ({"swap_mb": -1}, "swap_mb"),
        ({"config_drive": "yes"}, "config_drive"),
        ({"iso": 1}, "iso"),
        ({"ephemeral_gb": [1] * 26}, "at most 26 disks"),
    ],
)
def test_bad_fields_are_named(changes, named):
    with pytest.raises(KumoError, match=named or "hardware must"):
        build(**changes)


def test_both_sides_know_the_same_hardware():
    """The API's table is the host's, and the document's."""
    assert hardware.CHOICES == guest_hardware.CHOICES
    choices = {name: tuple(one.get("enum", (False, True))) for name, one in schema.HARDWARE.items()}
    assert choices == hardware.CHOICES
    assert hardware.PREFIXES == guest_hardware.PREFIXES
    for given in ({}, {"disk_bus": "scsi"}, {"disk_bus": "ide"}):
        server = parse(ephemeral_gb=[1, 1], swap_mb=1, hardware=given)
        theirs = [row["target"] for row in guest_hardware.build_local_disks(server, True)]
        assert list(hardware.build_devices(given, 2, True).values()) == theirs


def test_a_live_move_names_the_root_disk():
    """With another bus the root disk has another name."""
    order = {"migration": S, "kind": "live", "address": "10.0.0.9"}
    server = parse(outgoing=order, hardware={"disk_bus": "scsi"})
    words = outgoing.build_send(server)
    assert words[words.index("--migrate-disks") + 1] == "sda"


def test_formats_of_ephemeral_disks():
    """Each has its size, its label and its tool; no size or label comes from a user's text."""
    wanted = extra_disks.build_wanted(parse(**ALL))
    assert [(one["file"], one["size"], one["format"], one["label"]) for one in wanted] == [
        ("disk.eph0", 1 << 30, "ext4", "ephemeral0"),
        ("disk.eph1", 2 << 30, "vfat", "ephemeral1"),
        ("disk.swap", 64 << 20, "swap", "swap"),
    ]
    assert extra_disks.build_format("vfat", "ephemeral1", Path("/x")) == ["mkfs.vfat", "-n", "ephemeral1", "/x"]
    assert extra_disks.build_format("ext4", "ephemeral0", Path("/x"))[:5] == [
        "mkfs.ext4", "-q", "-F", "-L", "ephemeral0",
    ]  # fmt: skip


def test_ephemeral_disks_are_made_once(tmp_path, monkeypatch):
    """Formatted, whole or not there, and never over what is there; a lost one is told."""
    server = parse(ephemeral_gb=[1], swap_mb=2)
    extra_disks.apply_extra(server, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk.eph0", "disk.swap"]
    for name, at, magic in (("disk.eph0", 0x438, b"\x53\xef"), ("disk.swap", 4086, b"SWAPSPACE2")):
        disks.run_qemu_img("convert", "-f", "qcow2", "-O", "raw", str(tmp_path / name), str(tmp_path / "raw"))
        with open(tmp_path / "raw", "rb") as stream:
            stream.seek(at)
            assert stream.read(len(magic)) == magic
        (tmp_path / "raw").unlink()
    before = (tmp_path / "disk.eph0").stat().st_mtime_ns
    extra_disks.apply_extra(server, tmp_path)
    assert (tmp_path / "disk.eph0").stat().st_mtime_ns == before
    (tmp_path / "disk.swap").unlink()
    assert extra_disks.find_lost(server, tmp_path) == ["disk.swap"]
    monkeypatch.setattr(extra_disks, "build_format", lambda *_: ["false"])
    with pytest.raises(KumoError, match="false failed"):
        extra_disks.apply_extra(server, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["disk.eph0"]


def test_a_missing_tool_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(extra_disks, "build_format", lambda *_: ["mkfs.vfat", "-n"])
    monkeypatch.setattr(extra_disks.os, "environ", {"PATH": "/nowhere"})
    monkeypatch.setattr(extra_disks.subprocess, "run", _raise_not_found)
    with pytest.raises(KumoError, match="dosfstools"):
        extra_disks.apply_extra(parse(ephemeral_gb=[1]), tmp_path)


def _raise_not_found(*_, **__):
    raise FileNotFoundError


def test_an_iso_needs_a_disk():
    assert disks.choose_size({"id": S, "image": I, "root_gb": 2, "iso": True}, 9 << 30) == 2 << 30
    with pytest.raises(KumoError, match="no disk"):
        disks.choose_size({"id": S, "image": I, "root_gb": 0, "iso": True}, 9 << 30)


def build_document(**row):
    return core.parse_document(
        {
            "version": 1,
            "networks": [
                {"id": N, "mtu": 1450, "segmentation": {"type": "local"}, "subnets": [
                    {"id": N, "ip_version": 4, "cidr": "10.0.0.0/24", "gateway_ip": "10.0.0.1", "dhcp": False}
                ]}
            ],
            "ports": [{"id": P, "network": N, "mac": "fa:16:3e:00:00:01", "addresses": ["10.0.0.5"]}],
            "servers": [
                {
                    "id": S, "image": I, "ports": [P], "config_drive": True,
                    "metadata": {
                        "uuid": S, "hostname": "web1", "user_data": base64.b64encode(b"\x00user").decode(),
                        "keys": [{"name": "k", "type": "ssh", "data": "ssh-ed25519 AAAA"}],
                    },
                    **row,
                }
            ],
        }
    )  # fmt: skip


INJECTED = {
    "files": [{"path": "/etc/../motd", "contents": base64.b64encode(b"\xffhello").decode()}],
    "admin_pass": "canary-pass",
}


def test_tree_of_a_config_drive():
    """All that the service says in every version of the format, files by number, and the password."""
    document = build_document(injected=INJECTED)
    tree = config_drive.build_tree(config_drive.build_content(document, document["servers"][0]))
    data = json.loads(tree["openstack/latest/meta_data.json"])
    assert (data["uuid"], data["hostname"], data["admin_pass"]) == (S, "web1", "canary-pass")
    assert data["files"] == [{"content_path": "/content/0000", "path": "/etc/../motd"}]
    assert tree["openstack/content/0000"] == b"\xffhello"
    assert tree["openstack/latest/user_data"] == tree["ec2/latest/user-data"] == b"\x00user"
    network = json.loads(tree["openstack/latest/network_data.json"])
    assert network["networks"][0]["ip_address"] == "10.0.0.5"
    assert "openstack/2012-08-10/meta_data.json" in tree
    assert "openstack/2012-08-10/network_data.json" not in tree
    assert tree["openstack/latest/vendor_data.json"] == b"{}"
    ec2 = json.loads(tree["ec2/latest/meta-data.json"])
    assert ec2["public-keys"]["0"] == {"_name": "0=k", "openssh-key": "ssh-ed25519 AAAA\n"}
    # The service never tells these, to whatever guest.
    assert "canary" not in json.dumps(config_drive.metadata.build_content(document, document["servers"][0]))
    assert all(not name.startswith("/") and ".." not in name for name in tree)


def test_config_drive_is_written_when_it_changed(tmp_path):
    """Once, and again where what it says has changed; an ISO labelled config-2, root's alone."""
    for row, written in (({}, True), ({}, False), ({"injected": INJECTED}, True), ({"injected": INJECTED}, False)):
        document = build_document(**row)
        server = server_rows.parse_server(document["servers"][0])
        before = (tmp_path / "disk.config").stat().st_ino if (tmp_path / "disk.config").exists() else None
        config_drive.apply_drive(document, server, tmp_path)
        assert ((tmp_path / "disk.config").stat().st_ino != before) is written
    assert sorted(path.name for path in tmp_path.iterdir()) == [".config.sha256", "disk.config"]
    drive = tmp_path / "disk.config"
    assert drive.stat().st_mode & 0o777 == 0o600
    assert drive.read_bytes()[32768:].startswith(b"\x01CD001")
    assert drive.read_bytes()[32808:32816] == b"config-2"
    config_drive.apply_drive(document, {**server, "id": S, "config_drive": False}, tmp_path / "none")


def test_libvirt_s_form_compares_equal():
    """With all of it at once: a version of the machine, addresses, and devices of libvirt's own make no difference."""
    ours = build(**ALL, hardware={"machine": "q35", "guest_agent": True, "watchdog": "pause", "cdrom_bus": "scsi"})
    text = domain_xml.build_text(ours).replace('machine="q35"', 'machine="pc-q35-7.2"')
    theirs = domain_xml.parse_xml(text)
    for device in theirs.find("devices"):
        ElementTree.SubElement(device, "address", type="pci", slot="0x05")
    ElementTree.SubElement(theirs.find("devices"), "controller", type="virtio-serial", index="0")
    ElementTree.SubElement(theirs.find("devices"), "watchdog", model="itco", action="reset")
    assert domain_xml.parse_owned(theirs) == domain_xml.parse_owned(ours)


def test_what_a_start_needs_of_the_host(monkeypatch):
    monkeypatch.setattr(domain_xml, "UEFI_CODE", "/nowhere")
    with pytest.raises(KumoError, match="ovmf"):
        guests._check_firmware(parse(hardware={"firmware": "uefi"}))
