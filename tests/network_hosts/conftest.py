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
        return self.run(f"ping -c 3 -W 2 -s {size} {address} >/dev/null && echo yes", code=None).strip() == "yes"

    def wait(self) -> None:
        """Return as soon as somebody can log in: DHCP, metadata and ssh have worked."""
        deadline = time.monotonic() + READY_S
        while self.run("hostname", code=None).strip() != self.name:
            assert time.monotonic() < deadline, f"nobody can log in to {self.name}"
            time.sleep(1)

    def end(self) -> None:
        """The hosts end with their guests."""


LEASE = """#!/bin/sh
[ "$1" = bound ] || exit 0
ip address add $ip/$mask dev $interface
ip link set $interface mtu $mtu
ip route add default via $router
"""


class Space(Guest):
    """In place of a guest a network namespace on its host, behind the tap that the document names.

    For hosts that are themselves emulated: a guest in one of those takes minutes.
    """

    def __init__(self, hosts: Hosts, name: str, host: str, four: str, six: str):
        super().__init__(hosts, name, host, four, six)
        self.number = six[-4:]  # network and last part of the address, as document.yml.j2 makes ids of them

    def run(self, command: str, code: int | None = 0, timeout: float = 60) -> str:
        words = [*self.hosts.ssh(self.host), f"sudo -n ip netns exec {self.name} /bin/sh -c {shlex.quote(command)}"]
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=timeout, check=False, stdin=subprocess.DEVNULL
        )
        assert code is None or done.returncode == code, f"{self.name}: {command}: {done.stdout}{done.stderr}"
        return done.stdout

    def wait(self) -> None:
        """Make it, and let it ask for its address."""
        tap, mac = f"ktp0000{self.number}000", f"fa:16:3e:00:{self.number[:2]}:{self.number[2:]}"
        self.end()
        lines = [
            f"ip netns add {self.name}",
            f"ip link add {tap} type veth peer name eth0 address {mac} netns {self.name}",
            f"ip link set {tap} master kbr000000{self.number[:2]}000 up",
            f"ip -n {self.name} link set lo up",
            f"ip -n {self.name} link set eth0 up",
            f"printf %s {shlex.quote(LEASE)} >/run/lease && chmod 755 /run/lease",
            f"ip netns exec {self.name} busybox udhcpc -f -q -n -t 10 -T 1 -i eth0 -O mtu -s /run/lease",
        ]
        self.hosts.run(self.host, " && ".join(lines))
        wanted = time.monotonic() + 30
        while self.six not in self.run("ip -6 address show dev eth0 scope global -tentative"):
            assert time.monotonic() < wanted, f"{self.name} got no router advertisement"
            time.sleep(0.5)

    def end(self) -> None:
        self.hosts.run(self.host, f"ip netns del {self.name} 2>/dev/null || true")


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
def guests(hosts):
    """molecule/network/document.yml.j2's guests by name, all up."""
    rows = [
        ("a-one", "host1", "10.1.0.5", "fd01::f816:3eff:fe00:1105"),
        ("a-two", "host2", "10.1.0.6", "fd01::f816:3eff:fe00:1106"),
        ("a-far", "host2", "10.2.0.6", "fd02::f816:3eff:fe00:1206"),
        ("b-one", "host1", "10.1.0.9", "fd01::f816:3eff:fe00:2109"),
        ("b-two", "host2", "10.1.0.6", "fd01::f816:3eff:fe00:2106"),
    ]
    kind = Space if any(host.kind == "machine" for host in hosts.lab.hosts.values()) else Guest
    made = {row[0]: kind(hosts, *row) for row in rows}
    for guest in made.values():
        guest.wait()
    yield made
    for guest in made.values():
        guest.end()
