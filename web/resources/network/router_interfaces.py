"""A router's interfaces: ports of it on the networks it ties together, by subnet or by port.

Source: Network API reference, "Add interface to router", "Remove interface from router". The first router
that has a subnet's gateway address is that network's home. Next room: `gateways.py`.
"""

from __future__ import annotations

import ipaddress

from sqlalchemy import select

from ...allocation import allocate_port, release_port
from ...errors import BadRequest, Conflict, NotFound
from ...fields import UUID, field, nullable
from ...http import Context
from ...models import FloatingIP, Network, Port, Router, Subnet
from ...models.networks import ROUTER_INTERFACE
from ...models.reach import touch_port, touch_router
from ...policy import MEMBER, rule
from ...router_legs import sync_router_legs
from ...routes import Reply, Route
from .gateways import check_no_overlap, read_interface_subnets
from .rows import find_own, find_row, lock

FIELDS = {"subnet_id": field(nullable(UUID)), "port_id": field(nullable(UUID))}


def _bad(reason: str) -> BadRequest:
    return BadRequest(f"Bad router request: {reason}.", kind="BadRequest")


def add(ctx: Context, router_id: str) -> Reply:
    """By subnet the new port has the gateway's address; by port it has those of the port."""
    router = find_own(ctx, Router, router_id)
    lock(ctx.session, Router, router.id)
    subnet_id, port_id = ctx.body.get("subnet_id"), ctx.body.get("port_id")
    if bool(subnet_id) == bool(port_id):
        both = "Cannot specify both subnet-id and port-id"
        raise _bad(both if subnet_id else "Either subnet_id or port_id must be specified")
    port = _add_port(ctx, router, port_id) if port_id else _add_subnet(ctx, router, subnet_id)
    sync_router_legs(ctx.session, ctx.settings, (port.network_id,), (router.id,), ctx.request_id)
    touch_router(ctx.session, router.id, ctx.request_id)
    return _answer(router, port, [one.subnet_id for one in port.addresses])


def _check_subnets(ctx: Context, router: Router, subnets: list[Subnet]) -> None:
    reached = {subnet.id for _, _, subnet in read_interface_subnets(ctx.session, router.id)}
    for subnet in subnets:
        if subnet.id in reached:
            raise _bad(f"Router already has a port on subnet {subnet.id}")
    check_no_overlap(ctx.session, router.id, subnets)


def _add_subnet(ctx: Context, router: Router, subnet_id: str) -> Port:
    subnet = find_own(ctx, Subnet, subnet_id)
    if not subnet.gateway_ip:
        raise _bad("Subnet for router interface must have a gateway IP")
    _check_subnets(ctx, router, [subnet])
    return allocate_port(
        ctx.session,
        ctx.settings,
        network=find_row(ctx, Network, subnet.network_id),
        project_id=router.project_id,
        fixed_ips=[{"subnet_id": subnet.id, "ip_address": subnet.gateway_ip}],
        device_id=router.id,
        device_owner=ROUTER_INTERFACE,
        privileged=True,
        request_id=ctx.request_id,
    )


def _add_port(ctx: Context, router: Router, port_id: str) -> Port:
    port = find_own(ctx, Port, port_id)
    if port.device_id or port.device_owner or port.host_id:
        raise Conflict(
            f"Unable to complete operation on port {port.id} for network {port.network_id}. Port already has an "
            f"attached device {port.device_id or port.host_id}.",
            kind="PortInUse",
        )
    subnets = [ctx.session.get(Subnet, one.subnet_id) for one in port.addresses]
    if not subnets:
        raise _bad("Router port must have at least one fixed IP")
    if sum(subnet.ip_version == 4 for subnet in subnets) > 1:
        raise _bad("Cannot have multiple IPv4 subnets on router port")
    _check_subnets(ctx, router, subnets)
    touch_port(ctx.session, port, ctx.request_id)
    port.device_id, port.device_owner = router.id, ROUTER_INTERFACE
    port.security_groups, port.port_security_enabled, port.allowed_address_pairs = [], False, []
    return port


def remove(ctx: Context, router_id: str) -> Reply:
    """The port goes with the interface, also where it was made before it."""
    router = find_own(ctx, Router, router_id)
    lock(ctx.session, Router, router.id)
    subnet_id, port_id = ctx.body.get("subnet_id"), ctx.body.get("port_id")
    if not subnet_id and not port_id:
        raise _bad("Either subnet_id or port_id must be specified")
    reached = read_interface_subnets(ctx.session, router.id)
    if port_id:
        held = [row for row in reached if row[0].id == port_id]
        if not held:
            raise NotFound(
                f"Router {router.id} does not have an interface with id {port_id}", kind="RouterInterfaceNotFound"
            )
        if subnet_id and subnet_id not in [subnet.id for _, _, subnet in held]:
            raise BadRequest(
                f"Subnet on port {port_id} does not match the requested subnet {subnet_id}.",
                kind="SubnetMismatchForPort",
            )
    else:
        find_row(ctx, Subnet, subnet_id)
        found = next((port.id for port, _, subnet in reached if subnet.id == subnet_id), None)
        if found is None:
            raise NotFound(
                f"Router {router.id} has no interface on subnet {subnet_id}", kind="RouterInterfaceNotFoundForSubnet"
            )
        held = [row for row in reached if row[0].id == found]
    port, subnets = held[0][0], [subnet for _, _, subnet in held]
    for subnet in subnets:
        _check_unneeded(ctx, router, subnet)
    answer = _answer(router, port, [subnet.id for subnet in subnets])
    touch_router(ctx.session, router.id, ctx.request_id)
    network_id = port.network_id
    release_port(ctx.session, port, ctx.request_id)
    sync_router_legs(ctx.session, ctx.settings, (network_id,), (router.id,), ctx.request_id)
    return answer


def _check_unneeded(ctx: Context, router: Router, subnet: Subnet) -> None:
    """Conflict where a floating address or a route leads through the interface."""
    network = ipaddress.ip_network(subnet.cidr)
    fixed = select(FloatingIP.fixed_address).join(Port, Port.id == FloatingIP.port_id)
    fixed = fixed.where(FloatingIP.router_id == router.id, Port.network_id == subnet.network_id)
    if any(ipaddress.ip_address(address) in network for address in ctx.session.scalars(fixed)):
        raise Conflict(
            f"Router interface for subnet {subnet.id} on router {router.id} cannot be deleted, as it is required by "
            "one or more floating IPs.",
            kind="RouterInterfaceInUseByFloatingIP",
        )
    if any(ipaddress.ip_address(route["nexthop"]) in network for route in router.routes):
        raise Conflict(
            f"Router interface for subnet {subnet.id} on router {router.id} cannot be deleted, as it is required by "
            "one or more routes.",
            kind="RouterInterfaceInUseByRoute",
        )


def _answer(router: Router, port: Port, subnets: list[str]) -> Reply:
    return Reply(
        {
            "id": router.id,
            "project_id": router.project_id,
            "tenant_id": router.project_id,
            "port_id": port.id,
            "network_id": port.network_id,
            "subnet_id": subnets[0],
            "subnet_ids": subnets,
            "tags": sorted(router.tags),
        }
    )


ADD = rule("network:routers:add_router_interface", MEMBER)
REMOVE = rule("network:routers:remove_router_interface", MEMBER)
ROUTES = [
    Route("PUT", "/routers/{router_id}/add_router_interface", ADD, FIELDS, add),
    Route("PUT", "/routers/{router_id}/remove_router_interface", REMOVE, FIELDS, remove),
]
