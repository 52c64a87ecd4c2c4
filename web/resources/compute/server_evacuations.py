"""`evacuate`: a server of a host that is gone is made anew on another one, of its image or with its volumes.

Only after an admin has said that the host is off (forced down: fenced), and only once the storage hosts have closed the
targets that it knows: what two guests write to one volume is lost. Source: Compute API reference, "Evacuate Server".
Next rooms: `services.py`, which fences; `web/evacuations.py`.
"""

from __future__ import annotations

from ...capacity import read_hosts
from ...errors import BadRequest, Conflict, NotFound
from ...evacuations import check_fenced, check_volumes, start_evacuation
from ...fields import BOOL, field, since, text, until
from ...http import Context
from ...models import Host
from ...move_scheduler import Wish, choose_destination, describe
from ...policy import ADMIN, rule
from ...routes import Reply, Route
from ...scheduler import NoValidHost
from .server_hardware import choose_password
from .server_requests import invalid
from .server_rows import find_server_to_move, record_action

HOST = field(text(255, 1))
PASSWORD = field(text(255), secret=True)
FIELDS_2_1 = {"host": HOST, "onSharedStorage": field(BOOL, required=True), "adminPass": PASSWORD}
FIELDS = {"host": HOST, "adminPass": PASSWORD, "force": field(BOOL, since("2.29"), until("2.67"))}


def evacuate(ctx: Context, server_id: str) -> Reply:
    """From 2.95 on it is left off on the new host; before it runs there if it was to run."""
    body = ctx.body
    host = body.get("host")
    force = body.get("force", False) if ctx.version >= (2, 29) else host is not None
    if force and host is None:
        raise BadRequest("Can't force to a non-provided destination")
    hosts = {row.name: row for row in read_hosts(ctx.session)}
    if host is not None and (host not in hosts or "hypervisor" not in hosts[host].roles):
        raise NotFound(f"Compute host {host} not found.")
    server = find_server_to_move(ctx, server_id, "evacuate")
    source = ctx.session.get(Host, server.host_id) if server.host_id else None
    if source is None:
        raise Conflict(f"Instance {server.id} is not ready: no host was found for it")
    if source.name == host:
        raise BadRequest("The target host can't be the same one.")
    check_fenced(source, ctx.settings)
    if body.get("onSharedStorage") and server.image_id is not None:
        raise invalid("onSharedStorage", True, "Hosts have no shared storage here: its disk is made anew of its image.")
    check_volumes(ctx.session, server)
    wish = Wish(host=host, force=bool(force), over_network=False)
    try:
        dest = choose_destination(ctx.session, ctx.settings, server, wish)
    except NoValidHost as refusal:
        raise BadRequest(describe(refusal, wish)) from None
    record_action(ctx, server, "evacuate")
    if ctx.version >= (2, 95):
        server.power = "off"
    start_evacuation(
        ctx.session,
        ctx.settings,
        server,
        dest,
        user_id=ctx.token.user_id,
        project_id=ctx.token.project_id or "",
        request_id=ctx.request_id,
    )
    if ctx.version >= (2, 14):
        return Reply(None, 200)
    return Reply({"adminPass": server.injected.get("admin_pass") or choose_password(body)}, 200)


PATH = "/servers/{server_id}/action"
PERMISSION = rule("compute:servers:evacuate", ADMIN)
ROUTES = [
    Route("POST", PATH, PERMISSION, FIELDS_2_1, evacuate, None, 200, action="evacuate", until="2.13"),
    Route("POST", PATH, PERMISSION, FIELDS, evacuate, None, 200, action="evacuate", since="2.14"),
]
