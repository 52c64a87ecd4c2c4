"""Roles: names that permissions are given to.

Source: Identity API reference, "Roles". Policy looks at names, so the names the rules use cannot be
renamed or deleted. Next room: `assignments.py`.
"""

from __future__ import annotations

from sqlalchemy import func, select

from ...bootstrap import ROLES
from ...errors import Conflict, Forbidden, NotFound
from ...fields import HEX_ID, NAME, OBJECT, field, nullable, text
from ...http import Context
from ...models import Role
from ...paging import read_page
from ...policy import ADMIN, rule
from ...routes import Reply, Route
from .domains import find_domain
from .extras import check_id, merge_extra
from .lists import build_link, build_list, filter_texts

_COMMON = {
    "description": field(nullable(text(4096))),
    "domain_id": field(nullable(HEX_ID)),
    "options": field({**OBJECT, "maxProperties": 0}),
}
FIELDS = {"name": field(NAME, required=True), **_COMMON}
CHANGES = {"name": field(NAME), **_COMMON}


def find_role(session, role_id: str) -> Role:
    """The role of this id; NotFound."""
    row = session.get(Role, role_id)
    if row is None:
        raise NotFound(f"Could not find role: {role_id}.")
    return row


def _check_name(ctx: Context, domain_id: str | None, but: str = "") -> None:
    name = ctx.body.get("name")
    # Policy compares names without regard to case: "Admin" would be admin.
    if name and ctx.session.scalar(
        select(Role.id)
        .where(func.lower(Role.name) == name.lower(), Role.domain_id.is_not_distinct_from(domain_id), Role.id != but)
        .limit(1)
    ):
        raise Conflict(f"Conflict occurred attempting to store role - Duplicate entry found with name {name}.")


def index(ctx: Context) -> Reply:
    """Those of every domain, or with `domain_id` those of that one."""
    statement = filter_texts(ctx, select(Role), {"name": Role.name})
    statement = statement.where(Role.domain_id.is_not_distinct_from(ctx.query.get("domain_id") or None))
    page = read_page(
        ctx.session,
        statement,
        ctx.query,
        columns={"name": Role.name, "id": Role.id},
        identity=Role.id,
        default=[("name", "asc")],
        maximum=ctx.settings.api.max_limit,
    )
    return build_list(ctx, "roles", page, view)


def show(ctx: Context, role_id: str) -> Role:
    return find_role(ctx.session, role_id)


def create(ctx: Context) -> Role:
    """With a domain_id: a role that only assignments within that domain know, and that counts by what it implies."""
    domain_id = ctx.body.get("domain_id")
    if domain_id is not None:
        find_domain(ctx.session, domain_id)
    _check_name(ctx, domain_id)
    row = Role(
        name=ctx.body["name"],
        domain_id=domain_id,
        description=ctx.body.get("description"),
        extra=merge_extra({}, ctx.body, FIELDS),
    )
    ctx.session.add(row)
    ctx.session.flush()
    return row


def update(ctx: Context, role_id: str) -> Role:
    row = find_role(ctx.session, role_id)
    check_id(ctx.body, role_id)
    if ctx.body.get("domain_id", row.domain_id) != row.domain_id:
        raise Forbidden("domain_id of a role cannot be changed.")
    _check_name(ctx, row.domain_id, but=row.id)
    if "name" in ctx.body and ctx.body["name"] != row.name:
        if row.domain_id is None and row.name in ROLES:
            raise Forbidden(f"The role {row.name} cannot be renamed: permissions are given to it.")
        row.name = ctx.body["name"]
    if "description" in ctx.body:
        row.description = ctx.body["description"]
    row.extra = merge_extra(row.extra, ctx.body, FIELDS)
    ctx.session.flush()
    return row


def delete(ctx: Context, role_id: str) -> None:
    """Taken from everyone who had it, at once."""
    row = find_role(ctx.session, role_id)
    if row.domain_id is None and row.name in ROLES:
        raise Forbidden(f"The role {row.name} cannot be deleted: permissions are given to it.")
    ctx.session.delete(row)


def view(ctx: Context, row: Role) -> dict:
    return {
        **row.extra,
        "id": row.id,
        "name": row.name,
        "domain_id": row.domain_id,
        "description": row.description,
        "options": {},
        "links": {"self": build_link(ctx, "roles", row.id)},
    }


READ = rule("identity:roles:read", ADMIN)
CREATE = rule("identity:roles:create", ADMIN)
UPDATE = rule("identity:roles:update", ADMIN)
DELETE = rule("identity:roles:delete", ADMIN)
ROUTES = [
    Route("GET", "/roles", READ, None, index),
    Route("POST", "/roles", CREATE, FIELDS, create, view, 201, key="role", extra=True),
    Route("GET", "/roles/{role_id}", READ, None, show, view, key="role"),
    Route("PATCH", "/roles/{role_id}", UPDATE, CHANGES, update, view, key="role", extra=True),
    Route("DELETE", "/roles/{role_id}", DELETE, None, delete),
]
