"""What a scenario's hosts.yml says: the one inventory that Ansible reads and that hosts are made of.

hosts.yml is an Ansible inventory. Beside Ansible's own variables it has, for all hosts,

    lab_networks: {management: {address: 10.231.0.1/24, mtu: 1500}, trunk: {}}

(the bridges; `address` is the lab's own there, the first network with one is where hosts have their default route),
and for each host

    ansible_host: 10.231.0.11               its address on the first of its networks that has one
    lab_kind: container | machine
    lab_nics: [{network: management, address: 10.231.0.11/24}, {network: trunk}]     eth0, eth1 … in this order
    lab_memory_mb: 2048                     machines only
    lab_disks_gb: [8]                       machines only: empty disks beside the root disk

Owns: reading and checking it. May not: change anything. Next room: networks.py, containers.py, machines.py.
"""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

import yaml

STATE = Path("/var/lib/kumo-lab")
KINDS = ("container", "machine")


class LabError(Exception):
    """A lab cannot be made, read or taken away; the text is a sentence for who asked."""


@dataclass(frozen=True)
class Network:
    """One bridge in the lab's namespace."""

    name: str
    address: str | None = None  # the lab's own, with its prefix length
    mtu: int = 1500

    @property
    def bridge(self) -> str:
        return f"br-{self.name}"


@dataclass(frozen=True)
class Nic:
    """One interface of a host; the first is eth0."""

    network: Network
    address: str | None = None  # with its prefix length


@dataclass(frozen=True)
class Host:
    """One host to be made."""

    name: str
    kind: str
    address: str
    nics: tuple[Nic, ...]
    memory_mb: int = 2048
    disks_gb: tuple[int, ...] = ()


@dataclass(frozen=True)
class Lab:
    """A scenario's hosts and where they live."""

    name: str
    scenario: Path
    networks: dict[str, Network] = field(default_factory=dict)
    hosts: dict[str, Host] = field(default_factory=dict)

    @property
    def namespace(self) -> str:
        """The network namespace of the bridges, and of Ansible, ssh, clients and tests."""
        return f"kumo-lab-{self.name}"

    @property
    def folder(self) -> Path:
        return STATE / self.name

    @property
    def key(self) -> Path:
        """The private key of the operator of these hosts; `key`.pub beside it."""
        return self.folder / "id_ed25519"

    @property
    def known_hosts(self) -> Path:
        return self.folder / "known_hosts"

    def host_folder(self, host: Host) -> Path:
        return self.folder / "hosts" / host.name

    def host_namespace(self, host: Host) -> str:
        """The network namespace that is a container's whole network."""
        return f"{self.namespace}.{host.name}"

    def lab_interface(self, host: Host, index: int) -> str:
        """The lab's end of a host's NIC (a veth or a tap), in the lab's namespace."""
        return f"{host.name[:10]}.eth{index}"


def read_lab_name(scenario: Path) -> str:
    """The lab's name: the scenario's, and KUMO_LAB where several people test on one machine."""
    suffix = os.environ.get("KUMO_LAB", "")
    name = f"{scenario.name}-{suffix}" if suffix else scenario.name
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,30}", name):
        raise LabError(f"{name!r} is no name for a lab: up to 31 small letters, digits and hyphens are")
    return name


def walk_hosts(group: dict, found: dict) -> None:
    """{host: its own variables} of a group of an Ansible inventory and of the groups below it."""
    for name, variables in (group.get("hosts") or {}).items():
        found.setdefault(name, {}).update(variables or {})
    for child in (group.get("children") or {}).values():
        walk_hosts(child or {}, found)


def build_host(name: str, variables: dict, networks: dict[str, Network]) -> Host:
    """One host out of its variables; LabError names what is wrong."""
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,30}", name):
        raise LabError(f"{name!r} is no name for a host: up to 31 small letters, digits and hyphens are")
    kind = variables.get("lab_kind")
    if kind not in KINDS:
        raise LabError(f"host {name}: lab_kind is {kind!r}; it must be one of {', '.join(KINDS)}")
    nics = []
    for nic in variables.get("lab_nics") or []:
        if nic.get("network") not in networks:
            raise LabError(
                f"host {name}: lab_nics names the network {nic.get('network')!r}, which lab_networks has not"
            )
        nics.append(Nic(networks[nic["network"]], nic.get("address")))
    own = [str(ipaddress.ip_interface(nic.address).ip) for nic in nics if nic.address]
    address = variables.get("ansible_host")
    if address not in own:
        raise LabError(f"host {name}: ansible_host {address!r} is not among the addresses of its lab_nics {own}")
    disks = tuple(variables.get("lab_disks_gb") or ())
    if disks and kind == "container":
        raise LabError(f"host {name}: a container has no disks of its own; lab_disks_gb is for machines")
    return Host(name, kind, address, tuple(nics), variables.get("lab_memory_mb", 2048), disks)


def read_lab(scenario: Path) -> Lab:
    """The lab that a scenario's folder describes."""
    scenario = scenario.resolve()
    try:
        top = yaml.safe_load((scenario / "hosts.yml").read_text(encoding="utf-8"))["all"]
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise LabError(f"{scenario}/hosts.yml cannot be read: {error}") from None
    networks = {
        name: Network(name, (said or {}).get("address"), (said or {}).get("mtu", 1500))
        for name, said in (top.get("vars", {}).get("lab_networks") or {}).items()
    }
    for name in networks:
        if not re.fullmatch(r"[a-z][a-z0-9]{0,11}", name):
            raise LabError(f"{name!r} is no name for a network: up to 12 small letters and digits are")
    found: dict = {}
    walk_hosts(top, found)
    if not found:
        raise LabError(f"{scenario}/hosts.yml has no hosts")
    hosts = {name: build_host(name, variables, networks) for name, variables in found.items()}
    if len({host.name[:10] for host in hosts.values()}) != len(hosts):
        raise LabError("names of hosts must differ in their first ten letters: interfaces are named after them")
    return Lab(read_lab_name(scenario), scenario, networks, hosts)
