"""Namespaces of metadata definitions, with what is in them.

Source: Image API reference, "Metadata definition namespaces". Next rooms: `metadef_rows.py`; the parts, one file each.
"""

from __future__ import annotations

from sqlalchemy import select

from ...errors import Conflict
from ...http import Context
from ...models import MetadefAssociation, MetadefNamespace, MetadefObject, MetadefProperty, MetadefTag
from ...routes import Reply, Route
from .filters import read_choice
from .metadef_fields import NAMESPACE, check_storable
from .metadef_objects import build_object
from .metadef_resource_types import build_association
from .metadef_rows import (
    BASE,
    CREATE,
    DELETE,
    READ,
    UPDATE,
    build_page,
    check_deletable,
    delete_parts,
    find_namespace,
    find_own,
    list_parts,
    select_visible,
    view_association,
    view_namespace,
    view_object,
)
from .metadef_tags import add_tags
from .rows import OTHERS

SORT = {
    "namespace": MetadefNamespace.namespace,
    "created_at": MetadefNamespace.created_at,
    "updated_at": MetadefNamespace.updated_at,
}


def index(ctx: Context) -> Reply:
    """Those that the caller may read, each with its associations."""
    statement = select_visible(ctx)
    visibility = read_choice(ctx.query, "visibility", ("public", "private"))
    if visibility is not None:
        statement = statement.where(MetadefNamespace.visibility == visibility)
    if wanted := [name for name in ctx.query.get("resource_types", "").split(",") if name]:
        associated = select(MetadefAssociation.namespace_id).where(MetadefAssociation.name.in_(wanted))
        statement = statement.where(MetadefNamespace.id.in_(associated))

    def view_all(rows: list[MetadefNamespace]) -> list[dict]:
        found = {row.id: {**view_namespace(row), "resource_type_associations": []} for row in rows}
        chosen = select(MetadefAssociation).where(MetadefAssociation.namespace_id.in_(list(found)))
        for one in ctx.session.scalars(chosen.order_by(MetadefAssociation.name)):
            found[one.namespace_id]["resource_type_associations"].append(view_association(one))
        return list(found.values())

    return build_page(ctx, statement, BASE, "namespaces", SORT, MetadefNamespace.namespace, view_all)


def show(ctx: Context, namespace: str) -> Reply:
    """All of it; names of properties begin with the prefix that the namespace has for `resource_type`, if any."""
    row = find_namespace(ctx, namespace)
    return Reply(view_whole(ctx, row, ctx.query.get("resource_type")))


def _check_owner(ctx: Context, body: dict) -> str:
    """The project that is to own it: another than the caller's own is for those who may see to all."""
    owner = body.get("owner") or ctx.project_id
    if owner != ctx.token.project_id:
        ctx.policy.check(OTHERS, ctx.token.credentials(), {})
    return owner


def _check_name(ctx: Context, name: str) -> None:
    if ctx.session.scalar(select(MetadefNamespace.id).where(MetadefNamespace.namespace == name)) is not None:
        raise Conflict(f"The metadata definition namespace={name} already exists.")


def create(ctx: Context) -> Reply:
    body = ctx.body
    check_storable(body)
    _check_name(ctx, body["namespace"])
    row = MetadefNamespace(
        namespace=body["namespace"],
        display_name=body.get("display_name"),
        description=body.get("description"),
        visibility=body.get("visibility", "private"),
        protected=body.get("protected", False),
        owner=_check_owner(ctx, body),
    )
    ctx.session.add(row)
    ctx.session.flush()
    for one in body.get("resource_type_associations", []):
        build_association(ctx, row, one)
    for name, definition in body.get("properties", {}).items():
        ctx.session.add(MetadefProperty(namespace_id=row.id, name=name, definition=_strip_name(definition)))
    for one in body.get("objects", []):
        build_object(ctx, row, one)
    add_tags(ctx, row, [one["name"] for one in body.get("tags", [])])
    ctx.session.flush()
    whole = view_whole(ctx, row)
    shown = {name: value for name, value in whole.items() if value or name not in PARTS}
    return Reply(shown, 201, {"Location": ctx.url(f"/metadefs/namespaces/{row.namespace}")})


def _strip_name(definition: dict) -> dict:
    return {name: value for name, value in definition.items() if name != "name"}


def update(ctx: Context, namespace: str) -> Reply:
    """What the body does not name is as in a new one; what is in the namespace stays as it is."""
    body = ctx.body
    check_storable(body)
    row = find_own(ctx, namespace)
    if body["namespace"] != row.namespace:
        _check_name(ctx, body["namespace"])
    if body.get("owner") not in (None, row.owner):
        row.owner = _check_owner(ctx, body)
    row.namespace = body["namespace"]
    row.display_name, row.description = body.get("display_name"), body.get("description")
    row.visibility, row.protected = body.get("visibility", "private"), body.get("protected", False)
    ctx.session.flush()
    return Reply(view_namespace(row))


def delete(ctx: Context, namespace: str) -> None:
    """With all that is in it; 403 while it is protected."""
    row = find_own(ctx, namespace)
    check_deletable(row, f"namespace {namespace}")
    ctx.session.delete(row)


def delete_objects(ctx: Context, namespace: str) -> None:
    delete_parts(ctx, MetadefObject, namespace)


def delete_properties(ctx: Context, namespace: str) -> None:
    delete_parts(ctx, MetadefProperty, namespace)


def delete_tags(ctx: Context, namespace: str) -> None:
    delete_parts(ctx, MetadefTag, namespace)


PARTS = ("properties", "objects", "tags", "resource_type_associations")


def view_whole(ctx: Context, row: MetadefNamespace, resource_type: str | None = None) -> dict:
    associations = list_parts(ctx, MetadefAssociation, row)
    prefix = next((one.prefix for one in associations if one.name == resource_type), None) or ""
    return {
        **view_namespace(row),
        "properties": {prefix + one.name: one.definition for one in list_parts(ctx, MetadefProperty, row)},
        "objects": [view_object(row.namespace, one) for one in list_parts(ctx, MetadefObject, row)],
        "tags": [{"name": one.name} for one in list_parts(ctx, MetadefTag, row)],
        "resource_type_associations": [view_association(one) for one in associations],
    }


ONE = "/metadefs/namespaces/{namespace}"
ROUTES = [
    Route("GET", "/metadefs/namespaces", READ, None, index),
    Route("POST", "/metadefs/namespaces", CREATE, NAMESPACE, create),
    Route("GET", ONE, READ, None, show),
    Route("PUT", ONE, UPDATE, NAMESPACE, update),
    Route("DELETE", ONE, DELETE, None, delete),
    Route("DELETE", f"{ONE}/objects", DELETE, None, delete_objects),
    Route("DELETE", f"{ONE}/properties", DELETE, None, delete_properties),
    Route("DELETE", f"{ONE}/tags", DELETE, None, delete_tags),
]
