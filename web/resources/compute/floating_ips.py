"""os-floating-ips and os-floating-ip-pools (until 2.35), and the actions addFloatingIp and removeFloatingIp (until
2.43): older words for the network service's floating IPs.

Source: Compute API reference, "Floating IPs (os-floating-ips) (DEPRECATED)". A pool is an external network. Next room:
`web/neighbours.py`.
"""

from __future__ import annotations

from ...errors import BadRequest, Conflict, NotFound
from ...fields import IPV4, field, nullable, text
from ...http import Context
from ...neighbours import ask
from ...policy import MEMBER, READER, rule
from ...routes import Route
from .server_rows import find_server_to_change, record_action
from .server_views import read_nics

FIELDS = {"pool": field(nullable(text(255)))}
ADD_FIELDS = {"address": field(IPV4, required=True), "fixed_address": field(nullable(IPV4))}
REMOVE_FIELDS = {"address": field(IPV4, required=True)}
ALL, ONE_OF_THEM = "/floatingips", "/floatingips/{floatingip_id}"


def read_pools(ctx: Context) -> list[dict]:
    """The external networks, as the network service shows them."""
    return ask(ctx, "network", "GET", "/networks", query=[("router:external", "true")])


def index_pools(ctx: Context) -> list[dict]:
    return read_pools(ctx)


def index(ctx: Context) -> list[dict]:
    return ask(ctx, "network", "GET", ALL, query=[("project_id", ctx.project_id)])


def show(ctx: Context, floatingip_id: str) -> dict:
    return ask(ctx, "network", "GET", ONE_OF_THEM, floatingip_id=floatingip_id)


def create(ctx: Context) -> dict:
    """An address of the pool, or of the first one there is."""
    pool = ctx.body.get("pool")
    networks = [one for one in read_pools(ctx) if pool in (None, "", one["name"], one["id"])]
    if not networks:
        raise NotFound("Floating IP pool not found.")
    return ask(ctx, "network", "POST", ALL, {"floating_network_id": networks[0]["id"]})


def delete(ctx: Context, floatingip_id: str) -> None:
    ask(ctx, "network", "DELETE", ONE_OF_THEM, floatingip_id=floatingip_id)


def _find_by_address(ctx: Context) -> dict:
    address = ctx.body["address"]
    own = [("project_id", ctx.project_id), ("floating_ip_address", address)]
    found = ask(ctx, "network", "GET", ALL, query=own)
    if not found:
        raise NotFound(f"floating IP {address} not found")
    return found[0]


def add(ctx: Context, server_id: str) -> None:
    """The address leads to the server, wherever it led before."""
    server = find_server_to_change(ctx, server_id, "add_floating_ip")
    fixed = ctx.body.get("fixed_address")
    own = [
        (nic.port_id, address)
        for nic in read_nics(ctx.session, [server.id]).get(server.id, [])
        for _, address, _ in nic.addresses
        if ":" not in address
    ]
    if not own:
        raise BadRequest("No fixed IPs associated to instance")
    chosen = [pair for pair in own if fixed in (None, pair[1])]
    if not chosen:
        raise BadRequest(f"Specified fixed address {fixed} not assigned to instance")
    floating = _find_by_address(ctx)
    port, address = chosen[0]
    body = {"port_id": port, "fixed_ip_address": address}
    try:
        ask(ctx, "network", "PUT", ONE_OF_THEM, body, floatingip_id=floating["id"])
    except Conflict as refusal:  # the reference has no conflict here
        raise BadRequest(f"Unable to associate floating IP {ctx.body['address']}: {refusal.message}") from None
    record_action(ctx, server, "addFloatingIp", finished=True)


def remove(ctx: Context, server_id: str) -> None:
    server = find_server_to_change(ctx, server_id, "add_floating_ip")
    floating = _find_by_address(ctx)
    if _read_instance(floating) != server.id:
        raise Conflict(f"Floating IP {floating['floating_ip_address']} is not associated with instance {server.id}.")
    ask(ctx, "network", "PUT", ONE_OF_THEM, {"port_id": None}, floatingip_id=floating["id"])
    record_action(ctx, server, "removeFloatingIp", finished=True)


def _read_instance(floating: dict) -> str | None:
    details = floating["port_details"] or {}
    return details["device_id"] if details.get("device_owner", "").startswith("compute:") else None


def view(ctx: Context, floating: dict) -> dict:
    networks = {one["id"]: one["name"] for one in read_pools(ctx)}
    network = floating["floating_network_id"]
    return {
        "id": floating["id"],
        "ip": floating["floating_ip_address"],
        "fixed_ip": floating["fixed_ip_address"],
        "instance_id": _read_instance(floating),
        "pool": networks.get(network) or network,
    }


def view_pool(ctx: Context, network: dict) -> dict:
    return {"name": network["name"] or network["id"]}


PATH = "/os-floating-ips"
ACTION = "/servers/{server_id}/action"
LIST = rule("compute:floating_ips:index", READER)
SHOW = rule("compute:floating_ips:show", READER)
CREATE = rule("compute:floating_ips:create", MEMBER)
DELETE = rule("compute:floating_ips:delete", MEMBER)
POOLS = rule("compute:floating_ip_pools:index", READER)
ADD = rule("compute:servers:add_floating_ip", MEMBER)
REMOVE = rule("compute:servers:remove_floating_ip", MEMBER)
LAST = {"until": "2.35"}
ROUTES = [
    Route("GET", "/os-floating-ip-pools", POOLS, None, index_pools, view_pool, reply_key="floating_ip_pools", **LAST),
    Route("GET", PATH, LIST, None, index, view, reply_key="floating_ips", **LAST),
    Route("POST", PATH, CREATE, FIELDS, create, view, reply_key="floating_ip", **LAST),
    Route("GET", PATH + "/{floatingip_id}", SHOW, None, show, view, reply_key="floating_ip", **LAST),
    Route("DELETE", PATH + "/{floatingip_id}", DELETE, None, delete, None, 202, **LAST),
    Route("POST", ACTION, ADD, ADD_FIELDS, add, None, 202, action="addFloatingIp", until="2.43"),
    Route("POST", ACTION, REMOVE, REMOVE_FIELDS, remove, None, 202, action="removeFloatingIp", until="2.43"),
]
