"""Tags of network objects: texts to find them by. Source: Network API reference, "Tag extension"."""

from __future__ import annotations

from functools import partial

from ...errors import BadRequest, NotFound
from ...fields import field, items
from ...http import Context
from ...models import FloatingIP, Network, Port, Router, SecurityGroup, SecurityGroupRule, Subnet
from ...policy import MEMBER, READER, rule
from ...routes import Reply, Route
from .rows import find_own, find_row

TAGS_MOST = 50
TAG_LENGTH = 255
TAGGED = {
    "networks": Network,
    "subnets": Subnet,
    "ports": Port,
    "routers": Router,
    "floatingips": FloatingIP,
    "security-groups": SecurityGroup,
    "security-group-rules": SecurityGroupRule,
}
TAG = {"type": "string", "minLength": 1, "maxLength": TAG_LENGTH, "format": "printable"}
FIELDS = {"tags": field(items(TAG, TAGS_MOST, unique=True), required=True)}


def _check_tag(tag: str) -> None:
    if len(tag) > TAG_LENGTH or not tag.isprintable():
        raise BadRequest(f"Invalid input for tag: it has more than {TAG_LENGTH} or unprintable characters.")


def index(ctx: Context, object_id: str, model) -> Reply:
    return Reply({"tags": sorted(find_row(ctx, model, object_id).tags)})


def replace(ctx: Context, object_id: str, model) -> Reply:
    row = find_own(ctx, model, object_id)
    row.tags = sorted(ctx.body["tags"])
    return Reply({"tags": row.tags})


def clear(ctx: Context, object_id: str, model) -> Reply:
    find_own(ctx, model, object_id).tags = []
    return Reply(status=204)


def show(ctx: Context, object_id: str, tag: str, model) -> Reply:
    if tag not in find_row(ctx, model, object_id).tags:
        raise NotFound(f"Tag {tag} could not be found.", kind="TagNotFound")
    return Reply(status=204)


def add(ctx: Context, object_id: str, tag: str, model) -> Reply:
    _check_tag(tag)
    row = find_own(ctx, model, object_id)
    tags = sorted({*row.tags, tag})
    if len(tags) > TAGS_MOST:
        raise BadRequest(f"Invalid input for tags: there may be {TAGS_MOST} at most.")
    row.tags = tags
    return Reply(status=201)


def remove(ctx: Context, object_id: str, tag: str, model) -> Reply:
    row = find_own(ctx, model, object_id)
    if tag not in row.tags:
        raise NotFound(f"Tag {tag} could not be found.", kind="TagNotFound")
    row.tags = [one for one in row.tags if one != tag]
    return Reply(status=204)


READ = rule("network:tags:show", READER)
CHANGE = rule("network:tags:update", MEMBER)
ROUTES = [
    route
    for plural, model in TAGGED.items()
    for route in (
        Route("GET", f"/{plural}/{{object_id}}/tags", READ, None, partial(index, model=model)),
        Route("PUT", f"/{plural}/{{object_id}}/tags", CHANGE, FIELDS, partial(replace, model=model)),
        Route("DELETE", f"/{plural}/{{object_id}}/tags", CHANGE, None, partial(clear, model=model)),
        Route("GET", f"/{plural}/{{object_id}}/tags/{{tag}}", READ, None, partial(show, model=model)),
        Route("PUT", f"/{plural}/{{object_id}}/tags/{{tag}}", CHANGE, None, partial(add, model=model)),
        Route("DELETE", f"/{plural}/{{object_id}}/tags/{{tag}}", CHANGE, None, partial(remove, model=model)),
    )
]
