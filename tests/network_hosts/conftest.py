"""Two hypervisors whose documents were applied by hand, and their guests, for tests in the lab's network namespace.

Owns: how a command gets to a host and into a guest. May not: use Kumo's own modules. Needs
`molecule/hosts/lab.py run molecule/network -- pytest tests/network_hosts` (the scenario `network`, or one like it).
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "molecule"))

from hosts.inventory import read_lab

ROUTERS = {"a": "kumo-r-00000001-0000-4000-8000-000000000000", "b": "kumo-r-00000002-0000-4000-8000-000000000000"}
READY_S = 240


class Guest:
    """One guest: the host it is on, and its addresses."""

    def __init__(self, hosts: Hosts, name: str, host: str, four: str, six: str):
        self.hosts, self.name, self.host, self.four, self.six = hosts, name, host, four, six

    def run(self, command: str, code: int | None = 0, timeout: float = 60) -> str:
        """What a shell command prints in it, by ssh from its router's namespace on its own host."""
        hop = f"sudo -n ip netns exec {ROUTERS[self.name[0]]} busybox nc {self.four} 22"
        proxy = shlex.join([*self.hosts.ssh(self.host), hop])
        words = ["ssh", "-F", "/dev/null", "-i", str(self.hosts.lab.key), "-o", f"ProxyCommand={proxy}"]
        for option in (
            "BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR",
            "ConnectTimeout=15",
        ):  # fmt: skip
            words += ["-o", option]
        done = subprocess.run(
            [*words, f"cirros@{self.four}", command],
            capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        assert code is None or done.returncode == code, f"{self.name}: {command}: {done.stdout}{done.stderr}"
        return done.stdout

    def reaches(self, address: str, size: int = 56) -> bool:
        """Whether one of three echo requests is answered."""
        said = self.run(f"ping -c 3 -W 2 -s {size} {address}", code=None)
        return " 0 packets received" not in said and "packets received" in said


class Hosts:
    """The lab whose namespace this process is in."""

    def __init__(self):
        self.lab = read_lab(Path(os.environ["KUMO_LAB_SCENARIO"]))

    def ssh(self, host: str) -> list[str]:
        options = [
            "BatchMode=yes", "StrictHostKeyChecking=yes", f"UserKnownHostsFile={self.lab.known_hosts}",
            "LogLevel=ERROR", "ConnectTimeout=10", "ControlMaster=auto", "ControlPersist=120",
            f"ControlPath={self.lab.folder}/control-%r@%h",
        ]  # fmt: skip
        words = [word for option in options for word in ("-o", option)]
        return ["ssh", "-F", "/dev/null", "-i", str(self.lab.key), *words, f"admin@{self.lab.hosts[host].address}"]

    def run(self, host: str, command: str) -> str:
        """What a shell command prints on a host, as root."""
        words = [*self.ssh(host), f"sudo -n -- /bin/sh -c {shlex.quote(command)}"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL)
        assert done.returncode == 0, f"{host}: {command}: {done.stdout}{done.stderr}"
        return done.stdout


@pytest.fixture(scope="session")
def hosts() -> Hosts:
    if "KUMO_LAB_SCENARIO" not in os.environ:
        pytest.exit("run me by: molecule/hosts/lab.py run molecule/network -- .venv/bin/python -m pytest …", 2)
    return Hosts()


@pytest.fixture(scope="session")
def guests(hosts) -> dict[str, Guest]:
    """molecule/network/document.yml.j2's guests by name, each logged in to once: DHCP, metadata and ssh have worked."""
    rows = [
        ("a-one", "host1", "10.1.0.5", "fd01::f816:3eff:fe00:1105"),
        ("a-two", "host2", "10.1.0.6", "fd01::f816:3eff:fe00:1106"),
        ("a-far", "host2", "10.2.0.6", "fd02::f816:3eff:fe00:1206"),
        ("b-one", "host1", "10.1.0.9", "fd01::f816:3eff:fe00:2109"),
        ("b-two", "host2", "10.1.0.6", "fd01::f816:3eff:fe00:2106"),
    ]
    made = {row[0]: Guest(hosts, *row) for row in rows}
    deadline = time.monotonic() + READY_S
    for guest in made.values():
        while guest.run("hostname", code=None).strip() != guest.name:
            assert time.monotonic() < deadline, f"nobody can log in to {guest.name}"
            time.sleep(1)
    return made
