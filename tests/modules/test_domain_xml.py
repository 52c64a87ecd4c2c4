"""A server as a domain: what comes out, that text stays text, and that libvirt's own form of it compares equal."""

from pathlib import Path
from xml.etree import ElementTree

import pytest
from ansible.module_utils.kumo import domain_xml, names, server_rows
from ansible.module_utils.kumo.errors import KumoError

S = "aaaaaaaa-0000-4000-8000-000000000001"
I = "aaaaaaaa-0000-4000-8000-000000000002"  # noqa: E741
P = "aaaaaaaa-0000-4000-8000-000000000003"
N = "aaaaaaaa-0000-4000-8000-000000000004"
DIRECTORY = Path("/state/servers") / S
BASE = {"path": f"/state/images/{I}", "driver": "raw"}
DOCUMENT = {
    "ports": [{"id": P, "network": N, "mac": "FA:16:3E:00:00:01", "security_groups": [I]}],
    "networks": [{"id": N, "mtu": 1450}],
}


def build(virt_type="qemu", **changes):
    server = server_rows.parse_server({"id": S, "project_id": "p1", "image": I, "ports": [P], **changes})
    return domain_xml.build_domain(server, domain_xml.build_nics(DOCUMENT, server), DIRECTORY, BASE, virt_type)


def test_domain_of_a_server():
    """The owned parts, one by one."""
    owned = domain_xml.parse_owned(build(vcpus=2, memory_mb=512))
    assert owned == {
        "type": "qemu",
        "name": f"kumo-{S}",
        "uuid": S,
        "server": S,
        "project": "p1",
        "memory_kib": 524288,
        "vcpus": 2,
        "machine": "pc",
        "firmware": None,
        "boot": ["hd"],
        "cpu": ["maximum", None],
        "acpi": True,
        "events": ["destroy", "restart", "destroy"],
        "disks": [
            {
                "device": "disk",
                "driver": "qcow2",
                "file": f"/state/servers/{S}/disk",
                "target": "vda",
                "bus": "virtio",
                "base": f"/state/images/{I}",
                "base_driver": "raw",
            }
        ],
        "nics": [
            {
                "mac": "fa:16:3e:00:00:01",
                "bridge": names.build_bridge_name(N),
                "tap": names.build_tap_name(P),
                "model": "virtio",
                "mtu": 1450,
                "link": "up",
            }
        ],
        "console": f"/state/servers/{S}/console.log",
        "serial": ["tcp", "127.0.0.1"],
        "vnc": "127.0.0.1",
        "video": "vga",
        "scsi": None,
        "watchdog": None,
        "agent": False,
        "rng": "/dev/urandom",
        "balloon": "virtio",
    }
    assert domain_xml.parse_owned(build(virt_type="kvm"))["cpu"] == ["host-model", None]


def test_libvirt_s_form_compares_equal():
    """Addresses, aliases, a machine's version and devices of libvirt's own do not make a difference."""
    ours = build()
    theirs = domain_xml.parse_xml(domain_xml.build_text(ours).replace('machine="pc"', 'machine="pc-i440fx-7.2"'))
    for device in theirs.find("devices"):
        ElementTree.SubElement(device, "address", type="pci", slot="0x05")
        ElementTree.SubElement(device, "alias", name="x")
    for link in theirs.findall("devices/interface/link"):
        link.attrib.clear()  # libvirt leaves out a link that is up
    ElementTree.SubElement(theirs.find("devices"), "controller", type="pci", model="pci-root")
    assert domain_xml.parse_owned(theirs) == domain_xml.parse_owned(ours)


@pytest.mark.parametrize(
    "changes", [{"vcpus": 3}, {"memory_mb": 65}, {"ports": []}, {"project_id": "p2"}, {"virt_type": "kvm"}]
)
def test_a_change_is_seen(changes):
    """What the document changes makes the definitions differ."""
    assert domain_xml.parse_owned(build(**changes)) != domain_xml.parse_owned(build())


def test_s05_formats_are_said_in_full():
    """The chain is closed below the image, so nothing is ever probed; the shared image keeps its owner."""
    disk = build().find("devices/disk")
    assert disk.find("driver").get("type") == "qcow2"
    assert disk.find("backingStore/format").get("type") == "raw"
    assert list(disk.find("backingStore/backingStore")) == []
    assert disk.find("backingStore/source/seclabel").get("relabel") == "no"


def test_s31_entities_are_refused():
    """No document type is ever read."""
    with pytest.raises(KumoError, match="document type"):
        domain_xml.parse_xml('<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>')


def test_s35_names_never_reach_the_definition():
    """A server's name, metadata and user data are in no part of the domain, whatever they hold."""
    text = domain_xml.build_text(build(name="</name><evil/>\n\x00", metadata={"user_data": "CANARY"}))
    assert "evil" not in text
    assert "CANARY" not in text


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"project_id": "<evil/>"}, "project_id"),
        ({"power": "maybe"}, "power"),
        ({"reboot": {"wanted": 1, "type": "WARM"}}, "reboot.type"),
        ({"reboot": {"wanted": -1}}, "reboot.wanted"),
        ({"start": {"wanted": "1"}}, "start.wanted"),
        ({"stop": {"graceful": 1}}, "stop.graceful"),
        ({"vcpus": 0}, "vcpus"),
        ({"vcpus": True}, "vcpus"),
        ({"memory_mb": "64"}, "memory_mb"),
        ({"root_gb": -1}, "root_gb"),
        ({"image": "../../etc/passwd"}, "image"),
        ({"image": None}, "image"),
        ({"ports": ["x"]}, "ports"),
        ({"ports": [S]}, "port"),
    ],
)
def test_bad_fields_are_named(changes, named):
    """Each refusal names its field and the server."""
    with pytest.raises(KumoError, match=named):
        build(**changes)


@pytest.mark.parametrize(
    ("port", "named"),
    [({"mac": "fa:16"}, "mac"), ({"network": S}, "network")],
)
def test_bad_ports_are_named(port, named):
    """A port that cannot be plugged in is named with its field."""
    document = {**DOCUMENT, "ports": [{**DOCUMENT["ports"][0], **port}]}
    server = server_rows.parse_server({"id": S, "image": I, "ports": [P]})
    with pytest.raises(KumoError, match=named):
        domain_xml.build_nics(document, server)
