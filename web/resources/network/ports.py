"""Ports: what a guest, a router or an address is on a network. Source: Network API reference, "Ports".

Ports of routers, floating addresses and DHCP are made by those and refused here; a server's port is
bound by the compute API and goes with its server. Next rooms: `../../allocation.py`, `port_options.py`.
"""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import selectinload

from ...allocation import allocate_addresses, allocate_port, check_foreign_use, choose_mac, read_groups, release_port
from ...errors import BadRequest, Conflict, Forbidden
from ...fields import BOOL, MAC, UUID, field, items, nullable, one_of, text
from ...http import Context
from ...models import Address, FloatingIP, Host, Network, Port, PortSecurityGroup, Router, Server
from ...models.networks import COMPUTE
from ...models.reach import touch_port
from ...paging import Page
from ...policy import ADMIN, MEMBER, READER, rule
from ...routes import Route
from . import port_options
from .listing import build_columns, build_filter, build_filters, pick_fields, read_list
from .port_options import build_dns_assignment, parse_dhcp_options, parse_pairs
from .rows import (
    DESCRIPTION,
    NAME,
    PROJECT_FIELDS,
    apply_body,
    check_allowed,
    choose_project,
    find_own,
    find_row,
    view_standard,
)
from .status import PORT_STATUS, compute_port_status

UPDATE_FIELDS = {
    "name": field(NAME),
    "description": field(DESCRIPTION),
    "admin_state_up": field(BOOL),
    "mac_address": field(nullable(MAC)),
    "device_id": field(text(255)),
    "device_owner": field(text(255)),
    "security_groups": field(nullable(items(UUID, 100))),
    "port_security_enabled": field(BOOL),
    "binding:host_id": field(nullable(text(255))),
    "binding:vnic_type": field(nullable(one_of("normal"))),
    "binding:profile": field(nullable({"type": "object", "maxProperties": 0})),
    **port_options.FIELDS,
}
FIELDS = {**UPDATE_FIELDS, **PROJECT_FIELDS, "network_id": field(UUID, required=True)}
PLAIN = ("name", "description", "admin_state_up", "device_id", "device_owner")
COLUMNS = build_columns(
    Port,
    "network_id",
    "mac_address",
    "admin_state_up",
    "device_id",
    "device_owner",
    "port_security_enabled",
    "dns_name",
) | {"binding:vnic_type": Port.vnic_type}
LOADED = (selectinload(Port.addresses), selectinload(Port.security_groups))


def _filter_fixed_ips(session, values: list[str]):
    """fixed_ips=ip_address=A, =ip_address_substr=A, =subnet_id=S; of one kind any, of several kinds all."""
    wanted: dict[str, list[str]] = {"ip_address": [], "ip_address_substr": [], "subnet_id": []}
    for value in values:
        name, _, item = value.partition("=")
        if name not in wanted:
            raise BadRequest(f"Invalid input for fixed_ips. Reason: {value[:100]!r} is no filter.", kind="InvalidInput")
        wanted[name].append(item)
    statement = select(Address.port_id)
    if wanted["ip_address"]:
        statement = statement.where(Address.address.in_(wanted["ip_address"]))
    for part in wanted["ip_address_substr"]:
        statement = statement.where(Address.address.contains(part, autoescape=True))
    if wanted["subnet_id"]:
        statement = statement.where(Address.subnet_id.in_(wanted["subnet_id"]))
    return Port.id.in_(statement)


FILTERS = build_filters(
    Port,
    COLUMNS,
    status=build_filter("status", PORT_STATUS),
    fixed_ips=_filter_fixed_ips,
    security_groups=lambda session, values: Port.id.in_(
        select(PortSecurityGroup.port_id).where(PortSecurityGroup.security_group_id.in_(values))
    ),
    **{
        "mac_address": lambda session, values: Port.mac_address.in_([value.lower() for value in values]),
        "binding:host_id": lambda session, values: Port.host_id.in_(select(Host.id).where(Host.name.in_(values))),
    },
)


def index(ctx: Context) -> Page:
    return read_list(ctx, Port, COLUMNS, FILTERS, LOADED)


def show(ctx: Context, port_id: str) -> Port:
    return find_row(ctx, Port, port_id)


def create(ctx: Context) -> Port:
    body = ctx.body
    network = find_row(ctx, Network, body["network_id"])
    project_id = choose_project(ctx)
    check_allowed(ctx, CREATE_PERMISSIONS)
    _check_device(ctx, body)
    secured = body.get("port_security_enabled", network.port_security_enabled)
    _check_ownership(ctx, network)
    if not secured and body.get("security_groups"):
        raise BadRequest(
            "Port security must be enabled and port must have an IP address in order to use security groups.",
            kind="PortSecurityAndIPRequiredForSecurityGroups",
        )
    groups = body.get("security_groups")
    port = allocate_port(
        ctx.session,
        ctx.settings,
        network=network,
        project_id=project_id,
        mac_address=body.get("mac_address"),
        fixed_ips=body.get("fixed_ips"),
        host_id=_find_host(ctx),
        security_group_ids=groups if groups is not None or secured else [],
        privileged=ctx.is_admin,
        request_id=ctx.request_id,
        port_security_enabled=secured,
        dns_name=body.get("dns_name", "").lower(),
        extra_dhcp_opts=parse_dhcp_options(body.get("extra_dhcp_opts")),
        **{name: body[name] for name in PLAIN if name in body},
    )
    port.allowed_address_pairs = parse_pairs(body.get("allowed_address_pairs"), port.mac_address, secured)
    return port


def _check_device(ctx: Context, body: dict, port: Port | None = None) -> None:
    """Refuse what would tie the port to a router or a server without that one's own say."""
    owner, device = body.get("device_owner"), body.get("device_id")
    if port is not None:
        owner = None if owner == port.device_owner else owner
        device = None if device == port.device_id else device
        if (owner is not None or device is not None) and port.device_owner.startswith(("network:", COMPUTE)):
            raise Conflict(
                f"Unable to complete operation on port {port.id} for network {port.network_id}. Port already has an "
                f"attached device {port.device_id}.",
                kind="PortInUse",
            )
    if owner and owner.startswith(("network:", COMPUTE)):
        raise BadRequest(
            f"Invalid input for device_owner. Reason: {owner!r} is given by the service itself, to ports of routers, "
            "floating IPs and servers.",
            kind="InvalidInput",
        )
    if device and (ctx.session.get(Router, device) or ctx.session.scalar(select(Server.id).where(Server.id == device))):
        raise BadRequest(
            f"Invalid input for device_id. Reason: {device!r} is a router or server; add the port to it there.",
            kind="InvalidInput",
        )


def _check_ownership(ctx: Context, network: Network) -> None:
    """On a network of another project (a shared one) a port may not send as others."""
    if ctx.is_admin or network.project_id == ctx.project_id:
        return
    for name in ("port_security_enabled", "allowed_address_pairs"):
        if name in ctx.body and ctx.body[name] not in (True, None, []):
            raise Forbidden(f"Only the network's owner may set {name} of a port on it.")
    check_foreign_use(network, ctx.project_id, ctx.body.get("fixed_ips"), ctx.body.get("mac_address"))


def _find_host(ctx: Context) -> str | None:
    """The id of the host that binding:host_id names."""
    name = ctx.body.get("binding:host_id")
    if not name:
        return None
    host_id = ctx.session.scalar(select(Host.id).where(Host.name == name))
    if host_id is None:
        raise BadRequest(
            f"Invalid input for binding:host_id. Reason: {name!r} is no host of this cloud.", kind="InvalidInput"
        )
    return host_id


def update(ctx: Context, port_id: str) -> Port:
    port, body = find_own(ctx, Port, port_id), ctx.body
    network = ctx.session.get(Network, port.network_id)
    check_allowed(ctx, CREATE_PERMISSIONS)
    _check_device(ctx, body, port)
    _check_ownership(ctx, network)
    touch_port(ctx.session, port, ctx.request_id)  # those that know it as it was
    if "binding:host_id" in body:
        host_id = _find_host(ctx)
        if host_id != port.host_id and port.device_owner.startswith(COMPUTE):
            raise Conflict(f"Port {port.id} is bound to the host of its server.", kind="PortBound")
        port.host_id = host_id
    mac = body.get("mac_address")
    if mac is not None and mac.lower() != port.mac_address:
        if port.host_id is not None or port.device_owner.startswith("network:"):
            raise Conflict(
                f"Unable to complete operation on port {port.id}, port is already bound, port type: bridge, "
                f"old_mac {port.mac_address}, new_mac {mac.lower()}.",
                kind="PortBound",
            )
        port.mac_address = choose_mac(ctx.session, port.network_id, mac)
    if "fixed_ips" in body:
        _change_addresses(ctx, port, body["fixed_ips"] or [])
    _change_security(ctx, port, body)
    if "extra_dhcp_opts" in body:
        port.extra_dhcp_opts = parse_dhcp_options(body["extra_dhcp_opts"], port.extra_dhcp_opts)
    if "dns_name" in body:
        port.dns_name = body["dns_name"].lower()
    apply_body(port, body, PLAIN)
    ctx.session.flush()
    touch_port(ctx.session, port, ctx.request_id)
    return port


def _change_addresses(ctx: Context, port: Port, fixed_ips: list[dict]) -> None:
    """Addresses of floating IPs must stay; a router's, a gateway's are changed by the router."""
    if port.device_owner.startswith("network:"):
        raise Conflict(
            f"The addresses of port {port.id} are changed through its {port.device_owner}.", kind="PortInUse"
        )
    before = {one.address for one in port.addresses}
    allocate_addresses(ctx.session, port, fixed_ips)
    gone = before - {one.address for one in port.addresses}
    held = select(FloatingIP.fixed_address).where(FloatingIP.port_id == port.id, FloatingIP.fixed_address.in_(gone))
    address = ctx.session.scalar(held.limit(1))
    if address is not None:
        raise Conflict(f"The address {address} of port {port.id} has a floating IP; remove it first.", kind="PortInUse")


def _change_security(ctx: Context, port: Port, body: dict) -> None:
    """Groups, pairs and port security, which depend on each other."""
    if "security_groups" in body:
        port.security_groups = read_groups(
            ctx.session, port.project_id, body["security_groups"] or [], privileged=ctx.is_admin
        )
    if "port_security_enabled" in body:
        port.port_security_enabled = body["port_security_enabled"]
    if not port.port_security_enabled and port.security_groups:
        if "security_groups" in body and body.get("port_security_enabled") is not False:
            raise BadRequest(
                "Port security must be enabled and port must have an IP address in order to use security groups.",
                kind="PortSecurityAndIPRequiredForSecurityGroups",
            )
        raise Conflict(
            "Port has security group associated. Cannot disable port security or IP address until security group is "
            "removed.",
            kind="PortSecurityPortHasSecurityGroup",
        )
    pairs = body.get("allowed_address_pairs", port.allowed_address_pairs)
    port.allowed_address_pairs = parse_pairs(pairs, port.mac_address, port.port_security_enabled)


def delete(ctx: Context, port_id: str) -> None:
    """Refused while a router, a floating IP, DHCP or a server has it."""
    port = find_own(ctx, Port, port_id)
    if port.device_owner.startswith("network:"):
        raise Conflict(
            f"Port {port.id} cannot be deleted directly via the port API: has device owner {port.device_owner}.",
            kind="ServicePortInUse",
        )
    server = select(Server.id).where(Server.id == port.device_id, Server.gone_at.is_(None))
    if port.device_owner.startswith(COMPUTE) and ctx.session.scalar(server) is not None:
        raise Conflict(
            f"Unable to complete operation on port {port.id} for network {port.network_id}. Port already has an "
            f"attached device {port.device_id}; remove it from the server.",
            kind="PortInUse",
        )
    release_port(ctx.session, port, ctx.request_id)


def view(ctx: Context, row: Port) -> dict:
    network = ctx.session.get(Network, row.network_id)
    domain = network.dns_domain or ctx.settings.network.dns_domain
    view = {
        **view_standard(row),
        "network_id": row.network_id,
        "mac_address": row.mac_address,
        "admin_state_up": row.admin_state_up,
        "status": compute_port_status(row),
        "device_id": row.device_id,
        "device_owner": row.device_owner,
        "fixed_ips": [{"subnet_id": one.subnet_id, "ip_address": one.address} for one in row.addresses],
        "security_groups": [group.id for group in row.security_groups],
        "port_security_enabled": row.port_security_enabled,
        "allowed_address_pairs": row.allowed_address_pairs,
        "extra_dhcp_opts": row.extra_dhcp_opts,
        "dns_name": row.dns_name,
        "dns_assignment": build_dns_assignment(row.dns_name, [one.address for one in row.addresses], domain),
        "binding:vnic_type": row.vnic_type,
    }
    if ctx.allows(BINDING_SHOW):
        host = ctx.session.get(Host, row.host_id) if row.host_id else None
        view["binding:host_id"] = host.name if host else ""
        view["binding:vif_type"] = "bridge" if host else "unbound"
        view["binding:vif_details"] = {"port_filter": True} if host else {}
        view["binding:profile"] = {}
    return pick_fields(ctx, view)


LIST = rule("network:ports:index", READER)
SHOW = rule("network:ports:show", READER)
CREATE = rule("network:ports:create", MEMBER)
UPDATE = rule("network:ports:update", MEMBER)
DELETE = rule("network:ports:delete", MEMBER)
BINDING_SHOW = rule("network:ports:show:binding", ADMIN)
CREATE_PERMISSIONS = {
    "binding:host_id": rule("network:ports:change:binding:host_id", ADMIN),
    "binding:profile": rule("network:ports:change:binding:profile", ADMIN),
}
ROUTES = [
    Route("GET", "/ports", LIST, None, index, view, reply_key="ports"),
    Route("GET", "/ports/{port_id}", SHOW, None, show, view, key="port"),
    Route("POST", "/ports", CREATE, FIELDS, create, view, 201, key="port", bulk="ports"),
    Route("PUT", "/ports/{port_id}", UPDATE, UPDATE_FIELDS, update, view, key="port"),
    Route("DELETE", "/ports/{port_id}", DELETE, None, delete, None, 204),
]
