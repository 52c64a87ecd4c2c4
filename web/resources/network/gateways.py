"""A router's external gateway: its port on an external network, and who still needs it.

Source: Network API reference, "Routers", external_gateway_info. Writes rows only. Next room: `routers.py`.
"""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from ...allocation import allocate_addresses, allocate_port, release_port
from ...errors import BadRequest, Conflict
from ...fields import BOOL, IP, UUID, items, mapping, nullable
from ...http import Context
from ...models import Address, FloatingIP, Network, Port, Router, Subnet
from ...models.networks import ROUTER_GATEWAY, ROUTER_HOST_GATEWAY, ROUTER_INTERFACE
from ...models.reach import touch_port
from ...router_legs import sync_router_legs
from .ranges import overlaps
from .rows import find_row

GATEWAY = nullable(
    mapping(
        {
            "network_id": nullable(UUID),
            "enable_snat": BOOL,
            "external_fixed_ips": items(mapping({"subnet_id": UUID, "ip_address": IP}), 5),
        }
    )
)


def read_gateway_port(session: Session, router_id: str) -> Port | None:
    """The router's port on its external network that users see (other hosts' are `router_legs.py`'s)."""
    return session.scalar(select(Port).where(Port.device_id == router_id, Port.device_owner == ROUTER_GATEWAY))


def read_interface_subnets(session: Session, router_id: str) -> list[tuple[Port, Address, Subnet]]:
    """(port, address, subnet) of every address that the router has inside, oldest first."""
    rows = session.execute(
        select(Port, Address, Subnet)
        .join(Address, Address.port_id == Port.id)
        .join(Subnet, Subnet.id == Address.subnet_id)
        .where(Port.device_id == router_id, Port.device_owner == ROUTER_INTERFACE)
        .order_by(Port.created_at, Port.id, Address.id)
    )
    return [tuple(row) for row in rows]


def check_no_overlap(session: Session, router_id: str, subnets: list[Subnet]) -> None:
    """BadRequest where the router already reaches a range that one of ``subnets`` overlaps."""
    reached = {subnet.id: subnet for _, _, subnet in read_interface_subnets(session, router_id)}
    gateway = read_gateway_port(session, router_id)
    for address in gateway.addresses if gateway is not None else []:
        reached[address.subnet_id] = session.get(Subnet, address.subnet_id)
    for subnet in subnets:
        for other in reached.values():
            if other.id != subnet.id and overlaps(other.cidr, subnet.cidr):
                raise BadRequest(
                    f"Bad router request: Cidr {subnet.cidr} of subnet {subnet.id} overlaps with cidr {other.cidr} "
                    f"of subnet {other.id}.",
                    kind="BadRequest",
                )


def apply_gateway(ctx: Context, router: Router, wanted: dict | None) -> None:
    """Bring the router's gateway to ``wanted`` (None or {}: none).

    BadRequest where the network is not external or overlaps an interface's; Conflict
    (RouterExternalGatewayInUseByFloatingIp) where floating addresses need the gateway it has.
    """
    wanted = wanted or {}
    network_id = wanted.get("network_id")
    if wanted and not network_id:
        raise BadRequest("Invalid input for external_gateway_info. Reason: it has no network_id.", kind="InvalidInput")
    port = read_gateway_port(ctx.session, router.id)
    if port is not None and network_id != port.network_id:
        _remove_gateway(ctx, router, port)
        port = None
    router.enable_snat = wanted.get("enable_snat", True)
    if not network_id:
        return
    network = find_row(ctx, Network, network_id)
    if not network.external:
        raise BadRequest(
            f"Bad router request: Network {network_id} is not an external network.", kind="BadRequest"
        )  # fmt: skip
    fixed_ips = wanted.get("external_fixed_ips") or None
    if port is None:
        port = allocate_port(
            ctx.session,
            ctx.settings,
            network=network,
            project_id="",
            device_owner=ROUTER_GATEWAY,
            device_id=router.id,
            fixed_ips=fixed_ips,
            privileged=True,
            request_id=ctx.request_id,
        )
        router.gateway_network_id = network.id
        sync_router_legs(ctx.session, ctx.settings, (), (router.id,), ctx.request_id)
    elif fixed_ips is not None:
        allocate_addresses(ctx.session, port, fixed_ips)
        touch_port(ctx.session, port, ctx.request_id)
    if not port.addresses:
        raise BadRequest(
            f"Bad router request: Network {network_id} does not contain any subnet.", kind="BadRequest"
        )  # fmt: skip
    inside = [subnet for _, _, subnet in read_interface_subnets(ctx.session, router.id)]
    check_no_overlap(ctx.session, router.id, inside)


def _remove_gateway(ctx: Context, router: Router, port: Port) -> None:
    used = ctx.session.scalar(select(FloatingIP.id).where(FloatingIP.router_id == router.id).limit(1))
    if used is not None:
        raise Conflict(
            f"Gateway cannot be updated for router {router.id}, since a gateway to external network "
            f"{port.network_id} is required by one or more floating IPs.",
            kind="RouterExternalGatewayInUseByFloatingIp",
        )
    further = select(Port).where(Port.device_id == router.id, Port.device_owner == ROUTER_HOST_GATEWAY)
    for one in [*ctx.session.scalars(further.order_by(Port.id)), port]:
        release_port(ctx.session, one, ctx.request_id)
    router.gateway_network_id = None


def view_gateway(session: Session, router: Router) -> dict | None:
    """external_gateway_info of the router."""
    port = read_gateway_port(session, router.id)
    if port is None:
        return None
    return {
        "network_id": port.network_id,
        "enable_snat": router.enable_snat,
        "external_fixed_ips": [{"subnet_id": one.subnet_id, "ip_address": one.address} for one in port.addresses],
    }
