"""Subnets: ranges of a network, with gateway, pools and DHCP. Source: Network API reference, "Subnets".

The gateway's namespace serves DHCP; where a subnet has none, a port of the network's own holds the
address that does. Next rooms: `ranges.py` (the arithmetic), `../../allocation.py`.
"""

from __future__ import annotations

import ipaddress

from sqlalchemy import select

from ...allocation import SLAAC_MODES, allocate_addresses, allocate_port, check_quota, release_port
from ...errors import Conflict
from ...fields import BOOL, CIDR, IP, NULL, UUID, field, items, mapping, nullable, one_of, whole
from ...http import Context
from ...models import Address, Network, Port, Subnet
from ...models.networks import COMPUTE, DHCP, GATEWAYS, ROUTER_INTERFACE
from ...models.reach import touch_network
from ...paging import Page
from ...policy import MEMBER, READER, rule
from ...routes import Route
from .listing import build_columns, build_filters, parse_bool, pick_fields, read_list
from .ranges import (
    HOST_ROUTES_MOST,
    MODES,
    build_gateway,
    build_pools,
    check_gateway_outside,
    check_modes,
    overlaps,
    parse_cidr,
    parse_gateway,
    parse_nameservers,
    parse_pools,
    parse_routes,
    wrong,
)
from .rows import (
    DESCRIPTION,
    NAME,
    PROJECT_FIELDS,
    apply_body,
    choose_project,
    find_changeable_network,
    find_own,
    find_row,
    refuse_in_use,
    view_standard,
)

POOLS = items(mapping({"start": IP, "end": IP}, required=("start", "end")), 100)
HOST_ROUTES = items(mapping({"destination": CIDR, "nexthop": IP}, required=("destination", "nexthop")), 100)
UPDATE_FIELDS = {
    "name": field(NAME),
    "description": field(DESCRIPTION),
    "gateway_ip": field(nullable(IP)),
    "enable_dhcp": field(BOOL),
    "dns_nameservers": field(nullable(items(IP, 100))),
    "host_routes": field(nullable(items(HOST_ROUTES["items"], 100))),
    "allocation_pools": field(POOLS),
}
FIELDS = {
    **UPDATE_FIELDS,
    **PROJECT_FIELDS,
    "network_id": field(UUID, required=True),
    "ip_version": field(whole(4, 6), required=True),
    "cidr": field(CIDR, required=True),
    "ipv6_ra_mode": field(nullable(one_of(*MODES))),
    "ipv6_address_mode": field(nullable(one_of(*MODES))),
    "subnetpool_id": field(NULL),
}
COLUMNS = build_columns(
    Subnet, "network_id", "ip_version", "cidr", "gateway_ip", "enable_dhcp", "ipv6_ra_mode", "ipv6_address_mode"
)


def _filter_network(criterion_of):
    """A filter on an attribute of the subnet's network."""

    def criterion(session, values):
        return Subnet.network_id.in_(select(Network.id).where(criterion_of(values)))

    return criterion


FILTERS = build_filters(
    Subnet,
    COLUMNS,
    shared=_filter_network(lambda values: Network.shared.in_([parse_bool("shared", value) for value in values])),
    **{
        "router:external": _filter_network(
            lambda values: Network.external.in_([parse_bool("router:external", value) for value in values])
        )
    },
    subnetpool_id=lambda session, values: Subnet.id.is_(None) if any(values) else Subnet.id.is_not(None),
)


def index(ctx: Context) -> Page:
    return read_list(ctx, Subnet, COLUMNS, FILTERS)


def show(ctx: Context, subnet_id: str) -> Subnet:
    return find_row(ctx, Subnet, subnet_id)


def create(ctx: Context) -> Subnet:
    """Guests that form their addresses themselves get one in it at once."""
    body = ctx.body
    network = find_changeable_network(ctx, body["network_id"])
    project_id = choose_project(ctx)
    check_quota(ctx.session, project_id, "subnet")
    version = body["ip_version"]
    if version not in (4, 6):
        raise wrong(f"ip_version {version} is neither 4 nor 6")
    cidr = parse_cidr(body["cidr"], version)
    for other in ctx.session.scalars(select(Subnet).where(Subnet.network_id == network.id)):
        if overlaps(other.cidr, cidr):
            raise wrong(
                f"Requested subnet with cidr: {cidr} for network: {network.id} overlaps with another subnet "
                f"({other.id}, CIDR: {other.cidr})"
            )
    gateway = body.get("gateway_ip", build_gateway(cidr))
    gateway = parse_gateway(gateway, cidr) if gateway is not None else None
    pools = parse_pools(body["allocation_pools"], cidr) if body.get("allocation_pools") else build_pools(cidr, gateway)
    check_gateway_outside(gateway, pools)
    dhcp = body.get("enable_dhcp", True)
    check_modes(version, dhcp, cidr, body.get("ipv6_ra_mode"), body.get("ipv6_address_mode"))
    subnet = Subnet(
        project_id=project_id,
        network_id=network.id,
        ip_version=version,
        cidr=cidr,
        gateway_ip=gateway,
        enable_dhcp=dhcp,
        allocation_pools=pools,
        dns_nameservers=parse_nameservers(body.get("dns_nameservers") or [], version),
        host_routes=parse_routes(body.get("host_routes") or [], version, HOST_ROUTES_MOST, "host_routes"),
        ipv6_ra_mode=body.get("ipv6_ra_mode"),
        ipv6_address_mode=body.get("ipv6_address_mode"),
    )
    apply_body(subnet, body, ("name", "description"))
    ctx.session.add(subnet)
    ctx.session.flush()
    ctx.session.expire(network, ["subnets"])
    apply_dhcp_port(ctx, network, subnet)
    if subnet.ipv6_address_mode in SLAAC_MODES:
        _add_formed_addresses(ctx, subnet)
    touch_network(ctx.session, network.id, ctx.request_id)
    return subnet


def _add_formed_addresses(ctx: Context, subnet: Subnet) -> None:
    ports = select(Port).where(
        Port.network_id == subnet.network_id, Port.device_owner.not_in((ROUTER_INTERFACE, *GATEWAYS))
    )
    for port in ctx.session.scalars(ports):
        if not port.device_owner.startswith("network:"):
            kept = [{"subnet_id": one.subnet_id, "ip_address": one.address} for one in port.addresses]
            allocate_addresses(ctx.session, port, [*kept, {"subnet_id": subnet.id}])


def apply_dhcp_port(ctx: Context, network: Network, subnet: Subnet) -> None:
    """Make or release the port that holds the DHCP server's address: wanted where there is no gateway to hold it."""
    held = ctx.session.scalars(
        select(Port)
        .join(Address, Address.port_id == Port.id)
        .where(Port.device_owner == DHCP, Address.subnet_id == subnet.id)
    ).all()
    leased = subnet.ip_version == 4 or subnet.ipv6_address_mode == "dhcpv6-stateful"
    if subnet.enable_dhcp and subnet.gateway_ip is None and leased:
        if not held:
            allocate_port(
                ctx.session,
                ctx.settings,
                network=network,
                project_id=network.project_id,
                device_owner=DHCP,
                device_id=f"dhcp-{network.id}",
                fixed_ips=[{"subnet_id": subnet.id}],
                privileged=True,
                request_id=ctx.request_id,
            )
    else:
        for port in held:
            release_port(ctx.session, port, ctx.request_id)


def update(ctx: Context, subnet_id: str) -> Subnet:
    subnet, body = find_own(ctx, Subnet, subnet_id), ctx.body
    network = ctx.session.get(Network, subnet.network_id)
    if "gateway_ip" in body:
        gateway = body["gateway_ip"] and parse_gateway(body["gateway_ip"], subnet.cidr)
        if gateway != subnet.gateway_ip:
            _check_gateway_free(ctx, subnet, gateway)
        subnet.gateway_ip = gateway
    if "allocation_pools" in body:
        subnet.allocation_pools = parse_pools(body["allocation_pools"], subnet.cidr)
    if "gateway_ip" in body or "allocation_pools" in body:
        check_gateway_outside(subnet.gateway_ip, subnet.allocation_pools)
    if "enable_dhcp" in body:
        subnet.enable_dhcp = body["enable_dhcp"]
        check_modes(
            subnet.ip_version, subnet.enable_dhcp, subnet.cidr, subnet.ipv6_ra_mode, subnet.ipv6_address_mode
        )  # fmt: skip
    if "dns_nameservers" in body:
        subnet.dns_nameservers = parse_nameservers(body["dns_nameservers"] or [], subnet.ip_version)
    if "host_routes" in body:
        subnet.host_routes = parse_routes(
            body["host_routes"] or [], subnet.ip_version, HOST_ROUTES_MOST, "host_routes"
        )  # fmt: skip
    apply_body(subnet, body, ("name", "description"))
    ctx.session.flush()
    apply_dhcp_port(ctx, network, subnet)
    touch_network(ctx.session, subnet.network_id, ctx.request_id)
    return subnet


def _check_gateway_free(ctx: Context, subnet: Subnet, gateway: str | None) -> None:
    """Conflict where a router holds the old gateway address, or a guest the new one."""
    holders = ctx.session.execute(
        select(Port.id, Port.device_owner, Address.address)
        .join(Address, Address.port_id == Port.id)
        .where(Address.subnet_id == subnet.id, Address.address.in_([a for a in (subnet.gateway_ip, gateway) if a]))
    )
    for port_id, owner, address in holders:
        if address == subnet.gateway_ip and owner == ROUTER_INTERFACE:
            raise Conflict(
                f"Current gateway ip {address} already in use by port {port_id}. Unable to update.",
                kind="GatewayIpInUse",
            )
        if address == gateway and owner.startswith(COMPUTE):
            raise Conflict(
                f"Gateway ip {address} already in use by port {port_id}. Unable to update.", kind="GatewayIpInUse"
            )


def delete(ctx: Context, subnet_id: str) -> None:
    """Refused while a port has an address of it that it did not form itself."""
    subnet = find_own(ctx, Subnet, subnet_id)
    formed = subnet.ipv6_address_mode in SLAAC_MODES
    held = ctx.session.execute(
        select(Port, Address).join(Address, Address.port_id == Port.id).where(Address.subnet_id == subnet.id)
    ).all()
    for port, _ in held:
        routing = port.device_owner in (ROUTER_INTERFACE, *GATEWAYS)
        if port.device_owner != DHCP and (routing or not formed):
            refuse_in_use(
                f"Unable to complete operation on subnet {subnet.id}: One or more ports have an IP allocation from "
                "this subnet.",
                "SubnetInUse",
            )
    for port, address in held:
        if port.device_owner == DHCP:
            release_port(ctx.session, port, ctx.request_id)
        else:
            port.addresses.remove(address)
    touch_network(ctx.session, subnet.network_id, ctx.request_id)
    ctx.session.flush()
    ctx.session.delete(subnet)


def view(ctx: Context, row: Subnet) -> dict:
    view = {
        **view_standard(row),
        "network_id": row.network_id,
        "ip_version": row.ip_version,
        "cidr": row.cidr,
        "gateway_ip": row.gateway_ip,
        "enable_dhcp": row.enable_dhcp,
        "allocation_pools": row.allocation_pools,
        "dns_nameservers": row.dns_nameservers,
        "host_routes": row.host_routes,
        "ipv6_ra_mode": row.ipv6_ra_mode,
        "ipv6_address_mode": row.ipv6_address_mode,
        "subnetpool_id": None,
        "service_types": [],
    }
    return pick_fields(ctx, view)


def count_addresses(subnet: Subnet) -> int:
    """How many addresses the pools have."""
    return sum(
        int(ipaddress.ip_address(pool["end"])) - int(ipaddress.ip_address(pool["start"])) + 1
        for pool in subnet.allocation_pools
    )


LIST = rule("network:subnets:index", READER)
SHOW = rule("network:subnets:show", READER)
CREATE = rule("network:subnets:create", MEMBER)
UPDATE = rule("network:subnets:update", MEMBER)
DELETE = rule("network:subnets:delete", MEMBER)
ROUTES = [
    Route("GET", "/subnets", LIST, None, index, view, reply_key="subnets"),
    Route("GET", "/subnets/{subnet_id}", SHOW, None, show, view, key="subnet"),
    Route("POST", "/subnets", CREATE, FIELDS, create, view, 201, key="subnet", bulk="subnets"),
    Route("PUT", "/subnets/{subnet_id}", UPDATE, UPDATE_FIELDS, update, view, key="subnet"),
    Route("DELETE", "/subnets/{subnet_id}", DELETE, None, delete, None, 204),
]
