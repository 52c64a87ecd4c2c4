"""Volumes by an unmodified python-openstackclient: a real guest, a real tgtd, QEMU's own initiator; in order."""

from __future__ import annotations

import subprocess
import time
import uuid
from pathlib import Path

import pytest
from client import answers_ssh, ask, find_pids, openstack, ssh, wait_for

SUDO = "sudo"  # in the guest


@pytest.fixture(scope="module")
def made():
    """A name of this session's own; what was made under it goes however it ends."""
    tag = uuid.uuid4().hex[:6]
    yield {"tag": tag}
    servers = [row["ID"] for row in ask("server list") if tag in row["Name"]]
    if servers:
        openstack(f"server delete --wait {' '.join(servers)}")
    wait_for("no volume in use", lambda: all(row["Status"] != "detaching" for row in ask("volume list")))
    for row in ask("volume snapshot list"):
        if tag in row["Name"]:
            openstack(f"volume snapshot delete {row['ID']}")
    wait_for("no snapshot", lambda: not [row for row in ask("volume snapshot list") if tag in row["Name"]])
    for row in ask("volume list"):
        if tag in row["Name"]:
            openstack(f"volume delete {row['ID']}")


def make_server(made, name: str, words: str) -> dict:
    """An active server that is logged in to by the first server's key: {id, address}."""
    tag = made["tag"]
    server = ask(
        f"server create {words} --flavor m1.nano --network private --key-name first-key "
        f"--security-group ssh-and-ping --wait {name}-{tag}"
    )
    assert server["status"] == "ACTIVE", server
    address = ask("floating ip create public")["floating_ip_address"]
    openstack(f"server add floating ip {name}-{tag} {address}")
    wait_for(f"ssh to {name}", lambda: answers_ssh(address), 120)
    return {"id": server["id"], "address": address, "name": f"{name}-{tag}"}


def read_status(name: str) -> str:
    return ask(f"volume show {name}")["status"]


def wait_status(name: str, status: str, seconds: float = 60) -> None:
    wait_for(f"volume {name} to be {status}", lambda: read_status(name) == status, seconds)


def has_disk(address: str, device: str = "vdb") -> bool:
    return device in ssh(address, "cat /proc/partitions")


def checksum(address: str, device: str = "/dev/vdb") -> str:
    return ssh(address, f"{SUDO} dd if={device} bs=1M count=8 2>/dev/null | md5sum").split()[0]


def test_a_volume_is_made(made):
    name = f"data-{made['tag']}"
    volume = ask(f"volume create --size 1 --description first {name}")
    assert volume["size"] == 1
    wait_status(name, "available", 30)
    assert name in {row["Name"] for row in ask("volume list")}
    openstack(f"volume set --property a=b {name}")
    assert ask(f"volume show {name}")["properties"] == {"a": "b"}
    assert {row["Name"] for row in ask("volume type list")} == {"__DEFAULT__"}
    assert ask("volume service list", "kumo-admin")[0]["Binary"] == "cinder-volume"


def test_a_guest_writes_to_it(made):
    made["one"] = make_server(made, "one", "--image kumo-guest")
    openstack(f"server add volume {made['one']['name']} data-{made['tag']}")
    wait_for("the disk in the guest", lambda: has_disk(made["one"]["address"]), 60)
    wait_status(f"data-{made['tag']}", "in-use")
    ssh(made["one"]["address"], f"{SUDO} dd if=/dev/urandom of=/dev/vdb bs=1M count=8 2>/dev/null; sync")
    made["sum"] = checksum(made["one"]["address"])
    assert len(made["sum"]) == 32


def test_s14_the_password_is_nowhere(made):
    """Not in the definition, arguments, environment or files of anything that runs here."""
    import sqlite3

    with sqlite3.connect("file:/var/lib/kumo/kumo.db?mode=ro", uri=True) as database:
        passwords = [row[0] for row in database.execute("SELECT password FROM volume_attachments")]
    assert passwords
    server = made["one"]["id"]
    shown = subprocess.run(
        ["virsh", "-c", "qemu:///system", "dumpxml", "--security-info", f"kumo-{server}"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            for name in ("cmdline", "environ"):
                try:
                    shown += (entry / name).read_bytes().decode(errors="replace")
                except OSError:
                    continue
    for folder in ("/var/log/kumo", "/var/lib/kumo/runs", "/var/log/libvirt", "/etc/libvirt", "/var/lib/kumo/host"):
        for path in Path(folder).rglob("*"):
            if path.is_file() and path.stat().st_size < 10_000_000:
                shown += path.read_bytes().decode(errors="replace")
    for password in passwords:
        assert password not in shown


def test_it_survives_its_guest_and_the_target_daemon(made):
    before = find_pids("tgtd", "-f")
    assert before
    for pid in before:
        subprocess.run(["kill", "-9", str(pid)], check=True)
    wait_for("another tgtd", lambda: find_pids("tgtd", "-f") - before, 30)
    time.sleep(1)
    openstack(f"server reboot --hard --wait {made['one']['name']}")
    wait_for("ssh after the reboot", lambda: answers_ssh(made["one"]["address"]), 120)
    assert checksum(made["one"]["address"]) == made["sum"]


def test_it_moves_to_another_guest(made):
    name = f"data-{made['tag']}"
    openstack(f"server remove volume {made['one']['name']} {name}")
    wait_status(name, "available", 90)
    assert not has_disk(made["one"]["address"])
    made["two"] = make_server(made, "two", "--image kumo-guest")
    openstack(f"server add volume {made['two']['name']} {name}")
    wait_for("the disk in the other guest", lambda: has_disk(made["two"]["address"]), 60)
    assert checksum(made["two"]["address"]) == made["sum"]


def test_it_grows_under_its_guest(made):
    name = f"data-{made['tag']}"
    openstack(f"--os-volume-api-version 3.42 volume set --size 2 {name}")
    wait_for(
        "the larger disk in the guest",
        lambda: "2097152 vdb" in " ".join(ssh(made["two"]["address"], "cat /proc/partitions").split()),
        60,
    )
    assert checksum(made["two"]["address"]) == made["sum"]


def test_a_snapshot_holds_what_was_there(made):
    name, tag = f"data-{made['tag']}", made["tag"]
    openstack(f"server remove volume {made['two']['name']} {name}")
    wait_status(name, "available", 90)
    openstack(f"volume snapshot create --volume {name} snap-{tag}")
    wait_for("the snapshot", lambda: ask(f"volume snapshot show snap-{tag}")["status"] == "available", 60)
    openstack(f"server add volume {made['two']['name']} {name}")
    wait_for("the disk again", lambda: has_disk(made["two"]["address"]), 60)
    ssh(made["two"]["address"], f"{SUDO} dd if=/dev/zero of=/dev/vdb bs=1M count=8 2>/dev/null; sync")
    assert checksum(made["two"]["address"]) != made["sum"]
    openstack(f"volume create --snapshot snap-{tag} copy-{tag}")
    wait_status(f"copy-{tag}", "available", 60)
    openstack(f"server add volume {made['one']['name']} copy-{tag}")
    wait_for("the copy in the first guest", lambda: has_disk(made["one"]["address"]), 60)
    assert checksum(made["one"]["address"]) == made["sum"]


def test_a_guest_boots_from_a_volume(made):
    tag = made["tag"]
    server = make_server(made, "root", "--image kumo-guest --boot-from-volume 1")
    assert ask(f"server show root-{tag}")["image"] in ("", "N/A (booted from volume)")
    volume = ask(f"server volume list root-{tag}")[0]
    assert volume["Device"] == "/dev/vda"
    assert not Path("/var/lib/kumo/host/servers", server["id"], "disk").exists()
    openstack(f"server delete --wait root-{tag}")
    root = volume["Volume ID"]
    wait_status(root, "available", 60)  # it was not asked to go with its server
    openstack(f"volume set --name root-{tag} {root}")
    again = make_server(made, "again", f"--volume {root}")
    openstack(f"server delete --wait {again['name']}")
    wait_status(root, "available", 60)


def test_what_is_deleted_leaves_nothing(made):
    tag = made["tag"]
    openstack(f"server delete --wait {made['one']['name']} {made['two']['name']}")
    for name in (f"data-{tag}", f"copy-{tag}", f"root-{tag}"):
        wait_status(name, "available", 60)
    openstack(f"volume delete {f'copy-{tag}'} {f'root-{tag}'}")
    openstack(f"volume snapshot delete snap-{tag}")
    wait_for("no snapshot", lambda: not [row for row in ask("volume snapshot list") if tag in row["Name"]], 60)
    openstack(f"volume delete data-{tag}")
    wait_for("no volume", lambda: not [row for row in ask("volume list") if tag in row["Name"]], 60)
    assert list(Path("/var/lib/kumo/host/volumes").iterdir()) == []
    shown = subprocess.run(["tgtadm", "-C", "67", "--lld", "iscsi", "--mode", "target", "--op", "show"],
                           capture_output=True, text=True, check=True).stdout  # fmt: skip
    assert "cloud.kumo" not in shown
    secrets = subprocess.run(["virsh", "-c", "qemu:///system", "secret-list"], capture_output=True, text=True)
    assert "iscsi" not in secrets.stdout
