"""Metadata definitions as rows: who sees and who changes which, what is protected, and how they are shown.

A public namespace is everyone's to read, a private one its owner's. By default only admins write; where the operator
lets others, they change what is their own project's. Next rooms: `metadef_fields.py`, the models.
"""

from __future__ import annotations

from sqlalchemy import or_, select

from ...errors import Conflict, Forbidden, NotFound
from ...http import Context
from ...models import (
    MetadefAssociation,
    MetadefNamespace,
    MetadefObject,
    MetadefProperty,
    MetadefResourceType,
    MetadefTag,
)
from ...paging import build_next_link, read_page
from ...policy import ADMIN, READER, rule
from ...routes import Reply
from .rows import OTHERS, write_time

READ = rule("image:metadefs:read", READER)
CREATE = rule("image:metadefs:create", ADMIN)
UPDATE = rule("image:metadefs:update", ADMIN)
DELETE = rule("image:metadefs:delete", ADMIN)

BASE = "/v2/metadefs/namespaces"
PAGE = 25
KINDS = {
    MetadefProperty: "property",
    MetadefObject: "object",
    MetadefTag: "tag",
    MetadefAssociation: "resource type association",
}


def select_visible(ctx: Context):
    """Every namespace the caller may read."""
    statement = select(MetadefNamespace)
    if ctx.allows(OTHERS):
        return statement
    mine = MetadefNamespace.owner == ctx.token.project_id
    return statement.where(or_(MetadefNamespace.visibility == "public", mine))


def find_namespace(ctx: Context, name: str, lock: bool = False) -> MetadefNamespace:
    """The namespace of this name; NotFound. Locked: nobody else changes what is in it until the transaction ends."""
    statement = select_visible(ctx).where(MetadefNamespace.namespace == name)
    row = ctx.session.scalar(statement.with_for_update() if lock else statement)
    if row is None:
        raise NotFound(f"Metadata definition namespace {name} was not found.")
    return row


def find_own(ctx: Context, name: str) -> MetadefNamespace:
    """The same, locked, where the caller may change it; Forbidden where it only may read it."""
    row = find_namespace(ctx, name, lock=True)
    if row.owner != ctx.token.project_id and not ctx.allows(OTHERS):
        raise Forbidden(f"You are not permitted to modify the metadata definition namespace {name}.")
    return row


def check_deletable(space: MetadefNamespace, what: str) -> None:
    """Forbidden where the namespace is protected."""
    if space.protected:
        raise Forbidden(f"Metadata definition {what} is protected and cannot be deleted.")


def find_part(ctx: Context, model, space: MetadefNamespace, name: str):
    """The property, object, tag or association of this name in the namespace; NotFound."""
    row = ctx.session.get(model, (space.id, name))
    if row is None:
        raise NotFound(f"Metadata definition {KINDS[model]} {name} was not found in namespace {space.namespace}.")
    return row


def check_free(ctx: Context, model, space: MetadefNamespace, name: str) -> None:
    """Conflict where the namespace has such a part already."""
    if ctx.session.get(model, (space.id, name)) is not None:
        raise Conflict(
            f"A metadata definition {KINDS[model]} with name={name} already exists in namespace={space.namespace}."
        )


def list_parts(ctx: Context, model, space: MetadefNamespace) -> list:
    """All of one kind in the namespace, by name."""
    statement = select(model).where(model.namespace_id == space.id).order_by(model.name)
    return list(ctx.session.scalars(statement))


def delete_part(ctx: Context, model, namespace: str, name: str) -> None:
    space = find_own(ctx, namespace)
    row = find_part(ctx, model, space, name)
    check_deletable(space, f"{KINDS[model]} {name}")
    ctx.session.delete(row)


def delete_parts(ctx: Context, model, namespace: str) -> None:
    """All of one kind."""
    space = find_own(ctx, namespace)
    check_deletable(space, f"namespace {namespace}")
    for row in list_parts(ctx, model, space):
        ctx.session.delete(row)


def build_page(ctx: Context, statement, base: str, key: str, columns: dict, identity, view_all, within=None) -> Reply:
    """A page of a list as the Image API has it: {key: [...], first, next where there is one, schema}."""
    page = read_page(
        ctx.session,
        statement,
        ctx.query,
        columns=columns,
        identity=identity,
        default=[("created_at", "desc")],
        maximum=ctx.settings.api.max_limit,
        default_limit=PAGE,
        within=within,
    )
    body = {
        key: view_all(page.rows),
        "first": build_next_link(base, ctx.query, "").removesuffix("marker=").rstrip("?&"),
        "schema": f"/v2/schemas/metadefs/{key}",
    }
    if page.next_marker:
        body["next"] = build_next_link(base, ctx.query, page.next_marker)
    return Reply(body)


def build_part_page(ctx: Context, model, namespace: str, key: str, view) -> Reply:
    """A page of one kind in a namespace; markers are names."""
    space = find_namespace(ctx, namespace)
    within = model.namespace_id == space.id
    columns = {"name": model.name, "created_at": model.created_at, "updated_at": model.updated_at}
    base = f"{BASE}/{namespace}/{key}"

    def view_all(rows: list) -> list[dict]:
        return [view(row) for row in rows]

    return build_page(ctx, select(model).where(within), base, key, columns, model.name, view_all, within)


def apply_resource_type(ctx: Context, name: str) -> None:
    """The type of resources is known from now on."""
    if ctx.session.get(MetadefResourceType, name) is None:
        ctx.session.add(MetadefResourceType(name=name))
        ctx.session.flush()


def drop_empty(view: dict) -> dict:
    """A view without what is not set."""
    return {name: value for name, value in view.items() if value is not None}


def view_times(row) -> dict:
    return {"created_at": write_time(row.created_at), "updated_at": write_time(row.updated_at)}


def view_namespace(row: MetadefNamespace) -> dict:
    """Without what is in it."""
    return drop_empty(
        {
            "namespace": row.namespace,
            "display_name": row.display_name,
            "description": row.description,
            "visibility": row.visibility,
            "protected": row.protected,
            "owner": row.owner,
            **view_times(row),
            "self": f"{BASE}/{row.namespace}",
            "schema": "/v2/schemas/metadefs/namespace",
        }
    )


def view_object(namespace: str, row: MetadefObject) -> dict:
    return drop_empty(
        {
            "name": row.name,
            "description": row.description,
            "required": row.required,
            "properties": row.properties,
            **view_times(row),
            "self": f"{BASE}/{namespace}/objects/{row.name}",
            "schema": "/v2/schemas/metadefs/object",
        }
    )


def view_tag(row: MetadefTag) -> dict:
    return {"name": row.name, **view_times(row)}


def view_association(row: MetadefAssociation) -> dict:
    shown = {"name": row.name, "prefix": row.prefix, "properties_target": row.properties_target}
    return drop_empty({**shown, **view_times(row)})
