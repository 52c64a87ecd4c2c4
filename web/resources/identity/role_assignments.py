"""Role assignments listed: as they were given, or effective (groups, inheritance and implied roles resolved).

Source: Identity API reference, "List role assignments". Writes nothing. Next room: `assignments.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from sqlalchemy import select

from ...errors import BadRequest
from ...grants import expand_roles, read_implied, select_below
from ...http import Context
from ...models import Assignment, Domain, Group, Membership, Project, Role, User
from ...policy import ADMIN, rule
from ...routes import Reply, Route
from .lists import build_list, read_flag

INHERITED = "scope.OS-INHERIT:inherited_to"


@dataclass(frozen=True)
class Grant:
    """One assignment as it is told: ``source`` is the row it comes from, ``prior_id`` the role that implies it."""

    source: Assignment
    role_id: str
    kind: str
    target: str
    user_id: str | None
    group_id: str | None
    prior_id: str | None = None


def _check_query(ctx: Context) -> tuple[str, str] | None:
    """(kind, target) of the scope asked for, None where there is none; BadRequest for what does not go together."""
    query, effective = ctx.query, read_flag(ctx, "effective")
    scopes = [name for name in ("scope.project.id", "scope.domain.id", "scope.system") if query.get(name)]
    if len(scopes) > 1:
        raise BadRequest(f"Invalid input for query parameters {', '.join(scopes)}: only one of them can be given.")
    if query.get("user.id") and query.get("group.id"):
        raise BadRequest("Invalid input for query parameters user.id, group.id: only one of them can be given.")
    if effective and query.get("group.id"):
        raise BadRequest("Invalid input for query parameters effective, group.id: together they list nothing.")
    if effective and query.get("scope.domain.id") and query.get(INHERITED):
        raise BadRequest(
            "Invalid input for query parameters effective, scope.domain.id: inherited roles are of projects."
        )
    if query.get(INHERITED) not in (None, "", "projects"):
        raise BadRequest(f"Invalid input for query parameter {INHERITED}: it can only be projects.")
    if read_flag(ctx, "include_subtree") and not query.get("scope.project.id"):
        raise BadRequest("Invalid input for query parameter include_subtree: it needs scope.project.id.")
    if not scopes:
        return None
    kind = scopes[0].split(".")[1]
    return kind, "" if kind == "system" else query[scopes[0]]


class _Tree:
    """Who is in which group and which project is where, read once."""

    def __init__(self, session):
        self.members: dict[str, list[str]] = {}
        for group_id, user_id in session.execute(select(Membership.group_id, Membership.user_id)):
            self.members.setdefault(group_id, []).append(user_id)
        self.of_domain: dict[str, list[str]] = {}
        self.children: dict[str, list[str]] = {}
        for row in session.execute(select(Project.id, Project.parent_id, Project.domain_id).order_by(Project.name)):
            self.of_domain.setdefault(row.domain_id, []).append(row.id)
            if row.parent_id:
                self.children.setdefault(row.parent_id, []).append(row.id)

    def below(self, project_id: str) -> list[str]:
        found, left = [], list(self.children.get(project_id, ()))
        while left:
            one = left.pop(0)
            found.append(one)
            left.extend(self.children.get(one, ()))
        return found

    def resolve(self, grant: Grant) -> list[Grant]:
        """The grant for each user and each project that it means."""
        targets = [(grant.kind, grant.target)]
        if grant.source.inherited:
            place = self.of_domain.get(grant.target, []) if grant.kind == "domain" else self.below(grant.target)
            targets = [("project", one) for one in place]
        users = [grant.user_id] if grant.user_id else self.members.get(grant.group_id, [])
        return [replace(grant, kind=kind, target=one, user_id=user) for kind, one in targets for user in users]


def _imply(grant: Grant, implied: dict[str, list[str]]) -> list[Grant]:
    """The grant and those of the roles that its role implies."""
    found = [grant]
    for prior in sorted(expand_roles([grant.role_id], implied)):
        found += [replace(grant, role_id=role_id, prior_id=prior) for role_id in implied.get(prior, ())]
    return found


def index(ctx: Context) -> Reply:
    """All that the filters fit; `effective` resolves, `include_names` adds names, `include_subtree` projects below."""
    session, query = ctx.session, ctx.query
    scope, effective = _check_query(ctx), read_flag(ctx, "effective")
    roles = {row.id: row for row in session.scalars(select(Role))}
    grants = [
        Grant(row, row.role_id, row.target_kind, row.target_id, row.user_id, row.group_id)
        for row in session.scalars(select(Assignment).order_by(Assignment.id))
    ]
    if effective:
        tree, implied = _Tree(session), read_implied(session)
        grants = [each for grant in grants for one in tree.resolve(grant) for each in _imply(one, implied)]
        unique = {}
        for grant in grants:
            key = (grant.user_id, grant.role_id, grant.kind, grant.target)
            if roles[grant.role_id].domain_id is None:
                unique.setdefault(key, grant)
        grants = list(unique.values())
    if scope is not None:
        kind, target = scope
        targets = {target}
        if read_flag(ctx, "include_subtree"):
            targets.update(session.scalars(select(select_below(target).c.id)))
        grants = [grant for grant in grants if grant.kind == kind and grant.target in targets]
    if query.get(INHERITED):
        grants = [grant for grant in grants if grant.source.inherited]
    for name, attribute in (("user.id", "user_id"), ("role.id", "role_id"), ("group.id", "group_id")):
        if query.get(name):
            grants = [grant for grant in grants if getattr(grant, attribute) == query[name]]
    named = _Names(session) if read_flag(ctx, "include_names") else None
    return build_list(ctx, "role_assignments", [_view(ctx, grant, roles[grant.role_id], named) for grant in grants])


class _Names:
    """Names of users, groups, projects and domains, each read once."""

    def __init__(self, session):
        self.domains = dict(session.execute(select(Domain.id, Domain.name)).all())
        self.rows = {
            (kind, row.id): row
            for kind, model in (("user", User), ("group", Group), ("project", Project))
            for row in session.execute(select(model.id, model.name, model.domain_id))
        }

    def describe(self, kind: str, object_id: str) -> dict:
        if kind == "domain":
            return {"id": object_id, "name": self.domains.get(object_id)}
        row = self.rows.get((kind, object_id))
        if row is None:
            return {"id": object_id}
        return {"id": object_id, "name": row.name, "domain": self.describe("domain", row.domain_id)}


def _view(ctx: Context, grant: Grant, role: Role, named: _Names | None) -> dict:
    def describe(kind, object_id):
        return named.describe(kind, object_id) if named else {"id": object_id}

    source = grant.source
    whom = f"groups/{source.group_id}" if source.group_id else f"users/{source.user_id}"
    place = "/system" if source.target_kind == "system" else f"/{source.target_kind}s/{source.target_id}"
    path = f"{place}/{whom}/roles/{source.role_id}"
    links = {"assignment": ctx.url(f"/OS-INHERIT{path}/inherited_to_projects" if source.inherited else path)}
    if source.group_id and grant.user_id:
        links["membership"] = ctx.url(f"/groups/{source.group_id}/users/{grant.user_id}")
    if grant.prior_id:
        links["prior_role"] = ctx.url(f"/roles/{grant.prior_id}/implies/{role.id}")
    told = {"id": role.id}
    if named:
        told["name"] = role.name
        if role.domain_id:
            told["domain"] = named.describe("domain", role.domain_id)
    body = {
        "role": told,
        "scope": {grant.kind: {"all": True} if grant.kind == "system" else describe(grant.kind, grant.target)},
        "links": links,
    }
    if source.inherited:
        body["scope"]["OS-INHERIT:inherited_to"] = "projects"
    kind = "user" if grant.user_id else "group"
    return body | {kind: describe(kind, grant.user_id or grant.group_id)}


READ = rule("identity:assignments:read", ADMIN)
ROUTES = [Route("GET", "/role_assignments", READ, None, index)]
