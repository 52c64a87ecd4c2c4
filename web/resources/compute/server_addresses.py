"""A server's addresses by network. Read only.

Source: Compute API reference, "Servers IPs". Next room: `server_interfaces.py`.
"""

from __future__ import annotations

from ...errors import NotFound
from ...http import Context
from ...policy import READER, rule
from ...routes import Route
from .server_rows import find_server
from .server_views import build_addresses, read_nics

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


IPS = rule("compute:server_ips:index", READER)
ROUTES = [
    Route("GET", "/servers/{server_id}/ips", IPS, None, index, view, reply_key="addresses"),
    Route("GET", "/servers/{server_id}/ips/{network}", IPS, None, show, view),
]
