"""A server's metadata: pairs of texts that the guest reads too.

Source: Compute API reference, "Server metadata". Next room: `server_rows.py`.
"""

from __future__ import annotations

from ...errors import BadRequest, NotFound
from ...fields import METADATA, field
from ...http import Context
from ...models import Server
from ...policy import MEMBER, READER, rule
from ...routes import Route
from .server_requests import check_metadata
from .server_rows import find_server, find_server_to_change, mark_changed

FIELDS = {"metadata": field(METADATA, required=True)}
ITEM_FIELDS = {"meta": field({**METADATA, "minProperties": 1, "maxProperties": 1}, required=True)}


def _store(ctx: Context, server: Server, metadata: dict) -> dict:
    server.metadata_ = check_metadata(ctx, metadata)
    mark_changed(ctx, server)
    return metadata


def _find_item(server: Server, key: str) -> str:
    if key not in server.metadata_:
        raise NotFound("Metadata item was not found")
    return server.metadata_[key]


def index(ctx: Context, server_id: str) -> dict:
    return find_server(ctx, server_id).metadata_


def replace(ctx: Context, server_id: str) -> dict:
    server = find_server_to_change(ctx, server_id, "update_metadata")
    return _store(ctx, server, ctx.body["metadata"])


def update_all(ctx: Context, server_id: str) -> dict:
    server = find_server_to_change(ctx, server_id, "update_metadata")
    return _store(ctx, server, {**server.metadata_, **ctx.body["metadata"]})


def show(ctx: Context, server_id: str, key: str) -> dict:
    return {key: _find_item(find_server(ctx, server_id), key)}


def update(ctx: Context, server_id: str, key: str) -> dict:
    if list(ctx.body["meta"]) != [key]:
        raise BadRequest(f"Invalid input in meta: its key must be the one in the path, {key!r}")
    server = find_server_to_change(ctx, server_id, "update_metadata")
    _store(ctx, server, {**server.metadata_, **ctx.body["meta"]})
    return ctx.body["meta"]


def delete(ctx: Context, server_id: str, key: str) -> None:
    server = find_server_to_change(ctx, server_id, "update_metadata")
    _find_item(server, key)
    _store(ctx, server, {name: value for name, value in server.metadata_.items() if name != key})


def view(ctx: Context, metadata: dict) -> dict:
    return metadata


LIST = rule("compute:server_metadata:index", READER)
SHOW = rule("compute:server_metadata:show", READER)
UPDATE = rule("compute:server_metadata:update", MEMBER)
DELETE = rule("compute:server_metadata:delete", MEMBER)
PATH = "/servers/{server_id}/metadata"
ROUTES = [
    Route("GET", PATH, LIST, None, index, view, reply_key="metadata"),
    Route("PUT", PATH, UPDATE, FIELDS, replace, view, reply_key="metadata"),
    Route("POST", PATH, UPDATE, FIELDS, update_all, view, reply_key="metadata"),
    Route("GET", PATH + "/{key}", SHOW, None, show, view, reply_key="meta"),
    Route("PUT", PATH + "/{key}", UPDATE, ITEM_FIELDS, update, view, reply_key="meta"),
    Route("DELETE", PATH + "/{key}", DELETE, None, delete, None, 204),
]
