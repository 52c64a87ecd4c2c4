"""What a document says of other hosts, against the same said row by row: after each of many random changes."""

from __future__ import annotations

import ipaddress
import random

from sqlalchemy import delete, select

from web.desired import build_document, read_rows
from web.models import (
    Address,
    Host,
    Migration,
    Network,
    Port,
    PortSecurityGroup,
    SecurityGroup,
    SecurityGroupRule,
    Server,
    Subnet,
)
from web.models.migrations import UNDER_WAY

PROJECT = "p" * 32
FLAVOR = {"name": "f", "vcpus": 1, "ram_mb": 1, "disk_gb": 1}


class Rows:
    """A small cloud of rows, changed at random; the same seed makes the same changes."""

    def __init__(self, session, seed: int):
        self.session, self.chance, self.number = session, random.Random(seed), 0
        self.hosts = [
            Host(name=f"h{n}", roles=["hypervisor"], settings={"tunnel_address": f"10.9.0.{12 - n}"} if n else {})
            for n in range(4)
        ]
        kinds = ("vxlan", "vxlan", "local", "flat")
        self.networks = [
            Network(
                project_id=PROJECT, name=f"n{n}", zone=100 + n, network_type=kind, segmentation_id=n,
                external=kind == "flat", physical_network="public" if kind == "flat" else None,
            )
            for n, kind in enumerate(kinds)
        ]  # fmt: skip
        self.groups = [SecurityGroup(project_id=PROJECT, name=f"g{n}") for n in range(3)]
        session.add_all([*self.hosts, *self.networks, *self.groups])
        session.flush()
        self.subnets = {
            (network.id, version): Subnet(
                project_id=PROJECT, network_id=network.id, ip_version=version,
                cidr="10.1.0.0/16" if version == 4 else "fd00::/64", gateway_ip=None,
            )
            for network in self.networks for version in (4, 6)
        }  # fmt: skip
        session.add_all(self.subnets.values())
        for group, remote in zip(self.groups, (self.groups[0], self.groups[2], None), strict=True):
            rule = {"project_id": PROJECT, "direction": "ingress", "security_group_id": group.id}
            session.add(SecurityGroupRule(**rule, remote_group_id=remote.id if remote else None))
        session.flush()

    def change(self) -> None:
        verbs = (self.add, self.add, self.add, self.move, self.regroup, self.readdress, self.remove, self.migrate)
        self.chance.choice(verbs)()
        self.session.flush()
        self.session.expire_all()

    def _ports(self) -> list[Port]:
        return self.session.scalars(select(Port).where(Port.project_id == PROJECT).order_by(Port.mac_address)).all()

    def _port(self) -> Port | None:
        ports = self._ports()
        return self.chance.choice(ports) if ports else None

    def _address(self, port: Port, version: int) -> None:
        self.number += 1
        text = f"10.1.{self.number % 7}.{self.number}" if version == 4 else f"fd00::{self.number:x}"
        subnet = self.subnets[port.network_id, version]
        self.session.add(Address(port_id=port.id, subnet_id=subnet.id, address=text))

    def add(self) -> None:
        self.number += 1
        host, network = self.chance.choice([None, *self.hosts]), self.chance.choice(self.networks)
        owner = self.chance.choice(["compute:nova", "compute:nova", "network:dhcp"])
        server = Server(
            project_id=PROJECT, user_id="u", reservation_id="r", name="s", hostname="s", flavor_id="1", power="on",
            host_id=host.id if host else None,
            flavor=FLAVOR,
        )  # fmt: skip
        self.session.add(server)
        self.session.flush()
        port = Port(
            project_id=PROJECT, network_id=network.id, device_id=server.id, device_owner=owner,
            host_id=host.id if host else None, mac_address=f"fa:16:3e:00:00:{self.number:02x}",
        )  # fmt: skip
        self.session.add(port)
        self.session.flush()
        for version in self.chance.choice([(), (4,), (6, 4), (4, 4, 6)]):
            self._address(port, version)
        for group in self.chance.sample(self.groups, self.chance.randrange(3)):
            self.session.add(PortSecurityGroup(port_id=port.id, security_group_id=group.id))

    def move(self) -> None:
        if port := self._port():
            host = self.chance.choice([None, *self.hosts])
            server = self.session.scalar(select(Server).where(Server.id == port.device_id))
            port.host_id = server.host_id = host.id if host else None

    def regroup(self) -> None:
        if port := self._port():
            self.session.execute(delete(PortSecurityGroup).where(PortSecurityGroup.port_id == port.id))
            self.session.add(PortSecurityGroup(port_id=port.id, security_group_id=self.chance.choice(self.groups).id))

    def readdress(self) -> None:
        if port := self._port():
            self.session.execute(delete(Address).where(Address.port_id == port.id))
            self._address(port, self.chance.choice((4, 6)))

    def remove(self) -> None:
        if port := self._port():
            self.session.delete(port)

    def migrate(self) -> None:
        if port := self._port():
            source, dest = self.chance.sample(self.hosts, 2)
            self.session.execute(delete(Migration).where(Migration.server_id == port.device_id))
            phase = self.chance.choice([*UNDER_WAY, "ended"])
            self.session.add(
                Migration(
                    server_id=port.device_id, project_id=PROJECT, user_id="u", kind="live-migration", phase=phase,
                    old_flavor_id="1", new_flavor_id="1", old_flavor=FLAVOR, new_flavor=FLAVOR,
                    source_host_id=source.id, dest_host_id=dest.id,
                )
            )  # fmt: skip


def say_elsewhere(session, network: Network, host: Host, moving: set[str]) -> list[dict]:
    """The ports of other hosts on a network, each looked up by itself."""
    said = []
    for port in session.scalars(select(Port).where(Port.network_id == network.id).order_by(Port.id)):
        away = port.host_id is not None and port.host_id != host.id
        moves = port.device_id in moving
        if network.external or not port.device_owner.startswith("compute:") or not (away or moves):
            continue
        other = session.get(Host, port.host_id) if port.host_id else None
        tunnel = other.settings.get("tunnel_address") if other and other is not host else None
        said.append(
            {
                "port": port.id,
                "mac": port.mac_address,
                "addresses": [row.address for row in port.addresses],
                "tunnel": tunnel if network.network_type == "vxlan" and not moves else None,
            }
        )
    return said


def say_members(session, group_id: str) -> dict[str, list[str]]:
    """The addresses of a group's ports, each port looked at by itself."""
    group = session.get(SecurityGroup, group_id)
    found = {
        ipaddress.ip_address(row.address)
        for port in session.scalars(select(Port)) if group in port.security_groups for row in port.addresses
    }  # fmt: skip
    return {f"IPv{v}": [str(a) for a in sorted(a for a in found if a.version == v)] for v in (4, 6)}


def test_other_hosts_ports_and_members_after_any_change(cloud):
    seen = {"elsewhere": 0, "moving": 0, "members": 0, "unbound": 0}
    for seed in (1, 2):
        with cloud.database.write() as session, session.begin() as transaction:
            rows = Rows(session, seed)
            for _ in range(10):
                for _ in range(4):
                    rows.change()
                under_way = session.scalars(select(Migration).where(Migration.phase.in_(UNDER_WAY)))
                moving = {one.server_id for one in under_way}
                for host in rows.hosts:
                    document = build_document(read_rows(session, host), cloud.settings)
                    for one in document["networks"]:
                        said = say_elsewhere(session, session.get(Network, one["id"]), host, moving)
                        assert one["elsewhere"] == said, (seed, host.name, one["id"])
                        seen["elsewhere"] += len(said)
                        seen["moving"] += sum(row["tunnel"] is None for row in said)
                    named = {r["remote_group"] for g in document["security_groups"] for r in g["rules"]} - {None}
                    for group in document["security_groups"]:
                        empty = {"IPv4": [], "IPv6": []}
                        said = say_members(session, group["id"]) if group["id"] in named else empty
                        assert group["members"] == said, (seed, host.name, group["id"])
                        seen["members"] += len(said["IPv4"]) + len(said["IPv6"])
            seen["unbound"] += sum(port.host_id is None for port in rows._ports())
            transaction.rollback()
    assert all(seen.values()), seen
