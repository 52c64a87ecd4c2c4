"""Guests that move between two hypervisors, by documents alone: every step is what a document says and a host tells.

Real libvirt, QEMU, TLS and iSCSI on the lab's hosts; what the API makes of it is another file's.
"""

from __future__ import annotations

import os
import subprocess
import time
import uuid

import pytest
from cloud_lab import CloudLab
from moves_lab import STATE, MovesLab

MOST_PAUSE_S = 1.0
GIB = 1 << 30


@pytest.fixture(scope="module")
def moves(tmp_path_factory):
    if "KUMO_LAB_FOLDER" not in os.environ:
        pytest.exit("run me by: molecule/hosts/lab.py run molecule/multi-host -- .venv/bin/python -m pytest …", 2)
    key = tmp_path_factory.mktemp("moves") / "id_ed25519"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    made = MovesLab(CloudLab(), key)  # the hosts alone: no API is asked
    yield made
    made.clean()


@pytest.fixture(scope="module")
def guest(moves):
    """A guest with a local disk, up on `here`: where each of these tests leaves it, but for the last one."""
    row = moves.build_guest()
    moves.start_guest(row)
    return row


def build_absent(row: dict) -> dict:
    return {"id": row["id"], "project_id": "p", "wanted": "absent"}


def build_incoming(row: dict, migration: str, kind: str = "live", offer=None) -> dict:
    return {**row, "incoming": {"migration": migration, "kind": kind, "offer": offer}}


def build_outgoing(row: dict, migration: str, address: str, kind: str = "live", **more) -> dict:
    order = {"migration": migration, "kind": kind, "address": address, "abort": False, "force": False, **more}
    return {**row, "outgoing": order, **({"power": "off"} if kind == "cold" else {})}


def move_live(moves: MovesLab, row: dict, source: str, target: str) -> None:
    """The phases of a live move that goes well."""
    migration = str(uuid.uuid4())
    moves.follow(target, build_incoming(row, migration), "ready")
    outgoing = build_outgoing(row, migration, moves.address(target))
    assert moves.follow(source, outgoing, "sent", "failed") == {"migration": migration, "state": "sent"}
    moves.follow(target, build_incoming(row, migration), "arrived", seconds=30)
    settled = moves.settle(target, row)
    assert settled["observed"]["servers"][row["id"]]["state"] == "running"
    assert moves.apply(target, row)["actions"] == [], "a guest like any other: nothing is left to do"
    moves.settle(source, build_absent(row))
    assert moves.virsh(source, "list --all --name").strip() == ""
    assert moves.root(source, f"ls {STATE}/servers {STATE}/tasks").split() == [f"{STATE}/servers:", f"{STATE}/tasks:"]


def test_s13_a_running_guest_moves_with_its_disk_and_its_volume(moves):
    """What it wrote is there, it never rebooted, it was away for a second at most; a soft reboot finds its devices."""
    row = {**moves.build_guest(), "volumes": [moves.make_volume()]}
    moves.start_guest(row)
    write = "dd if=/dev/urandom of=/root/proof bs=1M count=8; dd if=/dev/urandom of=/dev/vdb bs=1M count=4; sync"
    read = (
        "echo 3 >/proc/sys/vm/drop_caches; sha256sum /root/proof; dd if=/dev/vdb bs=1M count=4 2>/dev/null | sha256sum"
    )
    moves.guest(f"sudo sh -c '{write}'")
    before = moves.guest(f"sudo sh -c '{read}'")
    boot = moves.guest("cat /proc/sys/kernel/random/boot_id")
    ping = moves.ping(300)
    time.sleep(2)
    try:
        move_live(moves, row, moves.here, moves.there)
    finally:
        answers, pause = moves.read_pings(ping)
    print(f"{answers} answers, away for {pause:.2f} s")
    assert moves.guest("cat /proc/sys/kernel/random/boot_id") == boot
    assert moves.guest(f"sudo sh -c '{read}'") == before
    assert pause <= MOST_PAUSE_S
    assert moves.virsh(moves.there, "secret-list").strip() == "", "no password is kept for a guest that runs"

    rebooted = {**row, "reboot": {"wanted": 1, "type": "SOFT"}}
    moves.settle(moves.there, rebooted, seconds=90)
    moves.wait_for_login()
    assert moves.guest("cat /proc/sys/kernel/random/boot_id") != boot
    assert moves.guest(f"sudo sh -c '{read}'") == before
    disks = moves.virsh(moves.there, f"domblklist kumo-{row['id']}")
    assert f"{STATE}/servers/{row['id']}/disk" in disks
    assert row["volumes"][0]["iqn"] in disks
    moves.settle(moves.there, build_absent(row))


def begin_slowly(moves: MovesLab, row: dict, migration: str) -> dict:
    """A live move on its way, told with progress; the row that says so."""
    moves.guest("sudo sh -c 'dd if=/dev/urandom of=/root/ballast bs=1M count=48; sync'")
    moves.virsh(moves.here, f"migrate-setspeed kumo-{row['id']} 1")  # MiB a second
    moves.follow(moves.there, build_incoming(row, migration), "ready")
    outgoing = build_outgoing(row, migration, moves.address(moves.there))
    deadline = time.monotonic() + 60
    while True:
        told = moves.apply(moves.here, outgoing)["observed"]["moves"][row["id"]]
        assert told["state"] == "sending", told
        if told.get("progress", {}).get("disk_total"):
            assert set(told["progress"]) == {
                f"{part}_{name}" for part in ("memory", "disk") for name in ("total", "processed", "remaining")
            }
            return outgoing
        assert time.monotonic() < deadline, told
        time.sleep(0.5)


def check_stays(moves: MovesLab, row: dict, boot: str) -> None:
    """It runs on at the source as if nothing had been, and nothing is left at the destination."""
    moves.settle(moves.there, build_absent(row))
    assert moves.virsh(moves.there, "list --all --name").strip() == ""
    assert moves.root(moves.there, f"ls {STATE}/servers").strip() == ""
    moves.virsh(moves.here, f"migrate-setspeed kumo-{row['id']} 8192")
    assert moves.settle(moves.here, row)["observed"]["servers"][row["id"]]["state"] == "running"
    assert moves.guest("cat /proc/sys/kernel/random/boot_id") == boot


def test_a_move_that_is_called_off_leaves_the_guest_where_it_is(moves, guest):
    boot = moves.guest("cat /proc/sys/kernel/random/boot_id")
    outgoing = begin_slowly(moves, guest, str(uuid.uuid4()))
    outgoing["outgoing"]["abort"] = True
    told = moves.follow(moves.here, outgoing, "failed", seconds=60)
    assert "cancel" in told["error"] or "abort" in told["error"]
    check_stays(moves, guest, boot)
    move_live(moves, guest, moves.here, moves.there)  # and the next one goes well, and so does the way back
    move_live(moves, guest, moves.there, moves.here)
    assert moves.guest("cat /proc/sys/kernel/random/boot_id") == boot


def test_a_destination_that_dies_leaves_the_guest_where_it_is(moves, guest):
    boot = moves.guest("cat /proc/sys/kernel/random/boot_id")
    outgoing = begin_slowly(moves, guest, str(uuid.uuid4()))
    pid = moves.root(moves.there, f"cat /run/libvirt/qemu/kumo-{guest['id']}.pid").strip()
    moves.root(moves.there, f"kill -KILL {pid}")
    told = moves.follow(moves.here, outgoing, "failed", seconds=120)
    assert len(told["error"]) > 10
    check_stays(moves, guest, boot)


def test_a_task_that_is_killed_and_a_libvirtd_that_restarts_end_in_a_sentence(moves, guest):
    """The task only asks: killed, the move goes on. libvirtd does it: restarted, the guest is here and runs."""
    boot = moves.guest("cat /proc/sys/kernel/random/boot_id")
    outgoing = begin_slowly(moves, guest, str(uuid.uuid4()))
    record = f"{STATE}/tasks/send-{guest['id']}.json"
    kill = f"""python3 -c 'import json, os; os.killpg(json.load(open("{record}"))["pid"], 9)'"""
    moves.root(moves.here, kill)
    time.sleep(1)
    assert moves.apply(moves.here, outgoing)["observed"]["moves"][guest["id"]]["state"] == "sending"
    moves.root(moves.here, "systemctl restart libvirtd")
    told = moves.follow(moves.here, outgoing, "failed", seconds=120)
    assert len(told["error"]) > 10
    check_stays(moves, guest, boot)


def test_no_room_is_a_sentence_and_nothing_is_left(moves, guest):
    large = {**guest, "memory_mb": 4 << 20}
    told = moves.follow(moves.there, build_incoming(large, str(uuid.uuid4())), "failed")
    assert "of memory free; the guest needs" in told["error"]
    check_stays(moves, guest, moves.guest("cat /proc/sys/kernel/random/boot_id"))


def read_listeners(moves: MovesLab, host: str) -> set[str]:
    """The local addresses with ports that somebody listens on."""
    return {line.split()[3] for line in moves.root(host, "ss -Hltn").splitlines()}


def test_hypervisors_listen_for_each_other_and_for_nobody_else(moves):
    """libvirtd on the tunnel address only; a client without a certificate of the cloud is turned away."""
    for host in (moves.here, moves.there):
        listeners = {text for text in read_listeners(moves, host) if text.endswith((":16514", ":16509"))}
        assert listeners == {f"{moves.address(host)}:16514"}
    uri = f"qemu+tls://{moves.address(moves.there)}/system?pkipath="
    good = "/etc/pki/qemu/kumo"
    assert moves.root(moves.here, f"virsh -q -c {uri}{good} hostname").strip() == moves.there
    subject = "/O=Kumo/OU=hypervisor/CN=elsewhere"
    make = (
        f"cd $(mktemp -d) && cp {good}/ca.pem cacert.pem && openssl req -x509 -newkey rsa:2048 -nodes -days 2"
        f" -subj {subject} -keyout clientkey.pem -out clientcert.pem && virsh -q -c {uri}$PWD hostname"
    )
    told = moves.root(moves.here, make, code=1)
    assert moves.there not in told.splitlines()
    assert "certificate" in told.lower() or "end of file" in told.lower() or "handshake" in told.lower(), told


def begin_cold(moves: MovesLab, row: dict, migration: str) -> dict:
    """The guest off and its disk offered; the offer."""
    outgoing = build_outgoing(row, migration, moves.address(moves.there), "cold")
    told = moves.follow(moves.here, outgoing, "offered", "failed")
    assert told["state"] == "offered", told
    return {name: told[name] for name in ("address", "port", "name")}


def test_a_guest_moves_cold_and_grows_and_comes_back(moves, guest):
    """Its disk arrives whole and larger; given back, the old one starts; the new one is gone."""
    moves.guest("sudo sh -c 'dd if=/dev/urandom of=/root/proof bs=1M count=8; sync'")
    before = moves.guest("sudo sha256sum /root/proof")
    migration = str(uuid.uuid4())
    offer = begin_cold(moves, guest, migration)
    listeners = {text for text in read_listeners(moves, moves.here) if text.endswith(f":{offer['port']}")}
    assert listeners == {f"{moves.address(moves.here)}:{offer['port']}"}
    larger = {**guest, "root_gb": 2, "memory_mb": 160}
    moves.apply(moves.there, build_incoming(larger, migration, "cold"))
    moves.follow(moves.there, build_incoming(larger, migration, "cold", offer), "received")
    held = {**build_absent(guest), "wanted": "present", "power": "off", "held": True, "image": guest["image"]}
    moves.settle(moves.here, held)
    assert not {text for text in read_listeners(moves, moves.here) if text.endswith(f":{offer['port']}")}
    assert moves.virsh(moves.here, f"domstate kumo-{guest['id']}").strip() == "shut off"
    moves.settle(moves.there, larger)
    moves.wait_for_login()
    assert moves.guest("sudo sha256sum /root/proof") == before
    assert int(moves.guest("cat /sys/block/vda/size")) * 512 == 2 * GIB
    assert moves.apply(moves.there, larger)["actions"] == []

    moves.guest("sudo sh -c 'echo new >/root/later; sync'")
    moves.settle(moves.there, build_absent(guest))
    waiting = moves.apply(moves.here, {**guest, "held": True, "power": "off"})
    assert [action for action in waiting["actions"] if action["section"] == "servers"] == []
    moves.settle(moves.here, guest)
    moves.wait_for_login()
    assert moves.guest("sudo sha256sum /root/proof") == before
    assert moves.guest("sudo cat /root/later", code=1) == ""
    assert int(moves.guest("cat /sys/block/vda/size")) * 512 == GIB


def test_an_offer_is_for_hosts_of_this_cloud(moves, guest):
    """Without a certificate nobody reads a disk; nor without TLS. No longer offered, the guest starts."""
    migration = str(uuid.uuid4())
    offer = begin_cold(moves, guest, migration)
    plain = (
        f"driver=raw,file.driver=nbd,file.host={offer['address']},file.port={offer['port']},file.export={offer['name']}"
    )
    assert "TLS" in moves.root(moves.there, f"timeout 20 qemu-img info --image-opts {plain}", code=1)
    anonymous = f"tls-creds-x509,id=tls,dir=/root/none-{migration},endpoint=client,verify-peer=yes"
    anonymous_dir = f"mkdir /root/none-{migration} && cp /etc/pki/qemu/kumo/ca.pem /root/none-{migration}/ca-cert.pem"
    moves.root(moves.there, anonymous_dir)
    told = moves.root(
        moves.there, f"timeout 20 qemu-img info --object {anonymous} --image-opts {plain},file.tls-creds=tls", code=1
    )
    moves.root(moves.there, f"rm -r /root/none-{migration}")
    assert "error" in told.lower() or "failed" in told.lower()
    moves.settle(moves.here, guest)
    moves.wait_for_login()


def test_a_copy_that_is_cut_is_a_sentence_and_leaves_nothing(moves, guest):
    migration = str(uuid.uuid4())
    offer = begin_cold(moves, guest, migration)
    moves.apply(moves.there, build_incoming(guest, migration, "cold"))
    gone = {**offer, "port": 49300}
    told = moves.follow(moves.there, build_incoming(guest, migration, "cold", gone), "failed")
    assert "49300" in told["error"] or "Connection refused" in told["error"]
    moves.settle(moves.there, build_absent(guest))
    assert moves.root(moves.there, f"ls {STATE}/servers {STATE}/tasks").split() == [
        f"{STATE}/servers:", f"{STATE}/tasks:",
    ]  # fmt: skip
    moves.settle(moves.here, guest)
    moves.wait_for_login()


def test_a_resize_on_its_own_host_is_kept_confirmed_or_given_back(moves, guest):
    moves.guest("sudo sh -c 'dd if=/dev/urandom of=/root/proof bs=1M count=8; sync'")
    before = moves.guest("sudo sha256sum /root/proof")
    for outcome, size in (("restored", GIB), ("dropped", 2 * GIB)):
        backup = {"id": str(uuid.uuid4()), "wanted": "kept"}
        larger = {**guest, "root_gb": 2, "memory_mb": 160}
        moves.follow(moves.here, {**larger, "backup": backup, "power": "off"}, "kept")
        moves.settle(moves.here, {**larger, "backup": backup})
        moves.wait_for_login()
        assert int(moves.guest("cat /sys/block/vda/size")) * 512 == 2 * GIB
        moves.guest("sudo sh -c 'echo new >/root/later; sync'")
        ended = {**guest, "power": "off"} if outcome == "restored" else larger
        moves.follow(moves.here, {**ended, "backup": {**backup, "wanted": outcome}}, outcome)
        moves.settle(moves.here, guest if outcome == "restored" else larger)
        moves.wait_for_login()
        assert int(moves.guest("cat /sys/block/vda/size")) * 512 == size
        assert moves.guest("sudo sha256sum /root/proof") == before
        moves.guest("sudo cat /root/later", code=1 if outcome == "restored" else 0)
        names = moves.root(moves.here, f"ls -A {STATE}/servers/{guest['id']}").split()
        assert [name for name in names if "backup" in name] == []
    guest.update(root_gb=2, memory_mb=160)  # as it is from now on


def test_a_guest_that_is_deleted_on_its_way_is_gone_from_both(moves, guest):
    begin_slowly(moves, guest, str(uuid.uuid4()))
    for host in (moves.here, moves.there):
        moves.settle(host, build_absent(guest))
    for host in (moves.there, moves.here):
        moves.settle(host, build_absent(guest))
        assert moves.virsh(host, "list --all --name").strip() == ""
        assert moves.root(host, f"ls {STATE}/servers {STATE}/tasks").split() == [f"{STATE}/servers:", f"{STATE}/tasks:"]
