"""Role assignments: who has which role on which project, on which domain, or on the system.

Tokens read them at every check, so giving and taking works at once (security case 30). Source: Identity
API reference, "Roles", "Role assignments", "System role assignments". Next room: `web/auth.py`.
"""

from __future__ import annotations

from sqlalchemy import select

from ...errors import BadRequest, NotFound
from ...http import Context
from ...models import Assignment, Domain, Project, Role, User
from ...policy import ADMIN, expand_roles, rule
from ...routes import Reply, Route
from . import roles
from .domains import find_domain
from .lists import build_list, read_flag
from .projects import find_project
from .roles import find_role
from .users import find_user

_FINDERS = {"project": find_project, "domain": find_domain}


def _read_target(ctx: Context, params: dict) -> tuple[str, str]:
    """(kind, id) of what the path names; NotFound where it does not exist."""
    for kind, find in _FINDERS.items():
        if f"{kind}_id" in params:
            return kind, find(ctx.session, params[f"{kind}_id"]).id
    return "system", ""


def _find(ctx: Context, params: dict) -> tuple[dict, Assignment | None]:
    kind, target = _read_target(ctx, params)
    user = find_user(ctx.session, params["user_id"])
    role = find_role(ctx.session, params["role_id"])
    names = {"user_id": user.id, "role_id": role.id, "target_kind": kind, "target_id": target}
    return names, ctx.session.scalar(select(Assignment).filter_by(**names))


def index_roles(ctx: Context, **params: str) -> Reply:
    """The roles the user was given on the target, implied ones not counted."""
    kind, target = _read_target(ctx, params)
    user = find_user(ctx.session, params["user_id"])
    given = select(Assignment.role_id).filter_by(user_id=user.id, target_kind=kind, target_id=target)
    rows = ctx.session.scalars(select(Role).where(Role.id.in_(given)).order_by(Role.name))
    return build_list(ctx, "roles", list(rows), roles.view)


def show(ctx: Context, **params: str) -> Reply:
    """204 where the user has the role there, 404 where not."""
    names, row = _find(ctx, params)
    if row is None:
        raise NotFound(f"Could not find role assignment with role: {names['role_id']}, user: {names['user_id']}.")
    return Reply(None, 204)


def create(ctx: Context, **params: str) -> Reply:
    """Giving a role twice is giving it once."""
    names, row = _find(ctx, params)
    if row is None:
        ctx.session.add(Assignment(**names))
    return Reply(None, 204)


def delete(ctx: Context, **params: str) -> Reply:
    names, row = _find(ctx, params)
    if row is None:
        raise NotFound(f"Could not find role assignment with role: {names['role_id']}, user: {names['user_id']}.")
    ctx.session.delete(row)
    return Reply(None, 204)


def _select(ctx: Context):
    query = ctx.query
    statement = select(Assignment).order_by(Assignment.id)
    if query.get("user.id"):
        statement = statement.where(Assignment.user_id == query["user.id"])
    scopes = [name for name in ("scope.project.id", "scope.domain.id", "scope.system") if query.get(name)]
    if len(scopes) > 1:
        raise BadRequest(f"Invalid input for query parameters {', '.join(scopes)}: only one of them can be given.")
    for name in scopes:
        kind = name.split(".")[1]
        statement = statement.where(Assignment.target_kind == kind)
        if kind != "system":
            statement = statement.where(Assignment.target_id == query[name])
    return statement


def index(ctx: Context) -> Reply:
    """All that the filters fit; `effective` names implied roles too, `include_names` names beside ids.

    There are no groups and no inherited assignments: asking for those of either gives none.
    """
    if ctx.query.get("group.id") or ctx.query.get("scope.OS-INHERIT:inherited_to"):
        return build_list(ctx, "role_assignments", [])
    session, wanted_role = ctx.session, ctx.query.get("role.id")
    by_id = {row.id: row for row in session.scalars(select(Role))}
    by_name = {row.name: row for row in by_id.values()}
    named = _Names(session) if read_flag(ctx, "include_names") else None
    effective, seen, found = read_flag(ctx, "effective"), set(), []
    for row in session.scalars(_select(ctx)):
        held = [by_id[row.role_id]]
        if effective:
            held = [by_name[name] for name in expand_roles([held[0].name]) if name in by_name]
        for role in held:
            key = (row.user_id, role.id, row.target_kind, row.target_id)
            if key in seen or wanted_role not in (None, "", role.id):
                continue
            if effective:
                seen.add(key)
            found.append(_view(ctx, row, role, named))
    return build_list(ctx, "role_assignments", found)


class _Names:
    """Names of users, projects and domains, each read once."""

    def __init__(self, session):
        self.domains = dict(session.execute(select(Domain.id, Domain.name)).all())
        self.users = {row.id: row for row in session.execute(select(User.id, User.name, User.domain_id))}
        self.projects = {row.id: row for row in session.execute(select(Project.id, Project.name, Project.domain_id))}

    def describe(self, kind: str, object_id: str) -> dict:
        if kind == "domain":
            return {"id": object_id, "name": self.domains.get(object_id)}
        row = (self.users if kind == "user" else self.projects).get(object_id)
        if row is None:
            return {"id": object_id}
        domain = {"id": row.domain_id, "name": self.domains.get(row.domain_id)}
        return {"id": object_id, "name": row.name, "domain": domain}


def _view(ctx: Context, row: Assignment, role: Role, named: _Names | None) -> dict:
    def describe(kind, object_id):
        return named.describe(kind, object_id) if named else {"id": object_id}

    place = "/system" if row.target_kind == "system" else f"/{row.target_kind}s/{row.target_id}"
    scope = {"all": True} if row.target_kind == "system" else describe(row.target_kind, row.target_id)
    return {
        "role": {"id": role.id, "name": role.name} if named else {"id": role.id},
        "user": describe("user", row.user_id),
        "scope": {row.target_kind: scope},
        "links": {"assignment": ctx.url(f"{place}/users/{row.user_id}/roles/{row.role_id}")},
    }


READ = rule("identity:assignments:read", ADMIN)
CREATE = rule("identity:assignments:create", ADMIN)
DELETE = rule("identity:assignments:delete", ADMIN)
PLACES = ("/projects/{project_id}", "/domains/{domain_id}", "/system")
ROUTES = [
    Route("GET", "/role_assignments", READ, None, index),
    *(Route("GET", f"{place}/users/{{user_id}}/roles", READ, None, index_roles) for place in PLACES),
    *(Route("GET", f"{place}/users/{{user_id}}/roles/{{role_id}}", READ, None, show) for place in PLACES),
    *(Route("PUT", f"{place}/users/{{user_id}}/roles/{{role_id}}", CREATE, None, create) for place in PLACES),
    *(Route("DELETE", f"{place}/users/{{user_id}}/roles/{{role_id}}", DELETE, None, delete) for place in PLACES),
]
