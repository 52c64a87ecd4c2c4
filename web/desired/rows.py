"""The rows one host's document is made of, read in a fixed number of queries (per closure step).

A host's document reaches from its guests' ports to their networks, to the routers on those networks,
to everything those routers join. Owns the reading; `build.py` and its neighbours are pure.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sqlalchemy import and_, or_, select
from sqlalchemy.orm import Session, selectinload

from ..models import (
    FloatingIP,
    Host,
    Image,
    Migration,
    Network,
    Port,
    PortSecurityGroup,
    Router,
    SecurityGroup,
    Server,
    Snapshot,
    Subnet,
    Volume,
    VolumeAttachment,
)
from ..models.networks import DHCP, ROUTER_GATEWAY, ROUTER_INTERFACE
from .moves import choose_part, keeps_ports


@dataclass
class Rows:
    """What `build_document` takes; every list sorted by id."""

    host: Host
    servers: list[Server] = field(default_factory=list)  # that are here, come here, or have been here
    moves: dict[str, list[Migration]] = field(default_factory=dict)  # by server id: open ones that concern this host
    tunnel_addresses: dict[str, str] = field(default_factory=dict)  # by id of the other host of a move
    images: list[Image] = field(default_factory=list)
    ports: list[Port] = field(default_factory=list)  # of guests on this host
    networks: list[Network] = field(default_factory=list)
    subnets: dict[str, list[Subnet]] = field(default_factory=dict)  # by network id
    router_ports: list[Port] = field(default_factory=list)  # interfaces and gateways
    dhcp_ports: list[Port] = field(default_factory=list)
    routers: list[Router] = field(default_factory=list)
    floating_ips: list[FloatingIP] = field(default_factory=list)
    groups: list[SecurityGroup] = field(default_factory=list)
    group_addresses: dict[str, list[str]] = field(default_factory=dict)  # of groups that rules name
    volumes: list[Volume] = field(default_factory=list)  # kept by this host
    snapshots: list[Snapshot] = field(default_factory=list)
    attachments: list[VolumeAttachment] = field(default_factory=list)  # of those volumes
    whole: set[str] = field(default_factory=set)  # ids of those volumes and snapshots that were seen whole
    server_volumes: dict[str, list] = field(default_factory=dict)  # server id: [(attachment, volume)]


def _sorted(session: Session, statement) -> list:
    return sorted(session.execute(statement).unique().scalars(), key=lambda row: row.id)


def read_rows(session: Session, host: Host) -> Rows:
    """All that the document of ``host`` depends on."""
    rows = Rows(host)
    _read_moves(session, rows)
    # One that is gone from where it was may still have to go from the other host of its move.
    here = or_(and_(Server.host_id == host.id, Server.gone_at.is_(None)), Server.id.in_(list(rows.moves)))
    rows.servers = _sorted(session, select(Server).where(here))
    parts = {server.id: choose_part(rows, server)[0] for server in rows.servers}
    _read_volumes(session, rows)
    image_ids = {s.image_id for s in rows.servers if s.image_id and parts[s.id] in ("home", "incoming", "held")}
    image_ids |= {v.image_id for v in rows.volumes if v.image_id and v.deleted_at is None and v.built_at is None}
    rows.images = _sorted(session, select(Image).where(Image.id.in_(image_ids))) if image_ids else []
    # A tombstone keeps its ports until the guest is seen gone: no guest runs without its firewall.
    server_ids = {server.id for server in rows.servers if server.host_id == host.id}
    incoming = {s.id for s in rows.servers if parts[s.id] == "incoming" or keeps_ports(rows, s)}
    port_options = (selectinload(Port.addresses), selectinload(Port.security_groups))
    rows.ports = [
        port
        for port in _sorted(
            session,
            select(Port).where(or_(Port.host_id == host.id, Port.device_id.in_(incoming))).options(*port_options),
        )
        if port.device_id in server_ids | incoming
    ]
    _read_networks(session, rows, port_options)
    _read_groups(session, rows)
    return rows


def _read_moves(session: Session, rows: Rows) -> None:
    host = rows.host
    concerned = or_(Migration.source_host_id == host.id, Migration.dest_host_id == host.id)
    found = session.scalars(select(Migration).where(concerned, Migration.phase != "ended").order_by(Migration.id)).all()
    for one in found:
        rows.moves.setdefault(one.server_id, []).append(one)
    others = {one.dest_host_id for one in found} - {host.id}
    for other in session.scalars(select(Host).where(Host.id.in_(others))) if others else []:
        rows.tunnel_addresses[other.id] = (other.settings or {}).get("tunnel_address")


def _read_volumes(session: Session, rows: Rows) -> None:
    host = rows.host
    if "storage" in host.roles:
        rows.volumes = _sorted(session, select(Volume).where(Volume.host_id == host.id, Volume.gone_at.is_(None)))
        rows.snapshots = _sorted(
            session, select(Snapshot).where(Snapshot.host_id == host.id, Snapshot.gone_at.is_(None))
        )
        rows.attachments = _sorted(
            session,
            select(VolumeAttachment).join(Volume, Volume.id == VolumeAttachment.volume_id).where(
                Volume.host_id == host.id
            ),
        )  # fmt: skip
        rows.whole = {row.id for row in [*rows.volumes, *rows.snapshots] if row.built_at and row.deleted_at is None}
    server_ids = [server.id for server in rows.servers]
    if not server_ids:
        return
    pairs = session.execute(
        select(VolumeAttachment, Volume)
        .join(Volume, Volume.id == VolumeAttachment.volume_id)
        .where(VolumeAttachment.server_id.in_(server_ids))
        .order_by(VolumeAttachment.id)
    )
    for attachment, volume in pairs:
        rows.server_volumes.setdefault(attachment.server_id, []).append((attachment, volume))


def _read_networks(session: Session, rows: Rows, port_options) -> None:
    network_ids = {port.network_id for port in rows.ports}
    router_ids: set[str] = set()
    while True:
        interfaces = _sorted(
            session,
            select(Port)
            .where(
                or_(
                    (Port.device_owner == ROUTER_INTERFACE) & Port.network_id.in_(network_ids),
                    Port.device_owner.in_((ROUTER_INTERFACE, ROUTER_GATEWAY)) & Port.device_id.in_(router_ids),
                )
            )
            .options(*port_options),
        )
        found_routers = {port.device_id for port in interfaces}
        found_networks = network_ids | {port.network_id for port in interfaces}
        if found_routers == router_ids and found_networks == network_ids:
            break
        router_ids, network_ids = found_routers, found_networks
    rows.router_ports = interfaces
    rows.networks = _sorted(session, select(Network).where(Network.id.in_(network_ids)))
    for subnet in _sorted(session, select(Subnet).where(Subnet.network_id.in_(network_ids))):
        rows.subnets.setdefault(subnet.network_id, []).append(subnet)
    rows.dhcp_ports = _sorted(
        session, select(Port).where(Port.device_owner == DHCP, Port.network_id.in_(network_ids)).options(*port_options)
    )
    rows.routers = _sorted(session, select(Router).where(Router.id.in_(router_ids)))
    rows.floating_ips = _sorted(
        session, select(FloatingIP).where(FloatingIP.router_id.in_(router_ids), FloatingIP.port_id.is_not(None))
    )


def _read_groups(session: Session, rows: Rows) -> None:
    group_ids = {group.id for port in rows.ports for group in port.security_groups}
    rows.groups = _sorted(
        session, select(SecurityGroup).where(SecurityGroup.id.in_(group_ids)).options(selectinload(SecurityGroup.rules))
    )
    named = {rule.remote_group_id for group in rows.groups for rule in group.rules if rule.remote_group_id}
    if not named:
        return
    members = session.execute(
        select(PortSecurityGroup.security_group_id, Port)
        .join(Port, Port.id == PortSecurityGroup.port_id)
        .where(PortSecurityGroup.security_group_id.in_(named))
        .options(selectinload(Port.addresses))
    )
    for group_id, port in members:
        rows.group_addresses.setdefault(group_id, []).extend(row.address for row in port.addresses)
