"""The rows one host's document is made of, read in a fixed number of queries (per closure step).

A host's document reaches from its guests' ports to their networks, to the routers on those networks,
to everything those routers join. Owns the reading; `build.py` and its neighbours are pure.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from sqlalchemy import and_, or_, select
from sqlalchemy.orm import Session, selectinload

from ..models import (
    Address,
    FloatingIP,
    Host,
    HostImage,
    Image,
    Migration,
    Network,
    Port,
    PortSecurityGroup,
    Router,
    SecurityGroup,
    Server,
    ServerImage,
    Snapshot,
    Subnet,
    Volume,
    VolumeAttachment,
)
from ..models.migrations import LIVE, UNDER_WAY
from ..models.networks import COMPUTE, DHCP, GATEWAYS, ROUTER_INTERFACE
from .moves import choose_part, keeps_ports

_ports, _addresses, _members = Port.__table__, Address.__table__, PortSecurityGroup.__table__


class FarPort(NamedTuple):
    """What a document says of a guest's port on another host: there are thousands, so no whole rows."""

    id: str
    network_id: str
    mac_address: str
    host_id: str | None
    device_id: str
    addresses: list[str]


@dataclass
class Rows:
    """What `build_document` takes; every list sorted by id."""

    host: Host
    servers: list[Server] = field(default_factory=list)  # that are here, come here, or have been here
    moves: dict[str, list[Migration]] = field(default_factory=dict)  # by server id: open ones that concern this host
    tunnel_addresses: dict[str, str] = field(default_factory=dict)  # by host id, of hosts that have one
    server_images: dict[str, ServerImage] = field(default_factory=dict)  # by server id: that this host is to make
    images: list[Image] = field(default_factory=list)
    image_fetches: dict[str, int] = field(default_factory=dict)  # image id: how often it is to be fetched anew
    ports: list[Port] = field(default_factory=list)  # of guests on this host
    networks: list[Network] = field(default_factory=list)
    subnets: dict[str, list[Subnet]] = field(default_factory=dict)  # by network id
    router_ports: list[Port] = field(default_factory=list)  # interfaces, and this host's legs on external networks
    far_ports: list[FarPort] = field(default_factory=list)  # of guests on other hosts, and of those that move
    far_hosts: dict[str, set[str]] = field(default_factory=dict)  # network id: other hosts that have a port on it
    moving: set[str] = field(default_factory=set)  # ids of servers on their way from one host to another
    following: dict[str, str] = field(default_factory=dict)  # port id: server id, of those that move alive
    dhcp_ports: list[Port] = field(default_factory=list)
    routers: list[Router] = field(default_factory=list)
    floating_ips: list[FloatingIP] = field(default_factory=list)
    groups: list[SecurityGroup] = field(default_factory=list)
    group_addresses: dict[str, list[str]] = field(default_factory=dict)  # of groups that rules name
    volumes: list[Volume] = field(default_factory=list)  # kept by this host
    snapshots: list[Snapshot] = field(default_factory=list)
    attachments: list[VolumeAttachment] = field(default_factory=list)  # of those volumes
    whole: set[str] = field(default_factory=set)  # ids of those volumes and snapshots that were seen whole
    resting: set[str] = field(default_factory=set)  # ids of those whose guests are off until it is whole
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
    waiting = select(ServerImage).join(Image, Image.id == ServerImage.image_id).where(ServerImage.host_id == host.id)
    waiting = waiting.where(Image.status.in_(("queued", "saving")), Image.deleted_at.is_(None))
    rows.server_images = {one.server_id: one for one in session.scalars(waiting)}
    built = [s.base_image_id for s in rows.servers if parts[s.id] in ("home", "incoming", "held")]
    image_ids = set(built) - {None}
    image_ids |= {s.rescue_image_id for s in rows.servers if s.rescue_image_id and parts[s.id] in ("home", "incoming")}
    making = [v for v in rows.volumes if v.deleted_at is None and (v.built_at is None or v.is_reimaged)]
    image_ids |= {volume.image_id for volume in making if volume.image_id}
    for one in session.scalars(select(HostImage).where(HostImage.host_id == host.id)):
        rows.image_fetches[one.image_id] = one.fetch_wanted
        if one.kept and session.scalar(select(Image.deleted_at).where(Image.id == one.image_id)) is None:
            image_ids.add(one.image_id)
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
    _read_tunnel_addresses(session, rows, {one.dest_host_id for one in found})


def _read_tunnel_addresses(session: Session, rows: Rows, host_ids: set[str]) -> None:
    wanted = host_ids - {rows.host.id} - set(rows.tunnel_addresses)
    if wanted:
        for host_id, settings in session.execute(select(Host.id, Host.settings).where(Host.id.in_(wanted))):
            if (settings or {}).get("tunnel_address"):
                rows.tunnel_addresses[host_id] = settings["tunnel_address"]


def _read_resting(session: Session, rows: Rows) -> set[str]:
    """Volumes with a snapshot to be taken, whose guests are off and stay so until it is (`volume_images.py`)."""
    wanted = {row.volume_id for row in rows.snapshots if row.built_at is None and row.deleted_at is None}
    users: dict[str, set[str]] = {}
    for one in rows.attachments:
        if one.volume_id in wanted and one.wanted:
            users.setdefault(one.volume_id, set()).add(one.server_id)
    servers = select(Server.id).where(
        Server.id.in_({server_id for ids in users.values() for server_id in ids}),
        Server.vm_state.in_(("stopped", "suspended")),
        Server.image_task.is_not(None),
    )
    resting = set(session.scalars(servers)) if users else set()
    return {volume_id for volume_id, ids in users.items() if ids <= resting}


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
        rows.resting = _read_resting(session, rows)
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
                    Port.device_owner.in_((ROUTER_INTERFACE, *GATEWAYS)) & Port.device_id.in_(router_ids),
                )
            )
            .options(*port_options),
        )
        found_routers = {port.device_id for port in interfaces}
        found_networks = network_ids | {port.network_id for port in interfaces}
        if found_routers == router_ids and found_networks == network_ids:
            break
        router_ids, network_ids = found_routers, found_networks
    rows.router_ports = [
        port for port in interfaces if port.device_owner == ROUTER_INTERFACE or port.host_id == rows.host.id
    ]
    rows.networks = _sorted(session, select(Network).where(Network.id.in_(network_ids)))
    for subnet in _sorted(session, select(Subnet).where(Subnet.network_id.in_(network_ids))):
        rows.subnets.setdefault(subnet.network_id, []).append(subnet)
    rows.dhcp_ports = _sorted(
        session, select(Port).where(Port.device_owner == DHCP, Port.network_id.in_(network_ids)).options(*port_options)
    )
    rows.routers = _sorted(session, select(Router).where(Router.id.in_(router_ids)))
    on_their_way = {
        one.server_id for moves in rows.moves.values() for one in moves if one.kind == LIVE and one.phase in UNDER_WAY
    }
    rows.following = {port.id: port.device_id for port in rows.ports if port.device_id in on_their_way}
    here = or_(Port.host_id == rows.host.id, Port.id.in_(list(rows.following)))
    rows.floating_ips = _sorted(
        session,
        select(FloatingIP).join(Port, Port.id == FloatingIP.port_id).where(FloatingIP.router_id.in_(router_ids), here),
    )
    _read_far(session, rows, network_ids)


def _read_far(session: Session, rows: Rows, network_ids: set[str]) -> None:
    """Ports that other hosts have on these networks, those hosts, and which of their guests move."""
    if not network_ids:
        return
    moves = session.execute(
        select(Port.id, Port.network_id, Migration.server_id, Migration.source_host_id, Migration.dest_host_id)
        .join(Migration, Migration.server_id == Port.device_id)
        .where(
            Port.network_id.in_(network_ids),
            Migration.phase.in_(UNDER_WAY),
            Migration.source_host_id.is_distinct_from(Migration.dest_host_id),
        )
    ).all()
    rows.moving = {row.server_id for row in moves}
    inner = {network.id for network in rows.networks if not network.external}
    moving_ports = {row.id for row in moves}
    pairs = {(row.network_id, host_id) for row in moves for host_id in (row.source_host_id, row.dest_host_id)}
    guests: dict[str, FarPort] = {}
    for port_id, network_id, mac, host_id, device_id, is_guest, address in session.execute(_build_wide(network_ids)):
        pairs.add((network_id, host_id))
        # NULL is no other host, as in SQL: an unbound port is nowhere, unless its guest moves.
        far = host_id not in (None, rows.host.id) or port_id in moving_ports
        if not far or not is_guest or network_id not in inner:
            continue
        port = guests.get(port_id)
        if port is None:
            port = guests[port_id] = FarPort(port_id, network_id, mac, host_id, device_id, [])
        if address is not None:
            port.addresses.append(address)
    rows.far_ports = [guests[port_id] for port_id in sorted(guests)]
    for network_id, host_id in pairs:
        if host_id not in (None, rows.host.id):
            rows.far_hosts.setdefault(network_id, set()).add(host_id)
    _read_tunnel_addresses(session, rows, {host_id for _, host_id in pairs if host_id})


def _build_wide(network_ids: set[str]):
    """Ports of these networks that are on a host or a guest's, once for each address: thousands, so read only once.

    On tables, for plain rows; in the order of the addresses.
    """
    port = _ports.c
    is_guest = port.device_owner.startswith(COMPUTE)
    return (
        select(port.id, port.network_id, port.mac_address, port.host_id, port.device_id, is_guest, _addresses.c.address)
        .outerjoin_from(_ports, _addresses, _addresses.c.port_id == port.id)
        .where(port.network_id.in_(network_ids), or_(port.host_id.is_not(None), is_guest))
        .order_by(_addresses.c.id)
    )


def _read_groups(session: Session, rows: Rows) -> None:
    group_ids = {group.id for port in rows.ports for group in port.security_groups}
    rows.groups = _sorted(
        session, select(SecurityGroup).where(SecurityGroup.id.in_(group_ids)).options(selectinload(SecurityGroup.rules))
    )
    named = {rule.remote_group_id for group in rows.groups for rule in group.rules if rule.remote_group_id}
    if not named:
        return
    # An outer join, so that SQLite begins with the members: from the addresses it looks for each in each of the groups.
    members = session.execute(
        select(_members.c.security_group_id, _addresses.c.address)
        .outerjoin_from(_members, _addresses, _addresses.c.port_id == _members.c.port_id)
        .where(_members.c.security_group_id.in_(named))
    )
    for group_id, address in members:
        if address is not None:
            rows.group_addresses.setdefault(group_id, []).append(address)
