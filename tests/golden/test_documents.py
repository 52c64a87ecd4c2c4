"""Rows in, host document out: each case's document is a file beside this one, to be read by people.

``KUMO_WRITE_GOLDEN=1 pytest tests/golden`` writes them anew; read the difference before you commit it.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import jsonschema
import pytest
import yaml

from web.desired import Rows, build_document
from web.desired.document import SCHEMA
from web.desired.rows import FarPort
from web.models import (
    Address,
    FloatingIP,
    Host,
    Image,
    Network,
    Port,
    Router,
    SecurityGroup,
    SecurityGroupRule,
    Server,
    ServerImage,
    Subnet,
    Volume,
    VolumeAttachment,
    host_images,
)
from web.settings import build_settings

FOLDER = Path(__file__).parent / "documents"
AT = datetime(2026, 1, 2, tzinfo=UTC)


def uid(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012d}"


def base(**more) -> dict:
    return {"project_id": "p1", "name": "", "description": "", "tags": [], "created_at": AT, **more}


def make_host() -> Host:
    return Host(id=uid(1), name="node1", zone="nova", roles=["hypervisor"], generation=7, settings={})


def make_server(number: int, **more) -> Server:
    values = {
        "number": number, "id": uid(number), "project_id": "p1", "name": f"web{number}", "hostname": f"web{number}",
        "host_id": uid(1), "reservation_id": "r-00000001", "launch_index": 0, "image_id": uid(2), "power": "on",
        "reboot_wanted": 0, "reboot_type": "SOFT", "start_wanted": 0, "stop_graceful": True, "console_wanted": 0,
        "observed_console_done": 0, "metadata_": {"role": "{{ 7*7 }}"}, "key_name": "k1", "key_type": "ssh",
        "key_data": "ssh-ed25519 AAAA", "user_data": None,
        "flavor": {"name": "m1.nano", "vcpus": 1, "ram_mb": 128, "disk_gb": 1},
    }  # fmt: skip
    return Server(**{**values, **more})


def make_image() -> Image:
    return Image(
        id=uid(2), size=10, virtual_size=20, disk_format="qcow2", os_hash_algo="sha512", os_hash_value="ab",
        checksum="cd",
    )  # fmt: skip


def make_network(number: int, external: bool = False, **more) -> tuple[Network, Subnet]:
    values = {"mtu": 1500, "network_type": "local", "zone": number, "external": external, **more}
    network = Network(id=uid(number), **base(**values))
    subnet = Subnet(
        id=uid(number + 1), network_id=network.id, ip_version=4, cidr=f"10.0.{number}.0/24", enable_dhcp=not external,
        gateway_ip=f"10.0.{number}.1", dns_nameservers=[], host_routes=[], **base(),
    )  # fmt: skip
    return network, subnet


def make_port(number: int, network: Network, subnet: Subnet, address: str, **more) -> Port:
    values = {
        "mac_address": f"fa:16:3e:00:00:{number:02x}", "admin_state_up": True, "device_id": "", "device_owner": "",
        "device_index": 0, "port_security_enabled": True, "allowed_address_pairs": [], "extra_dhcp_opts": [],
        "dns_name": "", "network_id": network.id,
    }  # fmt: skip
    port = Port(id=uid(number), **base(**{**values, **more}))
    port.addresses = [Address(subnet_id=subnet.id, address=address)]
    return port


def build_alone() -> Rows:
    """One guest on a network with no router; another one is to go."""
    network, subnet = make_network(10)
    rows = Rows(make_host(), servers=[make_server(30), make_server(31, deleted_at=AT)], images=[make_image()])
    rows.networks, rows.subnets = [network], {network.id: [subnet]}
    rows.ports = [make_port(40, network, subnet, "10.0.10.5", device_id=uid(30), device_owner="compute:nova")]
    return rows


def build_routed() -> Rows:
    """A guest behind a router with a floating address; a group that names itself; what a user asked."""
    rows = build_alone()
    (network,), subnet = rows.networks, rows.subnets[rows.networks[0].id][0]
    public, public_subnet = make_network(20, external=True, network_type="flat", physical_network="public")
    rows.networks.append(public)
    rows.subnets[public.id] = [public_subnet]
    rows.routers = [
        Router(id=uid(50), admin_state_up=True, gateway_network_id=public.id, enable_snat=True, routes=[], **base())
    ]
    rows.router_ports = [
        make_port(51, network, subnet, "10.0.10.1", device_id=uid(50), device_owner="network:router_interface"),
        make_port(52, public, public_subnet, "10.0.20.9", device_id=uid(50), device_owner="network:router_gateway"),
    ]
    rows.floating_ips = [
        FloatingIP(
            id=uid(60), network_id=public.id, address="10.0.20.30", port_id=uid(40), fixed_address="10.0.10.5",
            router_id=uid(50), **base(),
        )
    ]  # fmt: skip
    group = SecurityGroup(id=uid(70), stateful=True, **base(name="default"))
    group.rules = [
        SecurityGroupRule(
            id=uid(71), direction="ingress", ethertype="IPv4", protocol="tcp", port_range_min=22, port_range_max=22,
            **base(),
        ),
        SecurityGroupRule(id=uid(72), direction="ingress", ethertype="IPv4", remote_group_id=uid(70), **base()),
    ]  # fmt: skip
    rows.groups, rows.group_addresses = [group], {group.id: ["10.0.10.9", "10.0.10.5", "fd00::5"]}
    rows.ports[0].security_groups = [group]
    rows.ports[0].allowed_address_pairs = [{"ip_address": "10.0.10.99"}]
    rows.ports[0].extra_dhcp_opts = [{"opt_name": "tftp-server", "opt_value": "10.0.10.7", "ip_version": 4}]
    server = rows.servers[0]
    server.power, server.reboot_wanted, server.start_wanted = "off", 2, 3
    server.console_wanted, server.console_lines = 4, 50
    return rows


def build_second_host() -> Rows:
    """The routed case as another host sees it: a VXLAN network with its guest far away, one that moves, own leg."""
    rows = build_routed()
    (network, public), subnet = rows.networks, rows.subnets[uid(10)][0]
    rows.host = Host(id=uid(3), name="node2", zone="nova", roles=["hypervisor"], generation=8)
    rows.host.settings = {"tunnel_address": "10.77.0.2"}
    network.network_type, network.segmentation_id, network.mtu = "vxlan", 77, 1450
    trunk, trunk_subnet = make_network(80, network_type="vlan", physical_network="trunk", segmentation_id=5)
    rows.networks.append(trunk)
    rows.subnets[trunk.id] = [trunk_subnet]
    rows.router_ports[1] = make_port(
        53, public, rows.subnets[public.id][0], "10.0.20.10", device_id=uid(50), host_id=uid(3),
        device_owner="network:router_host_gateway",
    )  # fmt: skip
    rows.router_ports.append(
        make_port(54, trunk, trunk_subnet, "10.0.80.1", device_id=uid(50), device_owner="network:router_interface")
    )
    rows.servers, rows.images, rows.ports, rows.groups, rows.group_addresses = [make_server(33)], [], [], [], {}
    rows.servers[0].host_id, rows.servers[0].image_id = uid(3), None
    rows.floating_ips[0].port_id, rows.floating_ips[0].fixed_address = uid(43), "10.0.80.9"
    rows.following = {uid(43): uid(33)}
    guest = {"device_owner": "compute:nova"}
    rows.ports = [make_port(43, trunk, trunk_subnet, "10.0.80.9", device_id=uid(33), host_id=uid(3), **guest)]
    far = [
        make_port(40, network, subnet, "10.0.10.5", device_id=uid(30), host_id=uid(1), **guest),
        make_port(41, network, subnet, "10.0.10.6", device_id=uid(32), host_id=uid(1), **guest),
        make_port(42, trunk, trunk_subnet, "10.0.80.6", device_id=uid(34), host_id=uid(1), **guest),
    ]
    rows.far_ports = [
        FarPort(p.id, p.network_id, p.mac_address, p.host_id, p.device_id, [row.address for row in p.addresses])
        for p in far
    ]
    rows.moving = {uid(32)}
    rows.far_hosts = {network.id: {uid(1), uid(4)}, trunk.id: {uid(1), uid(5)}}
    rows.tunnel_addresses = {uid(1): "10.77.0.1", uid(4): "10.77.0.11"}  # the fifth host has none
    return rows


def build_made_of() -> Rows:
    """A guest of an ISO with all that an image's properties, a flavor and a request can ask for; one with less."""
    rows = build_alone()
    server, other = rows.servers
    rows.images[0].disk_format = "iso"
    server.image_properties = {
        "disk_format": "iso", "hw_machine_type": "q35", "hw_disk_bus": "scsi", "hw_cdrom_bus": "sata",
        "os_type": "linux", "hw_vif_model": "e1000e",
        "hw_video_model": "none", "hw_firmware_type": "uefi", "hw_qemu_guest_agent": "yes",
        "hw_rng_model": "virtio",
    }  # fmt: skip
    server.flavor = {**server.flavor, "ephemeral_gb": 3, "swap_mb": 64, "extra_specs": {"hw:watchdog_action": "reset"}}
    server.disks = {
        "ephemeral": [{"gb": 1, "format": "ext4"}, {"gb": 2, "format": "vfat"}], "swap_mb": 64, "gb": 4,
        "tags": {"root": "system", "ephemeral1": "scratch"},
    }  # fmt: skip
    rows.ports[0].device_tag = "lan"
    server.config_drive = True
    server.injected = {"files": [{"path": "/etc/motd", "contents": "aGVsbG8="}], "admin_pass": "s3cret"}
    other.deleted_at = None
    other.image_properties, other.disks = {"hw_disk_bus": "virtio", "disk_format": "qcow2"}, {}
    other.disks = {"ephemeral": [{"gb": 1, "format": "ext4"}], "swap_mb": 0, "gb": 1}
    return rows


def build_asked() -> Rows:
    """A guest that was rebuilt twice, and of whose disk an image is made, at the third attempt; not of a tombstone.

    Its figures and a new password are asked for the second time, and what it posts was cleared twice.
    """
    rows = build_alone()
    rows.servers[0].rebuild_wanted = 2
    rows.servers[0].diagnostics_wanted, rows.servers[0].observed_diagnostics_done = 2, 1
    rows.servers[0].password_wanted, rows.servers[0].observed_password_done = 2, 1
    rows.servers[0].password_secret = "{{ s3cret }}"
    rows.servers[0].password_cleared, rows.servers[0].observed_posted_password = 2, "{{ c2VjcmV0 }}"
    rows.servers[0].image_properties = {"hw_qemu_guest_agent": "yes", "os_type": "windows"}
    rows.server_images = {
        uid(30): ServerImage(image_id=uid(90), server_id=uid(30), host_id=uid(1), attempt=3),
        uid(31): ServerImage(image_id=uid(91), server_id=uid(31), host_id=uid(1), attempt=1),
    }
    return rows


def build_shelved() -> Rows:
    """A guest that is being shelved, one that is to leave the host for that, and one whose disk is of such an image."""
    rows = build_alone()
    rows.servers[0].shelve = "offloaded"
    gone = make_server(32, shelve="offloaded", shelved_at=AT)
    back = make_server(33, disk_image_id=uid(92))
    rows.servers += [gone, back]
    rows.server_images = {uid(30): ServerImage(image_id=uid(90), server_id=uid(30), host_id=uid(1), attempt=1)}
    other = make_image()
    other.id, other.disk_format = uid(92), "qcow2"
    rows.images.append(other)
    return rows


def build_reimaged() -> Rows:
    """A storage host that is a hypervisor, too. One volume gets its image, its guest goes on; one is being imaged anew.

    A third one's guest is to be off first; a fourth one was imaged, and its new target is not open yet.
    """
    rows = Rows(make_host(), servers=[make_server(number, image_id=None, rebuild_wanted=3) for number in range(30, 34)])
    rows.host.roles = ["hypervisor", "storage"]
    rows.host.settings = {"storage": {"backend": "file", "portal": "127.0.0.1:3260"}}
    rows.images = [make_image()]
    steps = [(1, 0, 0, 0), (1, 1, 1, 0), (1, 0, 1, 0), (1, 1, 1, 1)]  # wanted, begun, ready, done
    for server, (wanted, begun, ready, done) in zip(rows.servers, steps, strict=True):
        server.observed_rebuild_done, server.built_at = 2, AT
        volume = Volume(
            id=uid(server.number + 40), project_id="p1", size_gb=1, image_id=uid(2), built_at=AT, host_id=uid(1),
            reimage_wanted=wanted, reimage_begun=begun, observed_reimage_ready=ready, observed_reimage_done=done,
        )  # fmt: skip
        attachment = VolumeAttachment(
            id=uid(server.number + 50), volume_id=volume.id, server_id=server.id, wanted=True, boot_index=0,
            device="vda", read_only=False, username="u", password="{{ s3cret }}", replaced=begun > 0,
            observed_export=None if begun else {"portal": "127.0.0.1:3260", "iqn": f"iqn.x:{volume.id}", "lun": 1},
        )  # fmt: skip
        rows.volumes.append(volume)
        rows.attachments.append(attachment)
        rows.server_volumes[server.id] = [(attachment, volume)]
    return rows


CASES = {
    "alone": build_alone,
    "routed": build_routed,
    "second_host": build_second_host,
    "asked": build_asked,
    "made_of": build_made_of,
    "shelved": build_shelved,
    "reimaged": build_reimaged,
}


@pytest.mark.parametrize("name", CASES)
def test_document_of_rows(name, monkeypatch):
    monkeypatch.setattr(host_images, "read_host_key", lambda settings: bytes(32))
    document = build_document(CASES[name](), build_settings(), fence=3)
    jsonschema.validate(document, SCHEMA)
    path = FOLDER / f"{name}.yaml"
    if os.environ.get("KUMO_WRITE_GOLDEN"):
        FOLDER.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump(document, sort_keys=False))
    assert yaml.safe_load(path.read_text()) == document


def test_no_golden_file_is_left_over():
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(CASES)
