"""Objects of metadata definitions: named groups of properties.

Source: Image API reference, "Metadata definition objects". Next room: `metadef_rows.py`.
"""

from __future__ import annotations

from ...http import Context
from ...models import MetadefNamespace, MetadefObject
from ...routes import Reply, Route
from .metadef_fields import OBJECT, check_storable
from .metadef_rows import (
    CREATE,
    DELETE,
    READ,
    UPDATE,
    build_part_page,
    check_free,
    delete_part,
    find_namespace,
    find_own,
    find_part,
    view_object,
)


def build_object(ctx: Context, space: MetadefNamespace, body: dict) -> MetadefObject:
    """A new object of a body that OBJECT has checked; Conflict where there is one of its name."""
    check_free(ctx, MetadefObject, space, body["name"])
    row = MetadefObject(namespace_id=space.id, name=body["name"])
    _fill(row, body)
    ctx.session.add(row)
    ctx.session.flush()
    return row


def _fill(row: MetadefObject, body: dict) -> None:
    row.description = body.get("description")
    row.required = body.get("required", [])
    row.properties = {
        name: {key: value for key, value in definition.items() if key != "name"}
        for name, definition in body.get("properties", {}).items()
    }


def index(ctx: Context, namespace: str) -> Reply:
    return build_part_page(ctx, MetadefObject, namespace, "objects", lambda row: view_object(namespace, row))


def show(ctx: Context, namespace: str, name: str) -> Reply:
    return Reply(view_object(namespace, find_part(ctx, MetadefObject, find_namespace(ctx, namespace), name)))


def create(ctx: Context, namespace: str) -> Reply:
    check_storable(ctx.body)
    row = build_object(ctx, find_own(ctx, namespace), ctx.body)
    location = ctx.url(f"/metadefs/namespaces/{namespace}/objects/{row.name}")
    return Reply(view_object(namespace, row), 201, {"Location": location})


def update(ctx: Context, namespace: str, name: str) -> Reply:
    """The object is what the body says, and nothing else of it stays."""
    check_storable(ctx.body)
    space = find_own(ctx, namespace)
    row = find_part(ctx, MetadefObject, space, name)
    if ctx.body["name"] != name:
        check_free(ctx, MetadefObject, space, ctx.body["name"])
    row.name = ctx.body["name"]
    _fill(row, ctx.body)
    ctx.session.flush()
    return Reply(view_object(namespace, row))


def delete(ctx: Context, namespace: str, name: str) -> None:
    delete_part(ctx, MetadefObject, namespace, name)


ALL = "/metadefs/namespaces/{namespace}/objects"
ROUTES = [
    Route("GET", ALL, READ, None, index),
    Route("POST", ALL, CREATE, OBJECT, create),
    Route("GET", f"{ALL}/{{name}}", READ, None, show),
    Route("PUT", f"{ALL}/{{name}}", UPDATE, OBJECT, update),
    Route("DELETE", f"{ALL}/{{name}}", DELETE, None, delete),
]
