"""What was asked of a server, by whom, when, and how it ended. Readable after the server is gone.

Source: Compute API reference, "Servers actions (os-instance-actions)". The rows are written by the
handlers that ask and finished by `web/reconcile/observe.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select

from ...errors import BadRequest, NotFound
from ...fields import field, since
from ...http import Context
from ...models import Host, Server, ServerAction
from ...paging import Page, read_limit
from ...policy import READER, rule
from ...routes import Route
from .server_filters import parse_time
from .server_rows import find_server
from .server_views import EXTENDED, build_host_hash, show_fine_time

VIEW_FIELDS = {"updated_at": field({}, since("2.58"))}
KNOWN = {"limit", "marker", "changes-since", "changes-before"}


@dataclass
class Shown:
    """An action with what its view needs; ``host`` where its events are shown."""

    action: ServerAction
    server: Server
    host: Host | None = None


def _find(ctx: Context, server_id: str) -> Server:
    return find_server(ctx, server_id, gone=ctx.version >= (2, 21))


def index(ctx: Context, server_id: str) -> Page | list[Shown]:
    server = _find(ctx, server_id)
    statement = select(ServerAction).where(ServerAction.server_id == server.id).order_by(ServerAction.id.desc())
    query = ctx.query
    if ctx.version < (2, 58):
        return [Shown(row, server) for row in ctx.session.scalars(statement)]
    for name in query:
        if name not in KNOWN or (name == "changes-before" and ctx.version < (2, 66)):
            raise BadRequest(f"Invalid input for query parameter {name}: Additional properties are not allowed.")
    if query.get("changes-since"):
        statement = statement.where(ServerAction.started_at >= parse_time("changes-since", query["changes-since"]))
    if query.get("changes-before"):
        statement = statement.where(ServerAction.started_at <= parse_time("changes-before", query["changes-before"]))
    if query.get("marker"):
        at = ctx.session.scalar(
            select(ServerAction.id).where(
                ServerAction.server_id == server.id, ServerAction.request_id == query["marker"]
            )
        )
        if at is None:
            raise BadRequest(f"marker [{query['marker'][:100]}] not found")
        statement = statement.where(ServerAction.id < at)
    limit = read_limit(query, ctx.settings.api.max_limit)
    rows = ctx.session.scalars(statement.limit(limit + 1)).all()
    more = len(rows) > limit > 0
    return Page([Shown(row, server) for row in rows[:limit]], rows[limit - 1].request_id if more else None)


def show(ctx: Context, server_id: str, request_id: str) -> Shown:
    server = _find(ctx, server_id)
    row = ctx.session.scalar(
        select(ServerAction)
        .where(ServerAction.server_id == server.id, ServerAction.request_id == request_id)
        .order_by(ServerAction.id)
        .limit(1)
    )
    if row is None:
        raise NotFound(f"Action for request_id {request_id} on instance {server_id} not found")
    return Shown(row, server, ctx.session.get(Host, server.host_id) if server.host_id else None)


def view_listed(ctx: Context, shown: Shown) -> dict:
    row = shown.action
    return {
        "action": row.action,
        "instance_uuid": row.server_id,
        "request_id": row.request_id,
        "user_id": row.user_id,
        "project_id": row.project_id,
        "start_time": show_fine_time(row.started_at),
        "message": row.message,
        "updated_at": show_fine_time(row.finished_at or row.started_at),
    }


def view_shown(ctx: Context, shown: Shown) -> dict:
    """With its one event: what the host did for it."""
    row, view = shown.action, view_listed(ctx, shown)
    extended = ctx.allows(EXTENDED)
    if ctx.version < (2, 51) and not extended:
        return view
    event = {
        "event": f"compute_{row.action}",
        "start_time": show_fine_time(row.started_at),
        "finish_time": show_fine_time(row.finished_at),
        "result": None if row.finished_at is None else "Error" if row.message else "Success",
    }
    if extended:
        event["traceback"] = None
    if ctx.version >= (2, 62):
        event["hostId"] = build_host_hash(shown.server, shown.host)
        if extended:
            event["host"] = shown.host.name if shown.host else None
    if ctx.version >= (2, 84):
        event["details"] = row.message
    return {**view, "events": [event]}


LIST = rule("compute:instance_actions:index", READER)
SHOW = rule("compute:instance_actions:show", READER)
PATH = "/servers/{server_id}/os-instance-actions"
ROUTES = [
    Route("GET", PATH, LIST, None, index, view_listed, reply_key="instanceActions", view_fields=VIEW_FIELDS),
    Route(
        "GET",
        PATH + "/{request_id}",
        SHOW,
        None,
        show,
        view_shown,
        reply_key="instanceAction",
        view_fields=VIEW_FIELDS,
    ),
]
