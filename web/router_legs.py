"""Routers' legs on external networks: one port for each host that has guests behind the router.

Each hypervisor translates for its own guests, so each needs an address of its own outside. The first host has
the router's gateway port (the one users see), each further one a port of its own. Works in the transaction
that changes who needs what: call `sync_router_legs` after a guest's port came to a host or left it, after a
router's interface or gateway changed, and when a guest's move begins, changes hands or ends. Writes rows only.
Next rooms: `allocation.py`, `models/reach.py`.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import select
from sqlalchemy.orm import Session

from .allocation import allocate_port, release_port
from .errors import Conflict
from .models import Migration, Network, Port, Router, Server, touch
from .models.migrations import UNDER_WAY
from .models.networks import GATEWAYS, ROUTER_GATEWAY, ROUTER_HOST_GATEWAY
from .models.reach import join_ties, read_ties


def read_guest_hosts(session: Session, networks: Iterable[str]) -> dict[str, set[str]]:
    """{network id: ids of the hosts that have a guest on it, or to which one is on its way}."""
    networks = list(networks)
    found: dict[str, set[str]] = {}
    here = (
        select(Port.network_id, Server.host_id)
        .join(Server, Server.id == Port.device_id)
        .where(Port.network_id.in_(networks), Server.host_id.is_not(None), Server.gone_at.is_(None))
        .distinct()
    )
    coming = (
        select(Port.network_id, Migration.dest_host_id)
        .join(Migration, Migration.server_id == Port.device_id)
        .where(Port.network_id.in_(networks), Migration.phase.in_(UNDER_WAY), Migration.dest_host_id.is_not(None))
        .distinct()
    )
    for statement in (here, coming):
        for network_id, host_id in session.execute(statement):
            found.setdefault(network_id, set()).add(host_id)
    return found


def plan_legs(needing: set[str], first: str | None, held: Iterable[str]) -> tuple[str | None, list[str], list[str]]:
    """(host of the gateway port, hosts that get a leg of their own, hosts whose own leg goes). Pure.

    Whoever has a leg keeps it: an address that changed would cut its guests' connections.
    """
    held = set(held)
    if first not in needing:
        first = min(needing - held, default=None)
    return first, sorted(needing - held - {first}), sorted(held - (needing - {first}))


def sync_router_legs(
    session: Session, settings, networks: Iterable[str], routers: Iterable[str] = (), request_id: str | None = None
) -> None:
    """Give the routers on these networks, and those named, a leg on every host that needs one, and no other.

    Conflict (IpAddressGenerationFailure) where the external network has no address left.
    """
    session.flush()
    tied, ties = read_ties(session, networks, routers)
    reached = {router_id for _, router_id in ties} | set(routers)
    if not reached:
        return
    outward = select(Router).where(Router.id.in_(reached), Router.gateway_network_id.is_not(None))
    rows = session.scalars(outward.order_by(Router.id).with_for_update()).all()  # two transactions make no leg twice
    if not rows:
        return
    legs: dict[str, list[Port]] = {}
    ids = [router.id for router in rows]
    for port in session.scalars(select(Port).where(Port.device_id.in_(ids), Port.device_owner.in_(GATEWAYS))):
        legs.setdefault(port.device_id, []).append(port)
    guests, joined = read_guest_hosts(session, tied), join_ties(ties)
    for router in rows:
        own = {network_id for network_id, router_id in ties if router_id == router.id}
        behind = set().union(*(joined[network_id] for network_id in own))
        needing = set().union(*(guests.get(network_id, set()) for network_id in behind))
        _apply_legs(session, settings, router, needing, legs.get(router.id, []), request_id)


def _apply_legs(session: Session, settings, router: Router, needing: set, legs: list[Port], request_id) -> None:
    gateway = next((port for port in legs if port.device_owner == ROUTER_GATEWAY), None)
    if gateway is None:
        return
    own = {port.host_id: port for port in legs if port.device_owner == ROUTER_HOST_GATEWAY}
    first, new, gone = plan_legs(needing, gateway.host_id, own)
    for host_id in gone:
        release_port(session, own[host_id], request_id)
    if first != gateway.host_id:
        gateway.host_id, gateway.observed_state = first, None
        session.flush()
        touch(session, first, request_id)
    for host_id in new:
        try:
            allocate_port(
                session,
                settings,
                network=session.get(Network, gateway.network_id),
                project_id="",
                device_owner=ROUTER_HOST_GATEWAY,
                device_id=router.id,
                host_id=host_id,
                privileged=True,
                request_id=request_id,
            )
        except Conflict as error:
            raise Conflict(
                f"No more IP addresses available on network {gateway.network_id}: router {router.id} needs one for "
                "each host that has guests behind it.",
                kind="IpAddressGenerationFailure",
            ) from error
