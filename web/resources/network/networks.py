"""Networks: what ports are on. Source: Network API reference, "Networks".

A host makes a network when a guest of it is on it. Next rooms: `segments.py`, `subnets.py`.
"""

from __future__ import annotations

from sqlalchemy import literal, select
from sqlalchemy.orm import selectinload

from ...allocation import check_quota, release_port
from ...errors import BadRequest
from ...fields import BOOL, field, nullable, one_of, text, whole
from ...http import Context
from ...models import Network, Port, Subnet
from ...models.networks import DHCP, FLOATING_IP, GATEWAYS
from ...models.reach import touch_network
from ...paging import Page
from ...policy import ADMIN, MEMBER, READER, rule
from ...routes import Route
from .listing import build_columns, build_filter, build_filters, pick_fields, read_list
from .rows import (
    DESCRIPTION,
    NAME,
    PROJECT_FIELDS,
    apply_body,
    check_allowed,
    choose_project,
    find_changeable_network,
    find_own,
    find_row,
    refuse_in_use,
    view_standard,
)
from .segments import TYPES, choose_mtu, choose_segment, choose_zone
from .status import compute_network_status

DOMAIN = {"type": "string", "maxLength": 253, "pattern": r"^([a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?\.?)*$"}
UPDATE_FIELDS = {
    "name": field(NAME),
    "description": field(DESCRIPTION),
    "admin_state_up": field(BOOL),
    "shared": field(BOOL),
    "router:external": field(BOOL),
    "is_default": field(BOOL),
    "mtu": field(whole(0, 65535)),
    "port_security_enabled": field(BOOL),
    "dns_domain": field(DOMAIN),
}
FIELDS = {
    **UPDATE_FIELDS,
    **PROJECT_FIELDS,
    "provider:network_type": field(nullable(one_of(*TYPES))),
    "provider:physical_network": field(nullable(text(64, 1))),
    "provider:segmentation_id": field(nullable(whole(0, 16777215))),
}
PLAIN = ("name", "description", "admin_state_up", "shared", "is_default", "port_security_enabled", "dns_domain")
COLUMNS = build_columns(
    Network, "admin_state_up", "shared", "is_default", "mtu", "port_security_enabled", "dns_domain"
) | {
    "router:external": Network.external,
    "provider:network_type": Network.network_type,
    "provider:physical_network": Network.physical_network,
    "provider:segmentation_id": Network.segmentation_id,
}
FILTERS = build_filters(
    Network,
    COLUMNS,
    status=build_filter("status", literal(compute_network_status())),
    subnets=lambda session, values: Network.id.in_(select(Subnet.network_id).where(Subnet.id.in_(values))),
)
PROVIDER = ("provider:network_type", "provider:physical_network", "provider:segmentation_id")


def index(ctx: Context) -> Page:
    return read_list(ctx, Network, COLUMNS, FILTERS, [selectinload(Network.subnets)])


def show(ctx: Context, network_id: str) -> Network:
    return find_row(ctx, Network, network_id)


def create(ctx: Context) -> Network:
    check_allowed(ctx, CREATE_PERMISSIONS)
    project_id = choose_project(ctx)
    check_quota(ctx.session, project_id, "network")
    kind, physical, number = choose_segment(ctx.session, ctx.settings, ctx.body)
    network = Network(
        project_id=project_id,
        network_type=kind,
        physical_network=physical,
        segmentation_id=number,
        zone=choose_zone(ctx.session),
        mtu=choose_mtu(ctx.settings, kind, ctx.body.get("mtu")),
        external=ctx.body.get("router:external", False),
    )
    apply_body(network, ctx.body, PLAIN)
    _check_default(ctx, network)
    ctx.session.add(network)
    ctx.session.flush()
    return network


def _check_default(ctx: Context, network: Network) -> None:
    """One external network at most is the default."""
    if not network.is_default:
        return
    if not network.external:
        raise BadRequest("Invalid input for is_default: only an external network can be the default.")
    other = select(Network.id).where(Network.is_default, Network.external, Network.id != (network.id or ""))
    found = ctx.session.scalar(other)
    if found is not None:
        refuse_in_use(
            f"A default external network already exists: {found}.", "DefaultExternalNetworkExists"
        )  # fmt: skip


def update(ctx: Context, network_id: str) -> Network:
    network = find_own(ctx, Network, network_id)
    check_allowed(ctx, UPDATE_PERMISSIONS)
    if "router:external" in ctx.body and ctx.body["router:external"] != network.external:
        if network.external:
            _check_unused_outside(ctx, network)
        network.external = ctx.body["router:external"]
    if ctx.body.get("shared") is False and network.shared:
        foreign = select(Port.id).where(
            Port.network_id == network.id, Port.project_id.not_in([network.project_id, ""])
        )  # fmt: skip
        if ctx.session.scalar(foreign.limit(1)):
            refuse_in_use(
                f"Unable to reconfigure sharing settings for network {network.id}. Multiple tenants are using it.",
                "InvalidSharedSetting",
            )
    apply_body(network, ctx.body, PLAIN)
    if "mtu" in ctx.body:
        network.mtu = choose_mtu(ctx.settings, network.network_type, ctx.body["mtu"])
    _check_default(ctx, network)
    ctx.session.flush()
    touch_network(ctx.session, network.id, ctx.request_id)
    return network


def _check_unused_outside(ctx: Context, network: Network) -> None:
    used = select(Port.id).where(Port.network_id == network.id, Port.device_owner.in_((*GATEWAYS, FLOATING_IP)))
    if ctx.session.scalar(used.limit(1)):
        refuse_in_use(
            f"External network {network.id} cannot be updated to be made non-external, since it has existing "
            "gateway ports.",
            "ExternalNetworkInUse",
        )


def delete(ctx: Context, network_id: str) -> None:
    """Refused while anything but its own DHCP has a port on it; its subnets go with it."""
    network = find_changeable_network(ctx, network_id)
    ports = list(ctx.session.scalars(select(Port).where(Port.network_id == network.id).order_by(Port.id)))
    used = [port.id for port in ports if port.device_owner != DHCP]
    if used:
        refuse_in_use(
            f"Unable to complete operation on network {network.id}. There are one or more ports still in use on the "
            f"network, id for the ports is: {', '.join(used[:20])}.",
            "NetworkInUse",
        )
    for port in ports:
        release_port(ctx.session, port, ctx.request_id)
    touch_network(ctx.session, network.id, ctx.request_id)
    for subnet in ctx.session.scalars(select(Subnet).where(Subnet.network_id == network.id)):
        ctx.session.delete(subnet)
    ctx.session.flush()
    ctx.session.delete(network)


def view(ctx: Context, row: Network) -> dict:
    view = {
        **view_standard(row),
        "status": compute_network_status(),
        "subnets": [subnet.id for subnet in row.subnets],
        "admin_state_up": row.admin_state_up,
        "shared": row.shared,
        "router:external": row.external,
        "is_default": row.is_default,
        "mtu": row.mtu,
        "port_security_enabled": row.port_security_enabled,
        "dns_domain": row.dns_domain,
        "availability_zone_hints": [],
        "availability_zones": [],
        "ipv4_address_scope": None,
        "ipv6_address_scope": None,
    }
    if ctx.allows(PROVIDER_SHOW):
        view["provider:network_type"] = row.network_type
        view["provider:physical_network"] = row.physical_network
        view["provider:segmentation_id"] = row.segmentation_id
    return pick_fields(ctx, view)


LIST = rule("network:networks:index", READER)
SHOW = rule("network:networks:show", READER)
CREATE = rule("network:networks:create", MEMBER)
UPDATE = rule("network:networks:update", MEMBER)
DELETE = rule("network:networks:delete", MEMBER)
PROVIDER_SHOW = rule("network:networks:show:provider", ADMIN)
CREATE_PERMISSIONS = {
    "shared": rule("network:networks:create:shared", ADMIN),
    "router:external": rule("network:networks:create:external", ADMIN),
    "is_default": rule("network:networks:create:is_default", ADMIN),
    **dict.fromkeys(PROVIDER, rule("network:networks:create:provider", ADMIN)),
}
UPDATE_PERMISSIONS = {
    "shared": rule("network:networks:update:shared", ADMIN),
    "router:external": rule("network:networks:update:external", ADMIN),
    "is_default": rule("network:networks:update:is_default", ADMIN),
}
ROUTES = [
    Route("GET", "/networks", LIST, None, index, view, reply_key="networks"),
    Route("GET", "/networks/{network_id}", SHOW, None, show, view, key="network"),
    Route("POST", "/networks", CREATE, FIELDS, create, view, 201, key="network", bulk="networks"),
    Route("PUT", "/networks/{network_id}", UPDATE, UPDATE_FIELDS, update, view, key="network"),
    Route("DELETE", "/networks/{network_id}", DELETE, None, delete, None, 204),
]
