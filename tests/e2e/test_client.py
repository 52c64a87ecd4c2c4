"""The commands of an unmodified python-openstackclient against real guests; in order, as one session."""

from __future__ import annotations

import re
import subprocess
import uuid
from pathlib import Path

import pytest
from client import answers_ssh, ask, domain_exists, find_remains, openstack, pings, ssh, wait_for

ROOT = Path(__file__).resolve().parents[2]
IMAGE_FILE = "/var/lib/kumo/guest-image/kumo-guest.qcow2"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Names of this session's own, and what it must remove however it ends."""
    tag = uuid.uuid4().hex[:6]
    folder = tmp_path_factory.mktemp("client")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "key"], check=True)
    yield {"tag": tag, "folder": folder, "key": str(folder / "key")}
    for kind, names in (
        ("server delete --wait", [f"web-{tag}"]),
        ("router remove subnet", [f"r-{tag} sub-{tag}"]),
        ("router delete", [f"r-{tag}"]),
        ("network delete", [f"net-{tag}"]),
        ("security group delete", [f"sg-{tag}"]),
        ("keypair delete", [f"key-{tag}"]),
        ("image delete", [f"image-{tag}"]),
    ):
        for name in names:
            subprocess.run(
                ["/opt/kumo/client-venv/bin/openstack", "--os-cloud", "kumo", *f"{kind} {name}".split()],
                capture_output=True, timeout=120, check=False,
            )  # fmt: skip


def test_identity(made):
    tag = made["tag"]
    assert re.fullmatch(r"[\w=-]{40,}", ask("token issue")["id"])
    names = {row["Name"] for row in ask("catalog list")}
    assert {"identity", "compute", "image", "network"} <= names
    for kind in ("project", "user", "role"):
        extra = " --password canary-1" if kind == "user" else ""
        assert ask(f"{kind} create{extra} {kind}-{tag}", "kumo-admin")["name"] == f"{kind}-{tag}"
        assert f"{kind}-{tag}" in {row["Name"] for row in ask(f"{kind} list", "kumo-admin")}
    openstack(f"role add --user user-{tag} --project project-{tag} member", "kumo-admin")
    for kind in ("user", "project", "role"):
        openstack(f"{kind} delete {kind}-{tag}", "kumo-admin")
        assert f"{kind}-{tag}" not in {row["Name"] for row in ask(f"{kind} list", "kumo-admin")}
    assert "403" in openstack("user list", code=1)


def test_image(made):
    name = f"image-{made['tag']}"
    image = ask(f"image create --file {IMAGE_FILE} --disk-format qcow2 --container-format bare {name}")
    assert image["status"] == "active"
    assert name in {row["Name"] for row in ask("image list")}
    assert ask(f"image show {name}")["size"] == Path(IMAGE_FILE).stat().st_size
    saved = made["folder"] / "saved.qcow2"
    openstack(f"image save --file {saved} {name}")
    assert saved.read_bytes() == Path(IMAGE_FILE).read_bytes()
    openstack(f"image delete {name}")
    assert name not in {row["Name"] for row in ask("image list")}


def test_flavor_and_keypair(made):
    tag = made["tag"]
    flavor = ask(f"flavor create --ram 128 --disk 1 --vcpus 1 flavor-{tag}", "kumo-admin")
    assert flavor["ram"] == 128
    assert f"flavor-{tag}" in {row["Name"] for row in ask("flavor list")}
    openstack(f"flavor delete flavor-{tag}", "kumo-admin")
    openstack(f"keypair create --public-key {made['key']}.pub key-{tag}")
    assert f"key-{tag}" in {row["Name"] for row in ask("keypair list")}


def test_network(made):
    tag = made["tag"]
    assert ask(f"network create net-{tag}")["status"] == "ACTIVE"
    subnet = ask(f"subnet create --network net-{tag} --subnet-range 10.77.0.0/24 sub-{tag}")
    assert subnet["gateway_ip"] == "10.77.0.1"
    port = ask(f"port create --network net-{tag} port-{tag}")
    assert port["id"] in {row["ID"] for row in ask("port list")}
    assert ask(f"port show port-{tag}")["device_owner"] == ""
    openstack(f"port delete port-{tag}")
    ask(f"router create r-{tag}")
    openstack(f"router add subnet r-{tag} sub-{tag}")
    openstack(f"router set --external-gateway public r-{tag}")
    for kind, name in (("network", "net"), ("subnet", "sub"), ("router", "r")):
        assert f"{name}-{tag}" in {row["Name"] for row in ask(f"{kind} list")}
        assert ask(f"{kind} show {name}-{tag}")["name"] == f"{name}-{tag}"
    ask(f"security group create sg-{tag}")
    rule = ask(f"security group rule create --proto icmp sg-{tag}")
    ask(f"security group rule create --proto tcp --dst-port 22 sg-{tag}")
    assert rule["id"] in {row["ID"] for row in ask(f"security group rule list sg-{tag}")}
    assert f"sg-{tag}" in {row["Name"] for row in ask("security group list")}


def test_server(made):
    tag = made["tag"]
    server = ask(
        f"server create --image kumo-guest --flavor m1.nano --network net-{tag} --key-name key-{tag} "
        f"--security-group sg-{tag} --wait web-{tag}"
    )
    assert server["status"] == "ACTIVE"
    assert domain_exists(server["id"])
    floating = ask("floating ip create public")["floating_ip_address"]
    made["floating"], made["server"] = floating, server["id"]
    assert floating in {row["Floating IP Address"] for row in ask("floating ip list")}
    openstack(f"server add floating ip web-{tag} {floating}")
    wait_for("the floating address answers", lambda: pings(floating))
    wait_for("ssh through it", lambda: answers_ssh(floating, made["key"]))
    assert ssh(floating, "hostname", made["key"]).strip() == f"web-{tag}"
    assert ssh(floating, "sudo id -u", made["key"]).strip() == "0"
    listed = {row["Name"]: row for row in ask("server list")}
    assert floating in str(listed[f"web-{tag}"]["Networks"])
    assert ask(f"server show web-{tag}")["key_name"] == f"key-{tag}"
    assert "KUMO-GUEST-READY" in openstack(f"console log show web-{tag}")


def test_rule_change_reaches_the_running_guest(made):
    rules = ask(f"security group rule list sg-{made['tag']}")
    icmp = next(row["ID"] for row in rules if row["IP Protocol"] == "icmp")
    openstack(f"security group rule delete {icmp}")
    wait_for("ping to be refused", lambda: not pings(made["floating"]), 20)
    assert answers_ssh(made["floating"], made["key"])


def test_stop_start_reboot(made):
    name, floating = f"web-{made['tag']}", made["floating"]
    ssh(floating, "echo kept >/home/cirros/kept; sync", made["key"])
    openstack(f"server stop {name}")
    wait_for("SHUTOFF", lambda: ask(f"server show {name}")["status"] == "SHUTOFF")
    assert "vm_state stopped" in openstack(f"server stop {name}", code=1)
    openstack(f"server start {name}")
    wait_for("ACTIVE", lambda: ask(f"server show {name}")["status"] == "ACTIVE")
    wait_for("ssh after a start", lambda: answers_ssh(floating, made["key"]))
    for hard in ("", "--hard "):
        before = ssh(floating, "cat /proc/sys/kernel/random/boot_id", made["key"])
        openstack(f"server reboot {hard}--wait {name}")
        wait_for(
            "a new boot",
            lambda before=before: (
                answers_ssh(floating, made["key"])
                and ssh(floating, "cat /proc/sys/kernel/random/boot_id", made["key"]) != before
            ),
            90,
        )
    assert ssh(floating, "cat /home/cirros/kept", made["key"]).strip() == "kept"


def test_a_guest_shut_down_from_inside_is_shutoff_and_can_be_started(made):
    name, floating = f"web-{made['tag']}", made["floating"]
    ssh(floating, "sudo sh -c '(sleep 1; poweroff) >/dev/null 2>&1 &'", made["key"])
    wait_for("SHUTOFF", lambda: ask(f"server show {name}")["status"] == "SHUTOFF", 120, 2)
    openstack(f"server start {name}")
    wait_for("ssh after a start", lambda: answers_ssh(floating, made["key"]), 90)


def test_floating_ip_leaves_and_the_server_is_deleted(made):
    tag, floating = made["tag"], made["floating"]
    openstack(f"server remove floating ip web-{tag} {floating}")
    wait_for("the address to be silent", lambda: not answers_ssh(floating, made["key"]), 30)
    openstack(f"floating ip delete {floating}")
    ports = [row["ID"] for row in ask(f"port list --server {made['server']}")]
    assert ports
    openstack(f"server delete --wait web-{tag}")
    wait_for("nothing of it on the host", lambda: not find_remains(made["server"], ports), 30)
    assert ask(f"port list --network net-{tag} --device-owner compute:nova") == []
    for words in (
        f"router remove subnet r-{tag} sub-{tag}",
        f"router delete r-{tag}",
        f"subnet delete sub-{tag}",
        f"network delete net-{tag}",
        f"security group delete sg-{tag}",
        f"keypair delete key-{tag}",
    ):
        openstack(words)


def test_what_is_there():
    assert ask("availability zone list")[0]["Zone Name"]
    hypervisor = ask("hypervisor list", "kumo-admin")[0]
    assert ask(f"hypervisor show {hypervisor['ID']}", "kumo-admin")["state"] == "up"
    services = {row["Binary"]: row["State"] for row in ask("compute service list", "kumo-admin")}
    assert services == {"nova-compute": "up", "nova-conductor": "up"}
    limits = {row["Name"]: row["Value"] for row in ask("limits show --absolute")}
    assert limits["max_total_instances"] > 0


def test_mistakes_are_told():
    for words, reason in (
        ("server create --image kumo-guest --flavor no-such --network private x", "No Flavor found"),
        ("server show no-such", "No Server found"),
        (f"network create {'n' * 256}", "256"),
        ("subnet create --network private --subnet-range 10.0.0.0/40 x", ""),
        ("image show no-such", "No Image found"),
    ):
        said = openstack(words, code=1)
        assert "Traceback" not in said
        assert reason in said
