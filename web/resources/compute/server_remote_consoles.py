"""The URL of a running guest's console, which can be opened once: its screen (noVNC) or its serial port.

Until 2.5 by an action for each protocol, from 2.6 on by one resource. Hosts realise vnc and serial; the reference's
other types are refused in its words. Sources: Compute API reference, "Create Remote Console", "Get Vnc Console
(os-getVNCConsole Action)", "Get Serial Console (os-getSerialConsole Action)". Next room: `web/console_tokens.py`.
"""

from __future__ import annotations

from ...console_tokens import build_url, make_token
from ...errors import BadRequest
from ...fields import field, one_of
from ...http import Context
from ...policy import MEMBER, rule
from ...reconcile.status import check_allowed
from ...routes import Route
from .server_rows import check_placed, find_server

PROTOCOLS = ("vnc", "spice", "rdp", "serial")
TYPES = ("novnc", "xvpvnc", "rdp-html5", "spice-html5", "serial")
REALISED = {("vnc", "novnc"), ("serial", "serial")}
# mks came with 2.8; spice-direct (2.99) is beyond the versions that are served.
FIELDS = {"protocol": field(one_of(*PROTOCOLS), required=True), "type": field(one_of(*TYPES), required=True)}
FIELDS_2_8 = {
    "protocol": field(one_of(*PROTOCOLS, "mks"), required=True),
    "type": field(one_of(*TYPES, "webmks"), required=True),
}
VNC_FIELDS = {"type": field(one_of("novnc", "xvpvnc"), required=True)}
SERIAL_FIELDS = {"type": field(one_of("serial"), required=True)}


def create(ctx: Context, server_id: str) -> dict:
    """A URL that leads to the guest's console once, within `[console] token_ttl_s`."""
    protocol, kind = ctx.body["protocol"], ctx.body["type"]
    return {"protocol": protocol, "type": kind, "url": _make_url(ctx, server_id, protocol, kind)}


def get_vnc(ctx: Context, server_id: str) -> dict:
    return {"type": ctx.body["type"], "url": _make_url(ctx, server_id, "vnc", ctx.body["type"])}


def get_serial(ctx: Context, server_id: str) -> dict:
    return {"type": ctx.body["type"], "url": _make_url(ctx, server_id, "serial", ctx.body["type"])}


def _make_url(ctx: Context, server_id: str, protocol: str, kind: str) -> str:
    server = find_server(ctx, server_id)
    if protocol not in ("vnc", "serial") or kind == "xvpvnc":
        raise BadRequest(f"Unavailable console type {kind}: there are novnc and serial.")
    if (protocol, kind) not in REALISED:
        raise BadRequest(f"Invalid console type {kind} for the protocol {protocol}.")
    check_allowed(server, "get_console")
    check_placed(server)
    token = make_token(ctx.session, ctx.settings, server, kind, ctx.token.user_id, ctx.request_id)
    return build_url(ctx.settings, kind, token)


def view(ctx: Context, console: dict) -> dict:
    return console


PERMISSION = rule("os_compute_api:os-remote-consoles", MEMBER)
PATH = "/servers/{server_id}/remote-consoles"
ACTION = "/servers/{server_id}/action"
ROUTES = [
    Route("POST", PATH, PERMISSION, FIELDS, create, view, key="remote_console", since="2.6", until="2.7"),
    Route("POST", PATH, PERMISSION, FIELDS_2_8, create, view, key="remote_console", since="2.8"),
    Route(
        "POST", ACTION, PERMISSION, VNC_FIELDS, get_vnc, view, 200,
        reply_key="console", action="os-getVNCConsole", until="2.5",
    ),
    Route(
        "POST", ACTION, PERMISSION, SERIAL_FIELDS, get_serial, view, 200,
        reply_key="console", action="os-getSerialConsole", until="2.5",
    ),
]  # fmt: skip
