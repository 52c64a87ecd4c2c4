"""Properties of metadata definitions: what one may be, in JSON Schema's terms.

Source: Image API reference, "Metadata definition properties". Next room: `metadef_rows.py`.
"""

from __future__ import annotations

from ...errors import NotFound
from ...http import Context
from ...models import MetadefAssociation, MetadefProperty
from ...routes import Reply, Route
from .metadef_fields import PROPERTY, check_storable
from .metadef_rows import (
    CREATE,
    DELETE,
    READ,
    UPDATE,
    check_free,
    delete_part,
    find_namespace,
    find_own,
    find_part,
    list_parts,
)


def _read_definition(body: dict) -> dict:
    return {name: value for name, value in body.items() if name != "name"}


def index(ctx: Context, namespace: str) -> Reply:
    """{name: definition} of all of them."""
    rows = list_parts(ctx, MetadefProperty, find_namespace(ctx, namespace))
    return Reply({"properties": {row.name: row.definition for row in rows}})


def show(ctx: Context, namespace: str, name: str) -> Reply:
    """By its name, or, with `resource_type`, by its name behind the prefix that such resources' properties have."""
    space, stored = find_namespace(ctx, namespace), name
    if resource_type := ctx.query.get("resource_type"):
        prefix = find_part(ctx, MetadefAssociation, space, resource_type).prefix or ""
        if not name.startswith(prefix):
            raise NotFound(f"Property {name} does not start with the expected resource type prefix of '{prefix}'.")
        stored = name[len(prefix) :]
    return Reply({**view(find_part(ctx, MetadefProperty, space, stored)), "name": name})


def create(ctx: Context, namespace: str) -> Reply:
    check_storable(ctx.body)
    space, name = find_own(ctx, namespace), ctx.body["name"]
    check_free(ctx, MetadefProperty, space, name)
    row = MetadefProperty(namespace_id=space.id, name=name, definition=_read_definition(ctx.body))
    ctx.session.add(row)
    ctx.session.flush()
    return Reply(view(row), 201, {"Location": ctx.url(f"/metadefs/namespaces/{namespace}/properties/{name}")})


def update(ctx: Context, namespace: str, name: str) -> Reply:
    """The property is what the body says, its name included."""
    check_storable(ctx.body)
    space = find_own(ctx, namespace)
    row = find_part(ctx, MetadefProperty, space, name)
    if ctx.body["name"] != name:
        check_free(ctx, MetadefProperty, space, ctx.body["name"])
    row.name, row.definition = ctx.body["name"], _read_definition(ctx.body)
    ctx.session.flush()
    return Reply(view(row))


def delete(ctx: Context, namespace: str, name: str) -> None:
    delete_part(ctx, MetadefProperty, namespace, name)


def view(row: MetadefProperty) -> dict:
    return {"name": row.name, **row.definition}


ALL = "/metadefs/namespaces/{namespace}/properties"
ROUTES = [
    Route("GET", ALL, READ, None, index),
    Route("POST", ALL, CREATE, PROPERTY, create),
    Route("GET", f"{ALL}/{{name}}", READ, None, show),
    Route("PUT", f"{ALL}/{{name}}", UPDATE, PROPERTY, update),
    Route("DELETE", f"{ALL}/{{name}}", DELETE, None, delete),
]
