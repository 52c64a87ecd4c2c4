"""Guests between two hypervisors by documents written by hand: no API, no worker, a state directory of its own.

Owns: the documents, the calls of the modules as root on the hosts, a pinger beside the guest, commands in the guest.
May not: know what a test expects. The hosts are those of the lab, as `playbooks/site.yml` prepared them; the modules
are this checkout's. Next room: test_moves_by_document.py.
"""

from __future__ import annotations

import base64
import io
import itertools
import json
import shlex
import subprocess
import tarfile
import time
import uuid
from pathlib import Path

from cloud_lab import GUEST_IMAGE, ROOT, CloudLab, wait_for

STATE = "/var/lib/kumo-moves-test"
STORAGE_STATE = f"{STATE}-storage"  # the storage host may be one of the hypervisors
CODE = "/opt/kumo-moves-test"
NETWORK, SUBNET, GROUP, IMAGE = (f"6d6f7665-0000-4000-8000-00000000000{n}" for n in range(1, 5))
METADATA = "kumo-moves-metadata"
BRIDGE, PINGER = "kbr6d6f7665000", "kumo-moves-ping"
ADDRESS, PINGS_FROM = "10.78.0.5", "10.78.0.200"
RUN = (
    f'import sys, json; sys.path.insert(0, "{CODE}"); from kumo import core; '
    "print(json.dumps(core.run_sections(json.load(sys.stdin))))"
)


class MovesLab:
    """The hosts `here` and `there`, and the storage host; ``guest`` is the one guest of the documents."""

    def __init__(self, lab: CloudLab, key: Path):
        self.lab, self.key = lab, key
        self.here, self.there = lab.groups["hypervisors"][:2]
        self.storage = lab.groups["storage"][0]
        self.generation, self.volumes = int(time.time()), []
        self.image = self._read_image()
        self._install()
        self._remove_guests()  # what a run that was killed left

    def address(self, host: str) -> str:
        return self.lab.hosts[host].address

    def root(self, host: str, command: str, **options) -> str:
        return self.lab.run(host, command, root=True, **options)

    def virsh(self, host: str, words: str, code: int | None = 0) -> str:
        return self.root(host, f"virsh -q -c qemu:///system {words}", code=code, both=False)

    def _read_image(self) -> dict:
        path = f"{GUEST_IMAGE}/kumo-guest.qcow2"
        about = json.loads(self.root(self.here, f"qemu-img info -f qcow2 --output=json {path}"))
        digest, size = self.root(self.here, f"sha512sum {path} | cut -d ' ' -f 1; stat -c %s {path}").split()
        return {
            "id": IMAGE, "checksum": f"sha512:{digest}", "size": int(size), "disk_format": "qcow2",
            "virtual_size": about["virtual-size"], "source": {"path": path},
        }  # fmt: skip

    def _install(self) -> None:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as tar:
            for path in sorted((ROOT / "module_utils" / "kumo").glob("*.py")):
                tar.add(path, f"kumo/{path.name}")
        text = base64.b64encode(packed.getvalue()).decode()
        for host in (self.here, self.there, self.storage):
            unpack = f"rm -rf {CODE} && mkdir -p {CODE} && base64 -d | tar -xz -C {CODE}"
            self.root(host, unpack, input=text)
        for host in (self.here, self.there):
            daemon = f"/usr/bin/python3 /usr/local/lib/kumo/kumo_metadata.py --state-dir {STATE}"
            self.root(host, f"systemctl is-active -q {METADATA} || systemd-run -q --unit {METADATA} {daemon}")

    def build_storage_document(self, volumes: list[dict]) -> dict:
        """The whole document of the storage host with these volumes."""
        self.generation += 1
        storage = {"backend": "file", "portal": f"{self.address(self.storage)}:3260"}
        return {
            "version": 1, "host": self.storage, "generation": self.generation, "fence": 1, "volumes": volumes,
            "settings": {"state_dir": STORAGE_STATE, "hypervisor": False, "storage": storage},
        }  # fmt: skip

    def build_document(self, host: str, rows: list[dict]) -> dict:
        """The whole document of a hypervisor with these servers."""
        self.generation += 1
        document = {"version": 1, "host": host, "generation": self.generation, "fence": 1}
        settings = {"state_dir": STATE, "virt_type": "qemu", "stop_timeout_s": 30}
        ports = [
            {
                "id": port, "network": NETWORK, "server": row["id"], "mac": build_mac(port), "addresses": [ADDRESS],
                "admin_state_up": True, "port_security": True, "security_groups": [GROUP], "allowed_address_pairs": [],
            }
            for row in rows for port in row.get("ports", [])
        ]  # fmt: skip
        other = self.there if host == self.here else self.here
        rules = [
            {"id": GROUP[:-1] + f"{n}", "direction": way, "ethertype": "IPv4", "protocol": None, "port_min": None,
             "port_max": None, "remote_cidr": "0.0.0.0/0", "remote_group": None}
            for n, way in enumerate(("ingress", "egress"))
        ]  # fmt: skip
        # Each host serves its own guest, at an address of its own: the gateway that both share is not tried here.
        serves_at = "10.78.0.2" if host == self.here else "10.78.0.3"
        return {
            **document,
            "settings": {**settings, "tunnel_address": self.address(host)},
            "images": [self.image],
            "networks": [{
                "id": NETWORK, "project_id": "p", "mtu": 1450, "zone": 4001, "home": {"kind": "network", "id": NETWORK},
                "segmentation": {
                    "type": "vxlan", "id": 4001, "local": self.address(host), "peers": [self.address(other)]
                },
                "subnets": [{
                    "id": SUBNET, "ip_version": 4, "cidr": "10.78.0.0/24", "gateway_ip": None, "dhcp": True,
                    "dhcp_address": serves_at, "dns_nameservers": [], "host_routes": [],
                    "ipv6_mode": None,
                }],
                "reservations": [
                    {"port": port["id"], "mac": port["mac"], "addresses": [ADDRESS], "hostname": "g", "options": []}
                    for port in ports
                ],
            }],
            "security_groups": [{"id": GROUP, "rules": rules, "members": {"IPv4": [], "IPv6": []}}],
            "ports": ports,
            "servers": rows,
        }  # fmt: skip

    def run(self, host: str, document: dict) -> dict:
        """One run on a host, as the worker's; its result."""
        return json.loads(self.root(host, f"python3 -B -c {shlex.quote(RUN)}", input=json.dumps(document), timeout=180))

    def apply(self, host: str, *rows: dict) -> dict:
        """One run on a hypervisor with these servers; its result."""
        return self.run(host, self.build_document(host, list(rows)))

    def apply_volumes(self, *volumes: dict) -> dict:
        """Runs on the storage host until nothing is pending; the last result, whose objects are all well."""
        deadline = time.monotonic() + 120
        while (result := self.run(self.storage, self.build_storage_document(list(volumes))))["pending"]:
            assert time.monotonic() < deadline, f"still pending on {self.storage}"
            time.sleep(0.5)
        assert not find_faults(result), f"{self.storage}: {find_faults(result)}"
        return result

    def settle(self, host: str, *rows: dict, seconds: float = 120) -> dict:
        """Runs until nothing is pending; the last result, whose objects are all well."""
        deadline = time.monotonic() + seconds
        while (result := self.apply(host, *rows))["pending"]:
            assert time.monotonic() < deadline, f"still pending on {host}: {result['observed'].get('moves')}"
            time.sleep(0.5)
        assert not find_faults(result), f"{host}: {find_faults(result)}"
        return result

    def follow(self, host: str, row: dict, *states: str, seconds: float = 240) -> dict:
        """Runs until the host tells one of these states of the server's move; what it tells."""
        deadline = time.monotonic() + seconds
        while True:
            result = self.apply(host, row)
            assert not find_faults(result), f"{host}: {find_faults(result)}"
            told = result["observed"]["moves"][row["id"]]
            if told["state"] in states:
                return told
            assert time.monotonic() < deadline, f"not {states} on {host}: {told}"
            time.sleep(0.5)

    def build_guest(self, **more) -> dict:
        """A server's row; one port, a key to log in with."""
        server = str(uuid.uuid4())
        public = self.key.with_suffix(".pub").read_text().strip()
        metadata = {
            "uuid": server, "hostname": "g", "name": "g", "project_id": "p", "availability_zone": "nova",
            "launch_index": 0, "keys": [{"name": "k", "type": "ssh", "data": public}], "meta": {}, "user_data": None,
            "instance_type": "t", "ec2_id": "i-1", "image_ec2_id": "ami-1", "security_groups": [], "public_ipv4": None,
            "local_ipv4": ADDRESS, "reservation_id": "r-1",
        }  # fmt: skip
        return {
            "id": server, "project_id": "p", "wanted": "present", "name": "g", "power": "on",
            "reboot": {"wanted": 0, "type": "SOFT"}, "start": {"wanted": 0}, "stop": {"graceful": True}, "vcpus": 1,
            "memory_mb": 128, "root_gb": 1, "image": IMAGE, "ports": [str(uuid.uuid4())], "console": None,
            "metadata": metadata, **more,
        }  # fmt: skip

    def start_guest(self, row: dict) -> None:
        """The guest up on `here`, with a pinger beside it and somebody who can log in."""
        self.settle(self.here, row)
        pinger = (
            f"ip netns add {PINGER} && ip link add kmvping0 mtu 1450 type veth peer name kmvping1 netns {PINGER} && "
            f"ip link set kmvping0 master {BRIDGE} up && ip -n {PINGER} addr add {PINGS_FROM}/24 dev kmvping1 && "
            f"ip -n {PINGER} link set kmvping1 mtu 1450 up && ip -n {PINGER} link set lo up"
        )
        self.root(self.here, f"ip netns list | grep -qw {PINGER} || ( {pinger} )")
        self.wait_for_login()

    def wait_for_login(self, seconds: float = 240) -> None:
        wait_for(
            "a login", lambda: self.guest("echo ready", code=None, timeout=30).strip() == "ready", seconds, pause=1
        )

    def guest(self, command: str, code: int | None = 0, timeout: float = 180) -> str:
        """What a command prints in the guest, by ssh from the pinger."""
        hop = shlex.join([*self.lab.ssh(self.here), f"sudo -n ip netns exec {PINGER} busybox nc {ADDRESS} 22"])
        try:
            done = subprocess.run(
                ["ssh", "-F", "/dev/null", "-i", str(self.key), "-o", f"ProxyCommand={hop}", "-o", "BatchMode=yes",
                 "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR",
                 "-o", "ConnectTimeout=15", f"cirros@{ADDRESS}", command],
                capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            assert code is None, f"guest: {command} took longer than {timeout} s"
            return ""
        assert code is None or done.returncode == code, done.stdout + done.stderr
        return done.stdout

    def ping(self, seconds: int) -> subprocess.Popen:
        """Twenty pings a second at the guest, for so long or until `read_pings`."""
        command = f"sudo -n ip netns exec {PINGER} ping -n -i 0.05 -w {seconds} {ADDRESS}"
        return subprocess.Popen([*self.lab.ssh(self.here), command], stdout=subprocess.PIPE, text=True)

    def read_pings(self, ping: subprocess.Popen) -> tuple[int, float]:
        """(answers, the longest time without one in seconds) of a ping that is ended now."""
        self.root(
            self.here,
            f"kill -INT $(ip netns pids {PINGER} | xargs -r ps -o pid=,comm= -p | awk '$2 == \"ping\" {{print $1}}')",
        )
        lines = [
            line for line in ping.communicate(timeout=60)[0].splitlines() if "icmp_seq=" in line and "time=" in line
        ]
        numbers = sorted({int(line.split("icmp_seq=")[1].split()[0]) for line in lines})
        longest = max((later - one - 1 for one, later in itertools.pairwise(numbers)), default=10**6)
        return len(numbers), longest * 0.05

    def make_volume(self) -> dict:
        """A volume on the storage host, exported; the server's row of it."""
        volume, attachment = str(uuid.uuid4()), str(uuid.uuid4())
        made = {
            "id": volume, "project_id": "p", "wanted": "present", "size_gb": 1, "source": None,
            "exports": [{"id": attachment, "username": attachment.replace("-", ""), "password": uuid.uuid4().hex[:16],
                         "read_only": False}],
        }  # fmt: skip
        self.volumes.append(made)
        seen, export = self.apply_volumes(*self.volumes)["observed"]["exports"][attachment], made["exports"][0]
        return {
            "attachment": attachment, "volume": volume, "device": "vdb", "boot_index": None, "read_only": False,
            "portal": seen["portal"], "iqn": seen["iqn"], "lun": seen["lun"], "username": export["username"],
            "password": export["password"], "size_gb": 1,
        }  # fmt: skip

    def _remove_guests(self) -> None:
        for host in (self.here, self.there):
            self.root(host, f"ip netns del {PINGER} 2>/dev/null || true")
            names = self.root(host, f"ls {STATE}/servers 2>/dev/null || true").split()
            self.settle(host, *({"id": name, "project_id": "p", "wanted": "absent"} for name in names))

    def clean(self) -> None:
        """No guest, volume, network, process or file of these tests is left on any host."""
        self._remove_guests()
        for host in (self.here, self.there):
            self.root(host, f"systemctl stop {METADATA}")
            empty = {**self.build_document(host, []), "networks": [], "security_groups": [], "images": []}
            self.run(host, empty)
        self.apply_volumes(*({**volume, "wanted": "absent", "exports": []} for volume in self.volumes))
        for host in (self.here, self.there, self.storage):
            folders = f"{STATE}/servers {STATE}/tasks {STORAGE_STATE}/tasks {STORAGE_STATE}/volumes"
            left = self.root(host, f"ls {folders} 2>/dev/null || true", code=None)
            assert [line for line in left.splitlines() if line and not line.endswith(":")] == []
            self.root(host, f"rm -rf {STATE} {STORAGE_STATE} {CODE}")


def find_faults(result: dict) -> dict:
    """{section: {object: sentence}} of what failed in a run."""
    found = {
        section: {name: one["error"] for name, one in objects.items() if not one["ok"]}
        for section, objects in result["objects"].items()
    }
    return {section: errors for section, errors in found.items() if errors}


def build_mac(port: str) -> str:
    return "fa:16:3e:" + ":".join(port.replace("-", "")[at : at + 2] for at in (0, 2, 4))
