"""Roles given and taken: of a user or a group, on a project, on a domain, on the system, or inherited from above.

Tokens read them at every check, so giving and taking works at once (security case 30). Source: Identity
API reference, "Roles", "System role assignments", "OS-INHERIT". Next room: `web/grants.py`.
"""

from __future__ import annotations

from functools import partial

from sqlalchemy import select

from ...errors import Forbidden, NotFound
from ...http import Context
from ...models import Assignment, Role
from ...policy import ADMIN, rule
from ...routes import Reply, Route
from . import roles
from .domains import find_domain
from .groups import find_group
from .lists import build_list
from .projects import find_project
from .roles import find_role
from .users import find_user


def _read_place(ctx: Context, params: dict, inherited: bool) -> dict:
    """What of an assignment's columns the path names, but the role; NotFound where it does not exist."""
    place = {"target_kind": "system", "target_id": "", "inherited": inherited}
    for kind, find in (("project", find_project), ("domain", find_domain)):
        if f"{kind}_id" in params:
            place |= {"target_kind": kind, "target_id": find(ctx.session, params[f"{kind}_id"]).id}
    if "group_id" in params:
        return place | {"user_id": None, "group_id": find_group(ctx.session, params["group_id"]).id}
    return place | {"user_id": find_user(ctx.session, params["user_id"]).id, "group_id": None}


def _find(ctx: Context, params: dict, inherited: bool) -> tuple[dict, Role, Assignment | None]:
    role = find_role(ctx.session, params["role_id"])
    names = _read_place(ctx, params, inherited) | {"role_id": role.id}
    return names, role, ctx.session.scalar(select(Assignment).filter_by(**names))


def index_roles(ctx: Context, inherited: bool = False, **params: str) -> Reply:
    """The roles that were given on the target, implied ones not counted."""
    given = select(Assignment.role_id).filter_by(**_read_place(ctx, params, inherited))
    rows = ctx.session.scalars(select(Role).where(Role.id.in_(given)).order_by(Role.name))
    return build_list(ctx, "roles", list(rows), roles.view)


def show(ctx: Context, inherited: bool = False, **params: str) -> Reply:
    """204 where the role was given there, 404 where not."""
    _read_existing(ctx, params, inherited)
    return Reply(None, 204)


def _read_existing(ctx: Context, params: dict, inherited: bool) -> Assignment:
    names, role, row = _find(ctx, params, inherited)
    if row is None:
        whom = f"group: {names['group_id']}" if names["group_id"] else f"user: {names['user_id']}"
        raise NotFound(f"Could not find role assignment with role: {role.id}, {whom}.")
    return row


def create(ctx: Context, inherited: bool = False, **params: str) -> Reply:
    """Giving a role twice is giving it once. A role of one domain is for that domain and its projects."""
    names, role, row = _find(ctx, params, inherited)
    if role.domain_id is not None:
        target = names["target_id"]
        domain_id = find_project(ctx.session, target).domain_id if names["target_kind"] == "project" else target
        if domain_id != role.domain_id:
            raise Forbidden(f"Role {role.id} is of the domain {role.domain_id} and cannot be given outside of it.")
    if row is None:
        ctx.session.add(Assignment(**names))
    return Reply(None, 204)


def delete(ctx: Context, inherited: bool = False, **params: str) -> Reply:
    ctx.session.delete(_read_existing(ctx, params, inherited))
    return Reply(None, 204)


READ = rule("identity:assignments:read", ADMIN)
CREATE = rule("identity:assignments:create", ADMIN)
DELETE = rule("identity:assignments:delete", ADMIN)
PLACES = [
    f"{place}/{whom}/roles"
    for place in ("/projects/{project_id}", "/domains/{domain_id}", "/system")
    for whom in ("users/{user_id}", "groups/{group_id}")
]
ABOVE = [f"/OS-INHERIT{place}" for place in PLACES if not place.startswith("/system")]
ONE = "{role_id}/inherited_to_projects"
ROUTES = [
    *(Route("GET", place, READ, None, index_roles) for place in PLACES),
    *(Route("GET", f"{place}/{{role_id}}", READ, None, show) for place in PLACES),
    *(Route("PUT", f"{place}/{{role_id}}", CREATE, None, create) for place in PLACES),
    *(Route("DELETE", f"{place}/{{role_id}}", DELETE, None, delete) for place in PLACES),
    *(Route("GET", f"{p}/inherited_to_projects", READ, None, partial(index_roles, inherited=True)) for p in ABOVE),
    *(Route("GET", f"{place}/{ONE}", READ, None, partial(show, inherited=True)) for place in ABOVE),
    *(Route("PUT", f"{place}/{ONE}", CREATE, None, partial(create, inherited=True)) for place in ABOVE),
    *(Route("DELETE", f"{place}/{ONE}", DELETE, None, partial(delete, inherited=True)) for place in ABOVE),
]
