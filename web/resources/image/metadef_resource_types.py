"""Types of resources that metadata definitions speak of, and which namespace speaks of which.

Source: Image API reference, "Metadata definition resource types". Next room: `metadef_rows.py`.
"""

from __future__ import annotations

from sqlalchemy import select

from ...http import Context
from ...models import MetadefAssociation, MetadefNamespace, MetadefResourceType
from ...routes import Reply, Route
from .metadef_fields import ASSOCIATION
from .metadef_rows import (
    CREATE,
    DELETE,
    READ,
    apply_resource_type,
    check_free,
    delete_part,
    find_namespace,
    find_own,
    list_parts,
    view_association,
    view_times,
)


def build_association(ctx: Context, space: MetadefNamespace, body: dict) -> MetadefAssociation:
    """The namespace speaks of a type from now on, which is made where it was not known."""
    check_free(ctx, MetadefAssociation, space, body["name"])
    apply_resource_type(ctx, body["name"])
    row = MetadefAssociation(
        namespace_id=space.id,
        name=body["name"],
        prefix=body.get("prefix"),
        properties_target=body.get("properties_target"),
    )
    ctx.session.add(row)
    ctx.session.flush()
    return row


def index_types(ctx: Context) -> Reply:
    rows = ctx.session.scalars(select(MetadefResourceType).order_by(MetadefResourceType.name))
    return Reply({"resource_types": [{"name": row.name, **view_times(row)} for row in rows]})


def index(ctx: Context, namespace: str) -> Reply:
    rows = list_parts(ctx, MetadefAssociation, find_namespace(ctx, namespace))
    return Reply({"resource_type_associations": [view_association(row) for row in rows]})


def create(ctx: Context, namespace: str) -> Reply:
    row = build_association(ctx, find_own(ctx, namespace), ctx.body)
    location = ctx.url(f"/metadefs/namespaces/{namespace}/resource_types/{row.name}")
    return Reply(view_association(row), 201, {"Location": location})


def delete(ctx: Context, namespace: str, name: str) -> None:
    delete_part(ctx, MetadefAssociation, namespace, name)


ALL = "/metadefs/namespaces/{namespace}/resource_types"
ROUTES = [
    Route("GET", "/metadefs/resource_types", READ, None, index_types),
    Route("GET", ALL, READ, None, index),
    Route("POST", ALL, CREATE, ASSOCIATION, create),
    Route("DELETE", f"{ALL}/{{name}}", DELETE, None, delete),
]
