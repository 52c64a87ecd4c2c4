"""Routers: what ties networks to each other and to an external one. Source: Network API reference, "Routers".

A router is on every host that has a guest behind it. Next rooms: `gateways.py`, `router_interfaces.py`.
"""

from __future__ import annotations

import ipaddress

from sqlalchemy import select

from ...allocation import check_quota
from ...errors import BadRequest, Conflict
from ...fields import BOOL, CIDR, IP, field, items, mapping, nullable
from ...http import Context
from ...models import Port, Router, Subnet
from ...models.networks import ROUTER_INTERFACE
from ...models.reach import touch_router
from ...paging import Page
from ...policy import ADMIN, MEMBER, READER, rule
from ...routes import Route
from .gateways import GATEWAY, apply_gateway, read_gateway_port, read_interface_subnets, view_gateway
from .listing import build_columns, build_filter, build_filters, pick_fields, read_list
from .ranges import parse_routes
from .rows import (
    DESCRIPTION,
    NAME,
    PROJECT_FIELDS,
    apply_body,
    choose_project,
    find_own,
    find_row,
    lock,
    view_standard,
)
from .status import ROUTER_STATUS, compute_router_status

ROUTES_MOST = 30
ROUTES_SCHEMA = items(mapping({"destination": CIDR, "nexthop": IP}, required=("destination", "nexthop")), 100)
PLAIN_FIELDS = {
    "name": field(NAME),
    "description": field(DESCRIPTION),
    "admin_state_up": field(BOOL),
    "external_gateway_info": field(GATEWAY),
}
FIELDS = {**PLAIN_FIELDS, **PROJECT_FIELDS}
UPDATE_FIELDS = {**PLAIN_FIELDS, "routes": field(nullable(ROUTES_SCHEMA))}
EXTRA_ROUTE_FIELDS = {"routes": field(ROUTES_SCHEMA, required=True)}
COLUMNS = build_columns(Router, "admin_state_up", "enable_snat")
FILTERS = build_filters(
    Router,
    COLUMNS,
    status=build_filter("status", ROUTER_STATUS),
    external_gateway_info=lambda session, values: Router.gateway_network_id.in_(
        [value.removeprefix("network_id=") for value in values]
    ),
)


def index(ctx: Context) -> Page:
    return read_list(ctx, Router, COLUMNS, FILTERS)


def show(ctx: Context, router_id: str) -> Router:
    return find_row(ctx, Router, router_id)


def _check_gateway_allowed(ctx: Context, router: Router | None = None) -> None:
    """Without source NAT, or at an address of one's choice: an administrator's."""
    wanted = ctx.body.get("external_gateway_info") or {}
    credentials, target = ctx.token.credentials(), {"project_id": ctx.token.project_id}
    if wanted.get("external_fixed_ips"):
        ctx.policy.check(FIXED_IPS, credentials, target)
    if wanted.get("enable_snat", True) is not (router.enable_snat if router is not None else True):
        ctx.policy.check(SNAT, credentials, target)


def create(ctx: Context) -> Router:
    project_id = choose_project(ctx)
    _check_gateway_allowed(ctx)
    check_quota(ctx.session, project_id, "router")
    router = Router(project_id=project_id)
    apply_body(router, ctx.body, ("name", "description", "admin_state_up"))
    ctx.session.add(router)
    ctx.session.flush()
    if ctx.body.get("external_gateway_info"):
        apply_gateway(ctx, router, ctx.body["external_gateway_info"])
    return router


def update(ctx: Context, router_id: str) -> Router:
    router, body = find_own(ctx, Router, router_id), ctx.body
    lock(ctx.session, Router, router.id)
    if "external_gateway_info" in body:
        if body["external_gateway_info"]:
            _check_gateway_allowed(ctx, router)
        apply_gateway(ctx, router, body["external_gateway_info"])
    if "routes" in body:
        apply_routes(ctx, router, body["routes"] or [])
    apply_body(router, body, ("name", "description", "admin_state_up"))
    ctx.session.flush()
    touch_router(ctx.session, router.id, ctx.request_id)
    return router


def apply_routes(ctx: Context, router: Router, routes: list[dict]) -> None:
    """Set the static routes; BadRequest (InvalidRoutes) where the router does not reach a next hop, or is it itself."""
    wanted = parse_routes(routes, None, ROUTES_MOST, "routes")
    reached = read_interface_subnets(ctx.session, router.id)
    cidrs = [subnet.cidr for _, _, subnet in reached]
    own = {address.address for _, address, _ in reached}
    gateway = read_gateway_port(ctx.session, router.id)
    if gateway is not None:
        cidrs += [ctx.session.get(Subnet, one.subnet_id).cidr for one in gateway.addresses]
        own |= {one.address for one in gateway.addresses}
    for route in wanted:
        hop = ipaddress.ip_address(route["nexthop"])
        if not any(hop in ipaddress.ip_network(cidr) for cidr in cidrs):
            reason = "the nexthop is not connected with router"
        elif str(hop) in own:
            reason = "the nexthop is used by router"
        else:
            continue
        raise BadRequest(f"Invalid format for routes: {route}, {reason}", kind="InvalidRoutes")
    router.routes = wanted


def add_routes(ctx: Context, router_id: str) -> Router:
    """Routes it does not have yet are added."""
    router = find_own(ctx, Router, router_id)
    lock(ctx.session, Router, router.id)
    new = [route for route in parse_routes(ctx.body["routes"], None, 100, "routes") if route not in router.routes]
    apply_routes(ctx, router, [*router.routes, *new])
    touch_router(ctx.session, router.id, ctx.request_id)
    return router


def remove_routes(ctx: Context, router_id: str) -> Router:
    """Of the routes named those it has are removed."""
    router = find_own(ctx, Router, router_id)
    lock(ctx.session, Router, router.id)
    gone = parse_routes(ctx.body["routes"], None, 100, "routes")
    router.routes = [route for route in router.routes if route not in gone]
    touch_router(ctx.session, router.id, ctx.request_id)
    return router


def delete(ctx: Context, router_id: str) -> None:
    """Refused while it has interfaces."""
    router = find_own(ctx, Router, router_id)
    lock(ctx.session, Router, router.id)
    interfaces = select(Port.id).where(Port.device_id == router.id, Port.device_owner == ROUTER_INTERFACE)
    if ctx.session.scalar(interfaces.limit(1)) is not None:
        raise Conflict(f"Router {router.id} still has ports", kind="RouterInUse")
    apply_gateway(ctx, router, None)
    ctx.session.delete(router)


def view(ctx: Context, row: Router) -> dict:
    view = {
        **view_standard(row),
        "admin_state_up": row.admin_state_up,
        "status": compute_router_status(row),
        "external_gateway_info": view_gateway(ctx.session, row),
        "routes": row.routes,
        "availability_zone_hints": [],
        "availability_zones": [],
    }
    return pick_fields(ctx, view)


LIST = rule("network:routers:index", READER)
SHOW = rule("network:routers:show", READER)
CREATE = rule("network:routers:create", MEMBER)
UPDATE = rule("network:routers:update", MEMBER)
DELETE = rule("network:routers:delete", MEMBER)
SNAT = rule("network:routers:change:enable_snat", ADMIN)
FIXED_IPS = rule("network:routers:change:external_fixed_ips", ADMIN)
ADD_ROUTES = rule("network:routers:add_extraroutes", MEMBER)
REMOVE_ROUTES = rule("network:routers:remove_extraroutes", MEMBER)
ROUTES = [
    Route("GET", "/routers", LIST, None, index, view, reply_key="routers"),
    Route("GET", "/routers/{router_id}", SHOW, None, show, view, key="router"),
    Route("POST", "/routers", CREATE, FIELDS, create, view, 201, key="router", bulk="routers"),
    Route("PUT", "/routers/{router_id}", UPDATE, UPDATE_FIELDS, update, view, key="router"),
    Route("DELETE", "/routers/{router_id}", DELETE, None, delete, None, 204),
    Route(
        "PUT", "/routers/{router_id}/add_extraroutes", ADD_ROUTES, EXTRA_ROUTE_FIELDS, add_routes, view, key="router"
    ),
    Route(
        "PUT",
        "/routers/{router_id}/remove_extraroutes",
        REMOVE_ROUTES,
        EXTRA_ROUTE_FIELDS,
        remove_routes,
        view,
        key="router",
    ),
]
