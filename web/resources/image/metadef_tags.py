"""Tags of metadata definitions: words that resources may be tagged with.

Source: Image API reference, "Metadata definition tags". Next room: `metadef_rows.py`.
"""

from __future__ import annotations

from ... import fields as web_fields
from ...errors import Conflict
from ...fields import TRUE
from ...http import Context
from ...models import MetadefNamespace, MetadefTag
from ...routes import Reply, Route
from .metadef_fields import TAG, TAGS
from .metadef_rows import (
    CREATE,
    DELETE,
    READ,
    UPDATE,
    build_part_page,
    check_deletable,
    check_free,
    delete_part,
    find_namespace,
    find_own,
    find_part,
    list_parts,
    view_tag,
)


def add_tags(ctx: Context, space: MetadefNamespace, names: list[str]) -> None:
    """New tags of these names; Conflict where one is there already, or named twice."""
    if len(set(names)) != len(names):
        raise Conflict("A metadata definition tag is named twice.")
    for name in names:
        check_free(ctx, MetadefTag, space, name)
        ctx.session.add(MetadefTag(namespace_id=space.id, name=name))
    ctx.session.flush()


def index(ctx: Context, namespace: str) -> Reply:
    return build_part_page(ctx, MetadefTag, namespace, "tags", view_tag)


def show(ctx: Context, namespace: str, name: str) -> Reply:
    return Reply(view_tag(find_part(ctx, MetadefTag, find_namespace(ctx, namespace), name)))


def create_many(ctx: Context, namespace: str) -> Reply:
    """These tags instead of those that the namespace has, or with X-Openstack-Append beside them."""
    space, names = find_own(ctx, namespace), [one["name"] for one in ctx.body["tags"]]
    if ctx.headers.get("X-Openstack-Append", "") not in TRUE:
        before = list_parts(ctx, MetadefTag, space)
        if before:
            check_deletable(space, f"namespace {namespace}")
        for row in before:
            ctx.session.delete(row)
        ctx.session.flush()
    add_tags(ctx, space, names)
    return Reply({"tags": [{"name": name} for name in names]}, 201)


def create(ctx: Context, namespace: str, name: str) -> Reply:
    web_fields.check(TAG, {"name": name}, None, "tag")
    space = find_own(ctx, namespace)
    add_tags(ctx, space, [name])
    location = ctx.url(f"/metadefs/namespaces/{namespace}/tags/{name}")
    return Reply(view_tag(find_part(ctx, MetadefTag, space, name)), 201, {"Location": location})


def update(ctx: Context, namespace: str, name: str) -> Reply:
    """Its name is another."""
    space = find_own(ctx, namespace)
    row = find_part(ctx, MetadefTag, space, name)
    if ctx.body["name"] != name:
        check_free(ctx, MetadefTag, space, ctx.body["name"])
    row.name = ctx.body["name"]
    ctx.session.flush()
    return Reply(view_tag(row))


def delete(ctx: Context, namespace: str, name: str) -> None:
    delete_part(ctx, MetadefTag, namespace, name)


ALL = "/metadefs/namespaces/{namespace}/tags"
ROUTES = [
    Route("GET", ALL, READ, None, index),
    Route("POST", ALL, CREATE, TAGS, create_many),
    Route("POST", f"{ALL}/{{name}}", CREATE, None, create),
    Route("GET", f"{ALL}/{{name}}", READ, None, show),
    Route("PUT", f"{ALL}/{{name}}", UPDATE, TAG, update),
    Route("DELETE", f"{ALL}/{{name}}", DELETE, None, delete),
]
