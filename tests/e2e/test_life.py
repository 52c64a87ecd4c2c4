"""Figures, passwords, tagged devices, images of volumes, deletions taken back: by openstacksdk, with real guests."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
import uuid
from pathlib import Path

import openstack as sdk
import pytest
from client import QUIET, answers_ssh, ask, domain_exists, find_remains, openstack, ssh, wait_for
from openstack import exceptions

SETTINGS = Path("/etc/kumo/kumo.conf")
SUPERVISOR = ("/opt/kumo/venv/bin/python", "-m", "supervisor.supervisorctl", "-c", "/etc/kumo/supervisord.conf")
PASSWORD = "canary-5e1d90-Secret"
INTERVAL_S = 45
WINDOW_S = 20


@pytest.fixture(scope="module")
def cloud():
    return sdk.connect(cloud="kumo")


@pytest.fixture(scope="module")
def admin():
    return sdk.connect(cloud="kumo-admin")


@pytest.fixture(scope="module")
def tag(cloud, admin):
    """A name of this session's own; what was made under it goes however it ends."""
    tag = uuid.uuid4().hex[:6]
    yield tag
    kept = admin.compute.servers(all_projects=True, status="SOFT_DELETED")
    for server in [*cloud.compute.servers(), *kept]:
        if tag in server.name:
            cloud.compute.delete_server(server.id, force=True)
    wait_for("no server", lambda: not [one for one in cloud.compute.servers() if tag in one.name], 90)
    for image in cloud.image.images():
        if tag in (image.name or ""):
            cloud.image.delete_image(image.id)
    for row in ask("floating ip list"):
        if row["Port"] in (None, "None"):
            openstack(f"floating ip delete {row['ID']}")
    kept = [row["ID"] for row in ask("volume snapshot list") if tag in row["Name"]]
    volumes = {ask(f"volume snapshot show {snapshot}")["volume_id"] for snapshot in kept}
    for snapshot in kept:
        openstack(f"volume snapshot delete {snapshot}")
    wait_for("no snapshot", lambda: not [row for row in ask("volume snapshot list") if tag in row["Name"]])
    wait_for("no volume in use", lambda: all(row["Status"] != "detaching" for row in ask("volume list")))
    for volume in volumes:  # that stayed for their snapshots
        openstack(f"volume delete {volume}")


@pytest.fixture(scope="module")
def image(cloud, tag, tmp_path_factory):
    """Kumo's guest image once more, which says that its guests have an agent."""
    path = tmp_path_factory.mktemp("image") / "guest.qcow2"
    openstack(f"image save --file {path} kumo-guest")
    properties = "--property hw_qemu_guest_agent=yes --property os_admin_user=cirros"
    made = ask(f"image create --file {path} --disk-format qcow2 --container-format bare {properties} agent-{tag}")
    return cloud.image.wait_for_status(cloud.image.get_image(made["id"]), "active", wait=60)


def add_address(server) -> str:
    """A floating address of a server that ssh is answered at."""
    address = ask("floating ip create public")["floating_ip_address"]
    openstack(f"server add floating ip {server.id} {address}")
    wait_for(f"ssh to {server.name}", lambda: answers_ssh(address), 150)
    return address


def make(cloud, name: str, **more):
    """An active server that is logged in to by the first server's key."""
    server = cloud.compute.create_server(
        name=name,
        flavor_id=cloud.compute.find_flavor("m1.nano", ignore_missing=False).id,
        key_name="first-key",
        security_groups=[{"name": "ssh-and-ping"}],
        **more,
    )
    return cloud.compute.wait_for_server(server, wait=120)


@pytest.fixture(scope="module")
def guest(cloud, tag, image):
    """A server with an agent, whose devices have tags: {server, address}."""
    network = cloud.network.find_network("private", ignore_missing=False)
    root = {"source_type": "image", "destination_type": "local", "boot_index": 0, "uuid": image.id, "tag": "system"}
    answer = cloud.compute.post(
        "/servers",
        microversion="2.42",
        json={
            "server": {
                "name": f"life-{tag}",
                "imageRef": image.id,
                "flavorRef": cloud.compute.find_flavor("m1.nano", ignore_missing=False).id,
                "key_name": "first-key",
                "security_groups": [{"name": "ssh-and-ping"}],
                "networks": [{"uuid": network.id, "tag": "lan"}],
                "block_device_mapping_v2": [root],
            }
        },
    )
    assert answer.status_code == 202, answer.text
    server = cloud.compute.wait_for_server(cloud.compute.get_server(answer.json()["server"]["id"]), wait=120)
    return {"server": server, "address": add_address(server)}


def read_figures(admin, server, version: str):
    return admin.compute.get(f"/servers/{server.id}/diagnostics", microversion=version)


def test_figures_are_the_guests(cloud, admin, guest):
    server = guest["server"]
    answer = read_figures(admin, server, "2.48")
    assert answer.status_code == 200, answer.text
    figures = answer.json()
    assert (figures["state"], figures["driver"], figures["num_cpus"], figures["num_nics"]) == (
        "running",
        "libvirt",
        1,
        1,
    )
    assert figures["memory_details"]["maximum"] == 128
    assert figures["uptime"] > 0
    assert figures["disk_details"][0]["read_bytes"] > 1 << 20
    macs = [one["OS-EXT-IPS-MAC:mac_addr"] for one in cloud.compute.get_server(server.id).addresses["private"]]
    before = figures["nic_details"][0]
    assert before["mac_address"] in macs
    ssh(guest["address"], "dd if=/dev/zero bs=1k count=512 2>/dev/null")
    after = read_figures(admin, server, "2.48").json()
    assert after["nic_details"][0]["tx_octets"] > before["tx_octets"] + 500_000
    assert after["cpu_details"][0]["time"] > figures["cpu_details"][0]["time"]
    free = read_figures(admin, server, "2.47").json()
    assert free["memory"] == 128 * 1024
    assert {"cpu0_time", "vda_read", "vda_write_req"} <= set(free)
    assert read_figures(cloud, server, "2.48").status_code == 403


def test_devices_have_their_tags_in_the_guest(cloud, guest):
    script = "wget -q -O- http://169.254.169.254/openstack/latest/meta_data.json"
    devices = {one["tags"][0]: one for one in json.loads(ssh(guest["address"], script))["devices"]}
    assert set(devices) == {"lan", "system"}
    assert devices["lan"]["bus"] == devices["system"]["bus"] == "pci"
    assert devices["lan"]["address"] in ssh(guest["address"], "readlink -f /sys/class/net/eth0/device")
    assert devices["system"]["address"] in ssh(guest["address"], "readlink -f /sys/block/vda")
    assert devices["lan"]["mac"] in ssh(guest["address"], "cat /sys/class/net/eth0/address")
    twice = [{"uuid": cloud.network.find_network("private").id, "tag": "lan"}] * 2
    body = {"name": "x", "imageRef": guest["server"].image.id, "flavorRef": "n1", "networks": twice}
    assert cloud.compute.post("/servers", microversion="2.42", json={"server": body}).status_code == 400


def read_hash(address: str) -> str:
    return ssh(address, "sudo awk -F: '$1 == \"cirros\" { print $2 }' /etc/shadow").strip()


def find_hash(address: str) -> str:
    """The same, empty while nobody answers: sshd starts anew with a password."""
    try:
        return read_hash(address)
    except AssertionError:
        return ""


def build_hash(password: str, salt: str) -> str:
    done = subprocess.run(
        ["openssl", "passwd", "-6", "-salt", salt, "-stdin"], input=password, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def log_in_by_password(address: str, folder: Path) -> subprocess.CompletedProcess:
    """A command by ssh without any key, with the password that a program answers."""
    answer = folder / "answer"
    answer.write_text(f"#!/bin/sh\necho {PASSWORD}\n")
    answer.chmod(0o700)
    options = ("-o", "PubkeyAuthentication=no", "-o", "NumberOfPasswordPrompts=1", "-o", "ConnectTimeout=5")
    return subprocess.run(
        ["ssh", *QUIET, *options, f"cirros@{address}", "id -un"],
        env={"PATH": "/usr/bin:/bin", "SSH_ASKPASS": str(answer), "SSH_ASKPASS_REQUIRE": "force"},
        capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip


def test_a_password_is_set_in_the_guest(cloud, guest, tmp_path):
    server, before = guest["server"], read_hash(guest["address"])
    refused = log_in_by_password(guest["address"], tmp_path)
    assert (refused.returncode, "(publickey)" in refused.stderr) == (255, True), "everybody's password is none by ssh"
    cloud.compute.change_server_password(server.id, PASSWORD)
    after = wait_for("another hash", lambda: (found := find_hash(guest["address"])) != before and found, 30)
    assert after == build_hash(PASSWORD, after.split("$")[2])
    wait_for("a login", lambda: log_in_by_password(guest["address"], tmp_path).stdout == "cirros\n", 30, pause=1)
    assert cloud.compute.get_server(server.id).status == "ACTIVE"
    wait_for("no run under way", lambda: not list(Path("/var/lib/kumo/runs").glob("run-*")), 30)
    folders = ("/var/log/kumo", "/var/lib/kumo", "/var/log/libvirt", "/run/kumo")
    for path in (path for folder in folders for path in Path(folder).rglob("*")):
        # A database keeps what was in a page until that is used again: what is in rows is another test's.
        if path.is_file() and "kumo.db" not in path.name and path.stat().st_size < 10_000_000:
            assert PASSWORD.encode() not in path.read_bytes(), path


def test_without_an_agent_nothing_is_set(cloud):
    first = cloud.compute.find_server("first", ignore_missing=False)
    with pytest.raises(exceptions.ConflictException, match="agent is not enabled"):
        cloud.compute.change_server_password(first.id, PASSWORD)
    assert cloud.compute.get_server(first.id).status == "ACTIVE"


def test_a_guest_posts_its_password(cloud, guest):
    """Once, to the metadata service; it reads back there at once, and by the API with the worker's next look."""
    url, path = (
        "http://169.254.169.254/openstack/2013-04-04/password",
        f"/servers/{guest['server'].id}/os-server-password",
    )
    assert cloud.compute.get(path).json() == {"password": ""}
    posted = f"posted-{uuid.uuid4().hex}=="
    ssh(guest["address"], f"wget -q -O - --post-data {posted} {url}")
    assert ssh(guest["address"], f"wget -q -O - {url}").strip() == posted
    assert "409" in ssh(guest["address"], f"wget -q -O - --post-data another {url} 2>&1 || true")
    wait_for("the API's word", lambda: cloud.compute.get(path).json() == {"password": posted}, 90, pause=2)
    assert cloud.compute.delete(path).status_code == 204
    assert cloud.compute.get(path).json() == {"password": ""}


def test_no_figures_and_no_password_of_a_guest_that_is_off(cloud, admin, guest):
    server = guest["server"]
    cloud.compute.stop_server(server.id)
    cloud.compute.wait_for_server(server, status="SHUTOFF", wait=90)
    assert read_figures(admin, server, "2.48").status_code == 409
    with pytest.raises(exceptions.ConflictException):
        cloud.compute.change_server_password(server.id, PASSWORD)
    cloud.compute.start_server(server.id)
    cloud.compute.wait_for_server(server, wait=90)


def test_an_image_of_a_server_on_a_volume(cloud, tag):
    """A mark in its root volume is in the guest that boots from the image."""
    network = cloud.network.find_network("private", ignore_missing=False)
    root = {
        "source_type": "image", "destination_type": "volume", "boot_index": 0, "volume_size": 1,
        "uuid": cloud.image.find_image("kumo-guest").id, "delete_on_termination": True,
    }  # fmt: skip
    one = make(cloud, f"life-volume-{tag}", networks=[{"uuid": network.id}], block_device_mapping=[root])
    ssh(add_address(one), f"echo {tag} > mark; sync")
    cloud.compute.stop_server(one.id)  # whatever the backend is, it can take a snapshot then
    cloud.compute.wait_for_server(one, status="SHUTOFF", wait=90)
    image = cloud.compute.create_server_image(one.id, f"life-{tag}")
    made = cloud.image.get_image(image.id)
    assert (made.status, made.size) == ("active", 0)

    def is_idle() -> bool:
        return cloud.compute.get_server(one.id).task_state is None

    wait_for("its snapshots", is_idle, 120)
    assert [row["Status"] for row in ask("volume snapshot list") if tag in row["Name"]] == ["available"]
    other = make(cloud, f"life-copy-{tag}", image_id=image.id, networks=[{"uuid": network.id}])
    assert ssh(add_address(other), "cat mark").strip() == tag
    shown = cloud.compute.get(f"/servers/{one.id}").json()["server"]
    volume = shown["os-extended-volumes:volumes_attached"][0]["id"]
    for server in (one, other):
        cloud.compute.delete_server(server.id)
        cloud.compute.wait_for_delete(server, wait=90)
    wait_for("it stays for its snapshot", lambda: ask(f"volume show {volume}")["status"] == "available", 60)


@contextlib.contextmanager
def changed(option: str):
    """The services with one more line among the settings of compute; as before afterwards."""
    before = SETTINGS.read_text()
    assert "[compute]\n" in before
    try:
        SETTINGS.write_text(before.replace("[compute]\n", f"[compute]\n{option}\n"))
        restart()
        yield
    finally:
        SETTINGS.write_text(before)
        restart()


@pytest.fixture
def interval():
    """The services with a time in which deletions are taken back."""
    with changed(f"reclaim_instance_interval_s = {INTERVAL_S}"):
        yield


@pytest.fixture
def window():
    """The services with a time after which a resize is confirmed by itself."""
    with changed(f"resize_confirm_window_s = {WINDOW_S}"):
        yield


def restart() -> None:
    subprocess.run([*SUPERVISOR, "restart", "kumo-api", "kumo-worker"], check=True, capture_output=True, timeout=120)

    def answers() -> bool:
        try:
            return bool(ask("server list"))
        except AssertionError:
            return False

    wait_for("the API", answers, 60, 1)


def delete_softly(cloud, server) -> None:
    cloud.compute.delete_server(server.id)

    def is_kept() -> bool:
        return cloud.compute.get_server(server.id).status == "SOFT_DELETED"

    wait_for("SOFT_DELETED", is_kept, 90)


def test_a_deletion_is_taken_back_and_the_next_one_is_not(cloud, admin, guest, interval):
    server = guest["server"]
    ports = [port.id for port in cloud.network.ports(device_id=server.id)]
    delete_softly(cloud, server)
    assert cloud.compute.get_server(server.id).vm_state == "soft-delete"
    assert server.id not in {one.id for one in cloud.compute.servers()}
    assert server.id in {one.id for one in admin.compute.servers(all_projects=True, status="SOFT_DELETED")}
    state = subprocess.run(
        ["virsh", "-c", "qemu:///system", "domstate", f"kumo-{server.id}"], capture_output=True, text=True, check=True
    )
    assert state.stdout.strip() == "shut off"
    cloud.compute.restore_server(server.id)
    cloud.compute.wait_for_server(server, wait=90)
    wait_for("ssh", lambda: answers_ssh(guest["address"]), 150)
    delete_softly(cloud, server)
    began = time.monotonic()
    cloud.compute.wait_for_delete(server, wait=INTERVAL_S + 90)
    assert time.monotonic() - began > INTERVAL_S / 3, "it was kept for a while"
    wait_for("nothing left", lambda: not find_remains(server.id, ports), 60)


def test_force_delete_does_not_wait(cloud, tag, interval):
    network = cloud.network.find_network("private", ignore_missing=False)
    image = cloud.image.find_image("kumo-guest", ignore_missing=False)
    server = make(cloud, f"life-forced-{tag}", image_id=image.id, networks=[{"uuid": network.id}])
    delete_softly(cloud, server)
    cloud.compute.delete_server(server.id, force=True)
    cloud.compute.wait_for_delete(server, wait=30)
    wait_for("no domain", lambda: not domain_exists(server.id), 30)


def test_without_an_interval_there_is_nothing_to_take_back(cloud, tag):
    first = cloud.compute.find_server("first", ignore_missing=False)
    with pytest.raises(exceptions.ConflictException):
        cloud.compute.restore_server(first.id)


def test_a_resize_that_nobody_confirms_is_confirmed_after_a_while(cloud, tag, window):
    """The old disk stays until then, for a revert; after it nothing is left of it, and the actions say who did it."""
    network = cloud.network.find_network("private", ignore_missing=False)
    image = cloud.image.find_image("kumo-guest", ignore_missing=False)
    server = make(cloud, f"life-resized-{tag}", image_id=image.id, networks=[{"uuid": network.id}])
    cloud.compute.resize_server(server.id, cloud.compute.find_flavor("m1.micro", ignore_missing=False).id)
    cloud.compute.wait_for_server(server, status="VERIFY_RESIZE", wait=120)
    began = time.monotonic()
    cloud.compute.wait_for_server(server, status="ACTIVE", wait=WINDOW_S + 60, interval=1)
    assert time.monotonic() - began > WINDOW_S / 2, "it could be reverted for a while"
    assert cloud.compute.get_server(server.id).flavor.name == "m1.micro"
    confirmed = next(one for one in cloud.compute.server_actions(server.id) if one.action == "confirmResize")
    assert confirmed.user_id != cloud.current_user_id
    with pytest.raises(exceptions.ConflictException):
        cloud.compute.revert_server_resize(server.id)
    known = ["virsh", "-c", "qemu:///system", "dominfo", f"kumo-{server.id}"]
    assert "196608 KiB" in subprocess.run(known, capture_output=True, text=True, check=True).stdout
    folder = Path("/var/lib/kumo/host/servers") / server.id
    wait_for("no disk of before", lambda: [path.name for path in folder.glob("*disk*")] == ["disk"], 30)
