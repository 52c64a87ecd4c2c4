"""Which hosts' documents hold an object of the network, and how they are told that it changed.

A host's document holds a network where it has a guest's port on it, or on any network that routers tie
to it: each host routes for its own guests, so it knows every port of all networks its routers reach.
To tell one host too many costs it one empty run; one too few leaves it wrong. Call these after the
rows are as wanted, and before too where the change cuts a tie (an interface removed). Changes no object.
A guest that moves is on both hosts until it has arrived. Next room: `hosts.py`, whose `touch` this calls.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import select
from sqlalchemy.orm import Session

from .hosts import touch
from .migrations import Migration
from .networks import ROUTER_HOST_GATEWAY, ROUTER_INTERFACE, Network, Port, PortSecurityGroup, Router, SecurityGroupRule


def read_tied_networks(session: Session, networks: Iterable[str], routers: Iterable[str] = ()) -> set[str]:
    """Ids of the networks given, of those the routers given have interfaces on, and of all that routers tie to them."""
    return read_ties(session, networks, routers)[0]


def read_ties(
    session: Session, networks: Iterable[str], routers: Iterable[str] = ()
) -> tuple[set[str], set[tuple[str, str]]]:
    """(networks as in `read_tied_networks`, the (network id, router id) pairs that tie them)."""
    seen_networks, seen_routers = set(networks), set(routers)
    new_networks, new_routers = set(seen_networks), set(seen_routers)
    ties: set[tuple[str, str]] = set()
    tie = select(Port.network_id, Port.device_id).where(Port.device_owner == ROUTER_INTERFACE)
    while new_networks or new_routers:
        rows = list(session.execute(tie.where(Port.network_id.in_(new_networks)))) if new_networks else []
        rows += list(session.execute(tie.where(Port.device_id.in_(new_routers)))) if new_routers else []
        ties |= {(row.network_id, row.device_id) for row in rows}
        new_networks = {row.network_id for row in rows} - seen_networks
        new_routers = {row.device_id for row in rows} - seen_routers
        seen_networks |= new_networks
        seen_routers |= new_routers
    return seen_networks, ties


def join_ties(ties: Iterable[tuple[str, str]]) -> dict[str, set[str]]:
    """{network id: ids of all networks that routers tie it to, itself among them}, of (network, router) pairs. Pure."""
    by_router: dict[str, set[str]] = {}
    for network_id, router_id in ties:
        by_router.setdefault(router_id, set()).add(network_id)
    joined: dict[str, set[str]] = {}
    for networks in by_router.values():
        group = networks.union(*(joined.get(one, set()) for one in networks))
        joined |= dict.fromkeys(group, group)
    return joined


def _read_network_hosts(session: Session, networks: set[str]) -> set[str]:
    external = set(session.scalars(select(Network.id).where(Network.id.in_(networks), Network.external)))
    routers = set(session.scalars(select(Router.id).where(Router.gateway_network_id.in_(external)))) if external else ()
    tied = read_tied_networks(session, networks, routers)
    found = select(Port.host_id).where(Port.network_id.in_(tied), Port.host_id.is_not(None)).distinct()
    return set(session.scalars(found)) | set(session.scalars(_select_expecting().where(Port.network_id.in_(tied))))


def _select_expecting():
    """The hosts that guests are on their way to: their documents hold the ports already."""
    moving = select(Migration.dest_host_id).join(Port, Port.device_id == Migration.server_id)
    return moving.where(Migration.phase.in_(("preparing", "sending"))).distinct()


def _read_group_hosts(session: Session, groups: set[str]) -> set[str]:
    if not groups:
        return set()
    naming = select(SecurityGroupRule.security_group_id).where(SecurityGroupRule.remote_group_id.in_(groups))
    member = PortSecurityGroup.security_group_id.in_(groups) | PortSecurityGroup.security_group_id.in_(naming)
    found = (
        select(Port.host_id)
        .join(PortSecurityGroup, PortSecurityGroup.port_id == Port.id)
        .where(Port.host_id.is_not(None), member)
        .distinct()
    )
    expecting = _select_expecting().join(PortSecurityGroup, PortSecurityGroup.port_id == Port.id).where(member)
    return set(session.scalars(found)) | set(session.scalars(expecting))


def _touch_all(session: Session, hosts: Iterable[str], request_id: str | None) -> None:
    for host_id in sorted(hosts):  # one order for all transactions: no deadlocks
        touch(session, host_id, request_id)


def touch_network(session: Session, network_id: str, request_id: str | None = None) -> None:
    """Every host whose document holds the network; of an external one, the hosts of all routers on it."""
    _touch_all(session, _read_network_hosts(session, {network_id}), request_id)


def touch_hosts_and_networks(
    session: Session, hosts: Iterable[str], networks: Iterable[str], request_id: str | None = None
) -> None:
    """The hosts, and every host whose document holds one of the networks."""
    found = set(hosts)
    for network_id in networks:
        found |= _read_network_hosts(session, {network_id})
    _touch_all(session, found, request_id)


def touch_router(session: Session, router_id: str, request_id: str | None = None) -> None:
    """Every host that has a guest on a network of the router."""
    networks = read_tied_networks(session, (), (router_id,))
    _touch_all(session, _read_network_hosts(session, networks), request_id)


def touch_group(session: Session, group_id: str, request_id: str | None = None) -> None:
    """Every host that has a port of the group, or of a group with a rule that names it."""
    _touch_all(session, _read_group_hosts(session, {group_id}), request_id)


def touch_port(session: Session, port: Port, request_id: str | None = None) -> None:
    """The port's own host, those whose document holds its network, and those that count it in a group.

    A router's leg on one host is that host's concern alone.
    """
    if port.device_owner == ROUTER_HOST_GATEWAY:
        touch(session, port.host_id, request_id)
        return
    hosts = _read_network_hosts(session, {port.network_id})
    hosts |= _read_group_hosts(session, {group.id for group in port.security_groups})
    _touch_all(session, hosts | ({port.host_id} if port.host_id else set()), request_id)
