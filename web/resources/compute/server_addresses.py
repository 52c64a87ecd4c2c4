"""A server's addresses by network, and its interfaces (ports). Read only.

Source: Compute API reference, "Servers IPs" and "Port interfaces".
"""

from __future__ import annotations

from ...errors import NotFound
from ...fields import field, since
from ...http import Context
from ...models import Port
from ...policy import READER, rule
from ...routes import Route
from .server_rows import find_server
from .server_views import Nic, build_addresses, read_nics

INTERFACE_FIELDS = {"tag": field({}, since("2.70"))}
SHOWN_KEYS = ("version", "addr")


def _build(ctx: Context, server_id: str) -> dict[str, list[dict]]:
    server = find_server(ctx, server_id)
    found = build_addresses(read_nics(ctx.session, [server.id]).get(server.id, []))
    return {name: [{key: one[key] for key in SHOWN_KEYS} for one in listed] for name, listed in found.items()}


def index(ctx: Context, server_id: str) -> dict:
    return _build(ctx, server_id)


def show(ctx: Context, server_id: str, network: str) -> dict:
    found = _build(ctx, server_id)
    if network not in found:
        raise NotFound("Instance is not a member of specified network")
    return {network: found[network]}


def view(ctx: Context, addresses: dict) -> dict:
    return addresses


def index_interfaces(ctx: Context, server_id: str) -> list[tuple[Nic, Port]]:
    server = find_server(ctx, server_id)
    nics = read_nics(ctx.session, [server.id]).get(server.id, [])
    return [(nic, ctx.session.get(Port, nic.port_id)) for nic in nics]


def show_interface(ctx: Context, server_id: str, port_id: str) -> tuple[Nic, Port]:
    for nic, port in index_interfaces(ctx, server_id):
        if nic.port_id == port_id:
            return nic, port
    raise NotFound(f"Instance {server_id} does not have a port with id {port_id}")


def view_interface(ctx: Context, found: tuple[Nic, Port]) -> dict:
    nic, port = found
    return {
        "port_id": nic.port_id,
        "net_id": nic.network_id,
        "mac_addr": nic.mac,
        "port_state": "ACTIVE" if port.observed_state == "active" else "DOWN",
        "fixed_ips": [{"subnet_id": subnet, "ip_address": address} for subnet, address, _ in nic.addresses],
        "tag": None,
    }


IPS = rule("compute:server_ips:index", READER)
INTERFACES = rule("compute:server_interfaces:index", READER)
ROUTES = [
    Route("GET", "/servers/{server_id}/ips", IPS, None, index, view, reply_key="addresses"),
    Route("GET", "/servers/{server_id}/ips/{network}", IPS, None, show, view),
    Route(
        "GET",
        "/servers/{server_id}/os-interface",
        INTERFACES,
        None,
        index_interfaces,
        view_interface,
        reply_key="interfaceAttachments",
        view_fields=INTERFACE_FIELDS,
    ),
    Route(
        "GET",
        "/servers/{server_id}/os-interface/{port_id}",
        INTERFACES,
        None,
        show_interface,
        view_interface,
        reply_key="interfaceAttachment",
        view_fields=INTERFACE_FIELDS,
    ),
]
