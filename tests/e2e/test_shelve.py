"""Shelving by an unmodified python-openstackclient: a real guest leaves this host, and comes back with all it had."""

from __future__ import annotations

import socket
import subprocess
import uuid
from pathlib import Path

import openstack as sdk
import pytest
from client import answers_ssh, ask, domain_exists, find_remains, openstack, ssh, wait_for

KUMO = "/opt/kumo/bin/kumo"
SHELVED_S = 300  # a guest that is shut down under emulation, and its disk's copy and upload
BACK_S = 240


@pytest.fixture(scope="module")
def made():
    """A name of this session's own; what was made under it goes however it ends."""
    tag = uuid.uuid4().hex[:6]
    kept = {"tag": tag, "floating": []}
    yield kept
    servers = [row["ID"] for row in ask("server list") if tag in row["Name"]]
    if servers:
        openstack(f"server delete --wait {' '.join(servers)}")
    for address in kept["floating"]:
        openstack(f"floating ip delete {address}")
    for row in ask("image list"):
        if tag in row["Name"]:
            openstack(f"image delete {row['ID']}")
    for row in ask("volume list"):
        if tag in row["Name"]:
            wait_for("the volume to be free", lambda name=row["ID"]: read_volume(name) == "available", 60)
            openstack(f"volume delete {row['ID']}")


def make_server(made, name: str, words: str) -> dict:
    """An active server that is logged in to by the first server's key: {id, name, address, ports}."""
    name = f"{name}-{made['tag']}"
    server = ask(
        f"server create {words} --flavor m1.nano --network private --key-name first-key "
        f"--security-group ssh-and-ping --wait {name}"
    )
    assert server["status"] == "ACTIVE", server
    address = ask("floating ip create public")["floating_ip_address"]
    made["floating"].append(address)
    openstack(f"server add floating ip {name} {address}")
    wait_for(f"ssh to {name}", lambda: answers_ssh(address), 120)
    ports = [row["ID"] for row in ask(f"port list --server {server['id']}")]
    assert len(ports) == 1
    return {"id": server["id"], "name": name, "address": address, "ports": ports}


def read_status(server: dict) -> str:
    return ask(f"server show {server['id']}")["status"]


def read_volume(name: str) -> str:
    return ask(f"volume show {name}")["status"]


def shelve(server: dict) -> None:
    """Shelved, and gone from this host with all that it had here."""
    openstack(f"server shelve {server['name']}")
    wait_for(f"{server['name']} to be off its host", lambda: read_status(server) == "SHELVED_OFFLOADED", SHELVED_S, 1)
    wait_for("nothing of it here", lambda: not find_remains(server["id"], server["ports"]), 30)


def read_actions(server: dict) -> set[str]:
    return {row["Action"] for row in ask(f"server event list {server['id']}")}


def list_images(server: dict) -> list[str]:
    """Ids of images that the server was shelved to."""
    return [row["ID"] for row in ask("image list") if row["Name"] == f"{server['name']}-shelved"]


def test_a_guest_is_shelved(made):
    tag = made["tag"]
    ask(f"volume create --size 1 data-{tag}")
    wait_for("the volume", lambda: read_volume(f"data-{tag}") == "available", 60)
    server = made["server"] = make_server(made, "shelf", "--image kumo-guest --property colour=blue")
    openstack(f"server add volume {server['name']} data-{tag}")
    wait_for("its disk", lambda: "vdb" in ssh(server["address"], "cat /proc/partitions"), 60)
    ssh(server["address"], "echo kept >/home/cirros/kept; echo kept | sudo dd of=/dev/vdb 2>/dev/null; sync")
    made["before"] = ask(f"port show {server['ports'][0]}")
    shelve(server)
    shown = ask(f"server show {server['id']}", "kumo-admin")
    assert not shown["OS-EXT-SRV-ATTR:host"]
    assert (shown["OS-EXT-STS:vm_state"], shown["OS-EXT-STS:task_state"]) == ("shelved_offloaded", None)
    assert "colour" in str(shown["properties"])
    [image] = list_images(server)
    assert ask(f"image show {image}")["status"] == "active"
    assert read_volume(f"data-{tag}") == "reserved"
    port = ask(f"port show {server['ports'][0]}")
    assert [port[name] for name in ("mac_address", "fixed_ips", "device_id")] == [
        made["before"][name] for name in ("mac_address", "fixed_ips", "device_id")
    ]
    assert not answers_ssh(server["address"])
    assert "shelve" in read_actions(server)


def test_what_is_shelved_is_no_fault_and_takes_no_other_order(made):
    server = made["server"]
    said = subprocess.run([KUMO, "verify"], capture_output=True, text=True, timeout=120, check=False).stdout
    assert server["id"] not in said
    for port in server["ports"]:
        assert port not in said
    for words in (f"server start {server['name']}", f"server reboot --hard {server['name']}"):
        assert "vm_state shelved_offloaded" in openstack(words, code=1)
    assert "vm_state shelved_offloaded" in openstack(f"server migrate {server['id']}", "kumo-admin", code=1)


def test_it_comes_back_with_its_disk_volume_and_addresses(made):
    server, tag = made["server"], made["tag"]
    [image] = list_images(server)
    openstack(f"server unshelve --wait {server['name']}", timeout=BACK_S)
    assert read_status(server) == "ACTIVE"
    assert domain_exists(server["id"])
    wait_for("ssh through the same address", lambda: answers_ssh(server["address"]), 120)
    assert ssh(server["address"], "cat /home/cirros/kept").strip() == "kept"
    wait_for("its volume", lambda: "vdb" in ssh(server["address"], "cat /proc/partitions"), 60)
    assert ssh(server["address"], "sudo head -c 4 /dev/vdb") == "kept"
    assert read_volume(f"data-{tag}") == "in-use"
    wait_for("no image of it any more", lambda: not list_images(server), 30)
    assert "No Image found" in openstack(f"image show {image}", code=1)
    assert "kumo-guest" in str(ask(f"server show {server['id']}")["image"])
    assert ask(f"port show {server['ports'][0]}")["mac_address"] == made["before"]["mac_address"]
    assert {"shelve", "unshelve"} <= read_actions(server)


def test_again_and_by_the_sdk_to_a_host_by_name(made):
    """Its disk lies over the first image, which nobody can see any more: it is shelved of that one as of any other."""
    server = made["server"]
    ssh(server["address"], "echo again >/home/cirros/again; sync")
    shelve(server)
    compute = sdk.connect(cloud="kumo-admin", compute_default_microversion="2.91").compute
    compute.unshelve_server(server["id"], host=socket.gethostname(), availability_zone=None)
    compute.wait_for_server(compute.get_server(server["id"]), status="ACTIVE", interval=1, wait=BACK_S)
    wait_for("ssh", lambda: answers_ssh(server["address"]), 120)
    assert ssh(server["address"], "cat /home/cirros/kept /home/cirros/again").split() == ["kept", "again"]
    openstack(f"server stop {server['name']}")
    wait_for("SHUTOFF", lambda: read_status(server) == "SHUTOFF", 120)
    openstack(f"server start {server['name']}")
    wait_for("ssh after a start", lambda: answers_ssh(server["address"]), 120)


def test_deleted_while_it_is_shelved(made):
    server, tag = made["server"], made["tag"]
    shelve(server)
    assert list_images(server)
    openstack(f"server delete --wait {server['name']}")
    assert list_images(server) == []
    assert ask(f"port list --device-owner compute:nova --mac-address {made['before']['mac_address']}") == []
    wait_for("its volume to be free", lambda: read_volume(f"data-{tag}") == "available", 60)
    assert not Path("/var/lib/kumo/host/servers", server["id"]).exists()


def test_a_guest_on_a_volume_needs_no_image(made):
    server = make_server(made, "root", "--image kumo-guest --boot-from-volume 1")
    volume = ask(f"server volume list {server['id']}")[0]["Volume ID"]
    openstack(f"volume set --name root-{made['tag']} {volume}")
    ssh(server["address"], "echo kept >/home/cirros/kept; sync")
    shelve(server)
    assert list_images(server) == []
    assert read_volume(volume) == "reserved"
    openstack(f"server unshelve --wait {server['name']}", timeout=BACK_S)
    wait_for("ssh", lambda: answers_ssh(server["address"]), 120)
    assert ssh(server["address"], "cat /home/cirros/kept").strip() == "kept"
    openstack(f"server delete --wait {server['name']}")
