"""A server's tags, to find it by. API only: no host sees them.

Source: Compute API reference, "Server tags" (2.26).
"""

from __future__ import annotations

from ...errors import BadRequest, NotFound
from ...fields import field, items
from ...http import Context
from ...models import Server
from ...policy import MEMBER, READER, rule
from ...routes import Reply, Route
from .server_rows import find_server, find_server_to_change, mark_changed
from .servers import TAG

MOST = 50
FIELDS = {"tags": field(items(TAG, MOST, unique=True), required=True)}


def _store(ctx: Context, server: Server, tags) -> None:
    server.tags = sorted(tags)
    mark_changed(ctx, server, on_host=False)


def index(ctx: Context, server_id: str) -> dict:
    return {"tags": sorted(find_server(ctx, server_id).tags)}


def replace(ctx: Context, server_id: str) -> dict:
    server = find_server_to_change(ctx, server_id, "update")
    _store(ctx, server, ctx.body["tags"])
    return {"tags": server.tags}


def clear(ctx: Context, server_id: str) -> None:
    _store(ctx, find_server_to_change(ctx, server_id, "update"), [])


def show(ctx: Context, server_id: str, tag: str) -> Reply:
    if tag not in find_server(ctx, server_id).tags:
        raise NotFound(f"Server {server_id} has no tag '{tag}'")
    return Reply(None, 204)


def create(ctx: Context, server_id: str, tag: str) -> Reply:
    if len(tag) > 60 or "," in tag:
        raise BadRequest(f"Invalid input for tag. Value: {tag[:100]!r}. At most 60 characters, and no comma or slash.")
    server = find_server_to_change(ctx, server_id, "update")
    if tag in server.tags:
        return Reply(None, 204)
    if len(server.tags) >= MOST:
        raise BadRequest(f"The number of tags exceeded the per-server limit {MOST}")
    _store(ctx, server, [*server.tags, tag])
    return Reply(None, 201, {"Location": ctx.url(f"/servers/{server_id}/tags/{tag}")})


def delete(ctx: Context, server_id: str, tag: str) -> None:
    server = find_server_to_change(ctx, server_id, "update")
    if tag not in server.tags:
        raise NotFound(f"Server {server_id} has no tag '{tag}'")
    _store(ctx, server, [one for one in server.tags if one != tag])


def view(ctx: Context, tags: dict) -> dict:
    return tags


LIST = rule("compute:server_tags:index", READER)
SHOW = rule("compute:server_tags:show", READER)
UPDATE = rule("compute:server_tags:update", MEMBER)
DELETE = rule("compute:server_tags:delete", MEMBER)
PATH = "/servers/{server_id}/tags"
ROUTES = [
    Route("GET", PATH, LIST, None, index, view, since="2.26"),
    Route("PUT", PATH, UPDATE, FIELDS, replace, view, since="2.26"),
    Route("DELETE", PATH, DELETE, None, clear, None, 204, since="2.26"),
    Route("GET", PATH + "/{tag}", SHOW, None, show, None, 204, since="2.26"),
    Route("PUT", PATH + "/{tag}", UPDATE, None, create, None, 201, since="2.26"),
    Route("DELETE", PATH + "/{tag}", DELETE, None, delete, None, 204, since="2.26"),
]
