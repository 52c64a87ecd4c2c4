"""Fixtures of the tests on real hosts: `lab` (hosts, client, kumo) and `tenant` (what a user's servers are made of)."""

from __future__ import annotations

import json
import os
import subprocess
import uuid
from dataclasses import dataclass
from pathlib import Path

import pytest
from cloud_lab import FLAVOR, GUEST_IMAGE, IMAGE, CloudLab, wait_for


@pytest.fixture(scope="session")
def lab() -> CloudLab:
    """The running cloud in whose network namespace these tests run."""
    if "KUMO_LAB_FOLDER" not in os.environ:
        pytest.exit("run me by: molecule/hosts/lab.py run molecule/multi-host -- .venv/bin/python -m pytest …", 2)
    made = CloudLab()
    wait_for("all hosts to be seen", lambda: all_seen(made), 180, pause=2)
    return made


def all_seen(lab: CloudLab) -> bool:
    """Whether the worker has seen every host that site.yml has set up; hosts that tests added are not waited for."""
    seen = {words[0]: words[4] for words in (line.split() for line in lab.kumo("host list").splitlines()[1:])}
    wanted = {*lab.groups.get("hypervisors", []), *lab.groups.get("storage", [])}
    return all(not seen.get(name, "0/").startswith("0/") for name in wanted)


def has_guest_ports(lab: CloudLab, network: str) -> bool:
    """Whether a network has ports of servers, which hold it."""
    rows = lab.ask(f"port list --network {network} --long")
    return any(row["Device Owner"].startswith("compute:") for row in rows)


@dataclass
class Tenant:
    """Names of a test module's own, in the admin's project; everything with `tag` in its name goes at its end."""

    lab: CloudLab
    tag: str
    key: Path
    network: str
    group: str

    def create_server(
        self, name: str, host: str | None = None, *, wait: bool = True, more: str = "", code: int = 0
    ) -> str:
        """Create a server `<name>-<tag>`, on the host that is named or where the scheduler puts it; its name."""
        where = f"--availability-zone nova:{host}" if host else ""
        self.lab.openstack(
            f"server create --image {IMAGE} --flavor {FLAVOR} --network {self.network} --key-name key-{self.tag}"
            f" --security-group {self.group} {where} {more} {'--wait' if wait else ''} {name}-{self.tag}",
            code=code,
        )  # fmt: skip
        return f"{name}-{self.tag}"


@pytest.fixture(scope="session")
def image(lab) -> str:
    """The guest image, in the image service and public; and a flavor that fits it."""
    if IMAGE not in {row["Name"] for row in lab.ask("image list")}:
        path = lab.folder / "kumo-guest.qcow2"
        with path.open("wb") as stream:
            words = [*lab.ssh(lab.controller), f"cat {GUEST_IMAGE}/kumo-guest.qcow2"]
            subprocess.run(words, stdout=stream, check=True, timeout=120)
        about = json.loads(lab.run(lab.controller, f"cat {GUEST_IMAGE}/kumo-guest.json"))
        lab.openstack(
            f"image create --file {path} --disk-format qcow2 --container-format bare --public"
            f" --min-ram {about['min_ram_mb']} {IMAGE}",
        )  # fmt: skip
    if FLAVOR not in {row["Name"] for row in lab.ask("flavor list")}:
        lab.openstack(f"flavor create --ram 192 --disk 1 --vcpus 1 --public {FLAVOR}")
    return IMAGE


@pytest.fixture(scope="module")
def tenant(lab, image, tmp_path_factory) -> Tenant:
    """A network with DHCP, a key and a group that lets ssh and ping in."""
    tag = uuid.uuid4().hex[:6]
    key = tmp_path_factory.mktemp("tenant") / "id_ed25519"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    made = Tenant(lab, tag, key, f"net-{tag}", f"sg-{tag}")
    lab.openstack(f"keypair create --public-key {key}.pub key-{tag}")
    lab.openstack(f"network create {made.network}")
    lab.openstack(f"subnet create --network {made.network} --subnet-range 10.77.0.0/24 sub-{tag}")
    lab.openstack(f"security group create {made.group}")
    lab.openstack(f"security group rule create --protocol tcp --dst-port 22 {made.group}")
    lab.openstack(f"security group rule create --protocol icmp {made.group}")
    yield made
    servers = [row["ID"] for row in lab.ask("server list --all-projects") if tag in row["Name"]]
    if servers:
        lab.openstack(f"server delete --wait {' '.join(servers)}")
    wait_for("no port of a server", lambda: not has_guest_ports(lab, made.network))
    lab.openstack(f"network delete {made.network}")
    lab.openstack(f"security group delete {made.group}")
    lab.openstack(f"keypair delete key-{tag}")
