"""Policies that services elsewhere fetch: text with a type, kept for them and not read here.

This cloud's own permissions are `web/policy.py`'s. Source: Identity API reference, "Policies".
"""

from __future__ import annotations

from sqlalchemy import select

from ...errors import NotFound
from ...fields import TEXT, field, text
from ...http import Context
from ...models import PolicyBlob
from ...paging import read_page
from ...policy import ADMIN, rule
from ...routes import Reply, Route
from .extras import check_id, merge_extra
from .lists import build_link, build_list, filter_texts

FIELDS = {"type": field(text(255), required=True), "blob": field(TEXT, required=True)}
CHANGES = {"type": field(text(255)), "blob": field(TEXT)}


def find_policy(session, policy_id: str) -> PolicyBlob:
    """The policy of this id; NotFound."""
    row = session.get(PolicyBlob, policy_id)
    if row is None:
        raise NotFound(f"Could not find policy: {policy_id}.")
    return row


def index(ctx: Context) -> Reply:
    page = read_page(
        ctx.session,
        filter_texts(ctx, select(PolicyBlob), {"type": PolicyBlob.type}),
        ctx.query,
        columns={"type": PolicyBlob.type, "id": PolicyBlob.id},
        identity=PolicyBlob.id,
        default=[("id", "asc")],
        maximum=ctx.settings.api.max_limit,
    )
    return build_list(ctx, "policies", page, view)


def show(ctx: Context, policy_id: str) -> PolicyBlob:
    return find_policy(ctx.session, policy_id)


def create(ctx: Context) -> PolicyBlob:
    row = PolicyBlob(type=ctx.body["type"], blob=ctx.body["blob"], extra=merge_extra({}, ctx.body, FIELDS))
    ctx.session.add(row)
    ctx.session.flush()
    return row


def update(ctx: Context, policy_id: str) -> PolicyBlob:
    row = find_policy(ctx.session, policy_id)
    check_id(ctx.body, policy_id)
    for name in FIELDS:
        if name in ctx.body:
            setattr(row, name, ctx.body[name])
    row.extra = merge_extra(row.extra, ctx.body, FIELDS)
    ctx.session.flush()
    return row


def delete(ctx: Context, policy_id: str) -> None:
    ctx.session.delete(find_policy(ctx.session, policy_id))


def view(ctx: Context, row: PolicyBlob) -> dict:
    known = {"id": row.id, "type": row.type, "blob": row.blob, "links": {"self": build_link(ctx, "policies", row.id)}}
    return {**row.extra, **known}


READ = rule("identity:policies:read", ADMIN)
WRITE = rule("identity:policies:write", ADMIN)
ROUTES = [
    Route("GET", "/policies", READ, None, index),
    Route("POST", "/policies", WRITE, FIELDS, create, view, 201, key="policy", extra=True),
    Route("GET", "/policies/{policy_id}", READ, None, show, view, key="policy"),
    Route("PATCH", "/policies/{policy_id}", WRITE, CHANGES, update, view, key="policy", extra=True),
    Route("DELETE", "/policies/{policy_id}", WRITE, None, delete),
]
