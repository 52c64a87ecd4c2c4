"""Floating IPs: addresses of an external network that lead to a port. Source: Network API reference, "Floating IPs".

The address is held by a port of no project on the external network, so that it is never given twice.
Next room: `../../allocation.py`.
"""

from __future__ import annotations

from sqlalchemy import select

from ...allocation import allocate_port, check_quota, find_free_subnet, release_port
from ...errors import BadRequest, Conflict, NotFound
from ...fields import IPV4, UUID, field, nullable
from ...http import Context
from ...models import Address, FloatingIP, Network, Port, Router, Subnet, new_uuid
from ...models.networks import FLOATING_IP, ROUTER_INTERFACE
from ...models.reach import touch_network, touch_router
from ...paging import Page
from ...policy import ADMIN, MEMBER, READER, rule
from ...routes import Route
from .listing import build_columns, build_filter, build_filters, pick_fields, read_list
from .rows import (
    DESCRIPTION,
    PROJECT_FIELDS,
    apply_body,
    check_allowed,
    choose_project,
    find_own,
    find_row,
    view_standard,
)
from .status import FLOATING_STATUS, compute_floating_status, compute_port_status

UPDATE_FIELDS = {
    "port_id": field(nullable(UUID)),
    "fixed_ip_address": field(nullable(IPV4)),
    "description": field(DESCRIPTION),
}
FIELDS = {
    **UPDATE_FIELDS,
    **PROJECT_FIELDS,
    "floating_network_id": field(UUID, required=True),
    "floating_ip_address": field(nullable(IPV4)),
    "subnet_id": field(nullable(UUID)),
}
COLUMNS = build_columns(FloatingIP, "port_id", "router_id", named=False) | {
    "floating_network_id": FloatingIP.network_id,
    "floating_ip_address": FloatingIP.address,
    "fixed_ip_address": FloatingIP.fixed_address,
}
FILTERS = build_filters(FloatingIP, COLUMNS, status=build_filter("status", FLOATING_STATUS))


def index(ctx: Context) -> Page:
    return read_list(ctx, FloatingIP, COLUMNS, FILTERS)


def show(ctx: Context, floatingip_id: str) -> FloatingIP:
    return find_row(ctx, FloatingIP, floatingip_id)


def create(ctx: Context) -> FloatingIP:
    body = ctx.body
    network = find_row(ctx, Network, body["floating_network_id"])
    if not network.external:
        raise BadRequest(
            f"Bad floatingip request: Network {network.id} is not a valid external network.", kind="BadRequest"
        )
    project_id = choose_project(ctx)
    if body.get("floating_ip_address"):
        check_allowed(ctx, CREATE_PERMISSIONS)
    check_quota(ctx.session, project_id, "floatingip")
    floating_id = new_uuid()
    own = allocate_port(
        ctx.session,
        ctx.settings,
        network=network,
        project_id="",
        device_owner=FLOATING_IP,
        device_id=floating_id,
        fixed_ips=[_choose_address(ctx, network)],
        privileged=True,
        request_id=ctx.request_id,
    )
    floating = FloatingIP(
        id=floating_id,
        project_id=project_id,
        description=body.get("description", ""),
        network_id=network.id,
        own_port_id=own.id,
        address=own.addresses[0].address,
    )
    ctx.session.add(floating)
    ctx.session.flush()
    _apply_port(ctx, floating)
    return floating


def _choose_address(ctx: Context, network: Network) -> dict:
    """{subnet_id, ip_address?} of the address to take."""
    subnet_id, address = ctx.body.get("subnet_id"), ctx.body.get("floating_ip_address")
    if subnet_id:
        subnet = ctx.session.get(Subnet, subnet_id)
        if subnet is None or subnet.network_id != network.id or subnet.ip_version != 4:
            raise BadRequest(
                f"Bad floatingip request: subnet_id {subnet_id} is no IPv4 subnet of network {network.id}.",
                kind="BadRequest",
            )
    elif address:
        return {"ip_address": address}
    else:
        subnet = find_free_subnet(ctx.session, network.id, 4)
        if subnet is None:
            some = ctx.session.scalar(
                select(Subnet.id).where(Subnet.network_id == network.id, Subnet.ip_version == 4).limit(1)
            )
            if some is None:
                raise BadRequest(
                    f"Bad floatingip request: Network {network.id} does not contain any IPv4 subnet.",
                    kind="BadRequest",
                )
            raise Conflict(
                f"No more IP addresses available on network {network.id}.", kind="IpAddressGenerationFailure"
            )
    return {"subnet_id": subnet.id, **({"ip_address": address} if address else {})}


def update(ctx: Context, floatingip_id: str) -> FloatingIP:
    """Without a port it leads nowhere; without port_id in the body its port stays."""
    floating = find_own(ctx, FloatingIP, floatingip_id)
    apply_body(floating, ctx.body, ("description",))
    if "port_id" in ctx.body or "fixed_ip_address" in ctx.body:
        _apply_port(ctx, floating)
    ctx.session.flush()
    return floating


def _apply_port(ctx: Context, floating: FloatingIP) -> None:
    port_id = ctx.body.get("port_id", floating.port_id)
    fixed = ctx.body.get("fixed_ip_address")
    if port_id is None:
        if fixed is not None:
            raise BadRequest("Bad floatingip request: fixed_ip_address cannot be specified without a port_id.")
        address = router_id = None
    else:
        port = find_row(ctx, Port, port_id)
        if port.project_id != floating.project_id and not ctx.is_admin:
            raise BadRequest(
                f"Bad floatingip request: Port {port_id} belongs to another project than floating IP {floating.id}.",
                kind="BadRequest",
            )
        address = _choose_fixed(port, fixed)
        router_id = _find_router(ctx, floating, port, address)
        _check_free(ctx, floating, port, address)
        port_id = port.id
    if (port_id, address.address if address else None, router_id) == (
        floating.port_id,
        floating.fixed_address,
        floating.router_id,
    ):
        return
    before = floating.router_id
    floating.port_id, floating.router_id = port_id, router_id
    floating.fixed_address = address.address if address else None
    floating.observed_state = None  # what was seen was another association
    ctx.session.flush()
    for one in dict.fromkeys(one for one in (before, router_id) if one):
        touch_router(ctx.session, one, ctx.request_id)


def _choose_fixed(port: Port, wanted: str | None) -> Address:
    """The port's address that the floating one leads to; BadRequest where it is not clear which."""
    offered = [one for one in port.addresses if ":" not in one.address]
    if wanted is not None:
        offered = [one for one in offered if one.address == wanted]
        if not offered:
            raise BadRequest(
                f"Bad floatingip request: Port {port.id} does not have fixed ip {wanted}.", kind="BadRequest"
            )
    if not offered:
        raise BadRequest(
            f"Bad floatingip request: Cannot add floating IP to port {port.id} that has no fixed IPv4 addresses.",
            kind="BadRequest",
        )
    if len(offered) > 1:
        raise BadRequest(
            f"Bad floatingip request: Port {port.id} has multiple fixed IPv4 addresses. Must provide a specific IPv4 "
            "address when assigning a floating IP.",
            kind="BadRequest",
        )
    return offered[0]


def _find_router(ctx: Context, floating: FloatingIP, port: Port, address: Address) -> str:
    """The router between the address's subnet and the external network: the one that is its gateway first."""
    subnet = ctx.session.get(Subnet, address.subnet_id)
    rows = ctx.session.execute(
        select(Router.id, Address.address)
        .join(Port, Port.device_id == Router.id)
        .join(Address, Address.port_id == Port.id)
        .where(
            Port.device_owner == ROUTER_INTERFACE,
            Address.subnet_id == subnet.id,
            Router.gateway_network_id == floating.network_id,
        )
        .order_by(Port.created_at, Port.id)
    ).all()
    if not rows:
        raise NotFound(
            f"External network {floating.network_id} is not reachable from subnet {subnet.id}. Therefore, cannot "
            f"associate Port {port.id} with a Floating IP.",
            kind="ExternalGatewayForFloatingIPNotFound",
        )
    return min(rows, key=lambda row: row.address != subnet.gateway_ip).id


def _check_free(ctx: Context, floating: FloatingIP, port: Port, address: Address) -> None:
    other = ctx.session.scalar(
        select(FloatingIP).where(
            FloatingIP.port_id == port.id,
            FloatingIP.fixed_address == address.address,
            FloatingIP.id != floating.id,
        )
    )
    if other is not None:
        raise Conflict(
            f"Cannot associate floating IP {floating.address} ({floating.id}) with port {port.id} using fixed IP "
            f"{address.address}, as that fixed IP already has a floating IP on external network {other.network_id}.",
            kind="FloatingIPPortAlreadyAssociated",
        )


def delete(ctx: Context, floatingip_id: str) -> None:
    """Its address is free at once."""
    floating = find_own(ctx, FloatingIP, floatingip_id)
    own = ctx.session.get(Port, floating.own_port_id)
    if floating.router_id:
        touch_router(ctx.session, floating.router_id, ctx.request_id)
    else:
        touch_network(ctx.session, floating.network_id, ctx.request_id)
    ctx.session.delete(floating)
    ctx.session.flush()
    release_port(ctx.session, own, ctx.request_id)


def view(ctx: Context, row: FloatingIP) -> dict:
    port = ctx.session.get(Port, row.port_id) if row.port_id else None
    details = None
    if port is not None:
        details = {
            "name": port.name,
            "network_id": port.network_id,
            "mac_address": port.mac_address,
            "admin_state_up": port.admin_state_up,
            "status": compute_port_status(port),
            "device_id": port.device_id,
            "device_owner": port.device_owner,
        }
    view = {
        **view_standard(row, named=False),
        "floating_network_id": row.network_id,
        "floating_ip_address": row.address,
        "port_id": row.port_id,
        "fixed_ip_address": row.fixed_address,
        "router_id": row.router_id,
        "status": compute_floating_status(row),
        "port_details": details,
    }
    return pick_fields(ctx, view)


LIST = rule("network:floatingips:index", READER)
SHOW = rule("network:floatingips:show", READER)
CREATE = rule("network:floatingips:create", MEMBER)
UPDATE = rule("network:floatingips:update", MEMBER)
DELETE = rule("network:floatingips:delete", MEMBER)
CREATE_PERMISSIONS = {"floating_ip_address": rule("network:floatingips:create:floating_ip_address", ADMIN)}
ROUTES = [
    Route("GET", "/floatingips", LIST, None, index, view, reply_key="floatingips"),
    Route("GET", "/floatingips/{floatingip_id}", SHOW, None, show, view, key="floatingip"),
    Route("POST", "/floatingips", CREATE, FIELDS, create, view, 201, key="floatingip", bulk="floatingips"),
    Route("PUT", "/floatingips/{floatingip_id}", UPDATE, UPDATE_FIELDS, update, view, key="floatingip"),
    Route("DELETE", "/floatingips/{floatingip_id}", DELETE, None, delete, None, 204),
]
