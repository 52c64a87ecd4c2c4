"""Projects: what owns servers, networks and images, and what roles are given on.

Deleting one takes along only what is part of it (role assignments, quotas, its default security group).
The reference's implementation deletes it whatever it owns, and orphans that; here it is a 409 that says
what is left. Source: Identity API reference, "Projects". Next room: `users.py`.
"""

from __future__ import annotations

from sqlalchemy import delete as sql_delete
from sqlalchemy import func, select
from sqlalchemy import update as sql_update

from ...errors import BadRequest, Conflict, Forbidden, NotFound
from ...fields import BOOL, HEX_ID, NAME, OBJECT, field, nullable, text
from ...grants import read_roles, read_targets, select_below, select_line
from ...http import Context
from ...models import (
    AppCredential,
    Assignment,
    Base,
    Credential,
    FlavorAccess,
    Image,
    Project,
    Quota,
    RequestLog,
    SecurityGroup,
    SecurityGroupRule,
    Server,
    ServerAction,
    Trust,
    User,
    now,
)
from ...paging import read_page
from ...policy import ADMIN, ANYONE, rule
from ...routes import Reply, Route
from .domains import choose_domain_id, find_domain
from .lists import TAGS, build_link, build_list, filter_tags, filter_texts, read_flag

DEEPEST = 5  # projects in a line: every token check of one reads them all
_COMMON = {
    "description": field(nullable(text(4096))),
    "enabled": field(BOOL),
    "domain_id": field(nullable(HEX_ID)),
    "parent_id": field(nullable(HEX_ID)),
    "is_domain": field(BOOL),
    "tags": field(TAGS),
    "options": field({**OBJECT, "maxProperties": 0}),
}
FIELDS = {"name": field({**NAME, "maxLength": 64}, required=True), **_COMMON}
CHANGES = {"name": field({**NAME, "maxLength": 64}), **_COMMON}

# Rows with a project_id that are no possessions: history, or part of the project itself.
_BELONGINGS = {Trust, AppCredential, Credential, Quota, FlavorAccess, RequestLog, ServerAction, SecurityGroupRule}
_LIVING = {
    Server: Server.gone_at.is_(None),
    Image: Image.deleted_at.is_(None),
    SecurityGroup: SecurityGroup.default_for.is_(None),
}


def find_project(session, project_id: str) -> Project:
    """The project of this id; NotFound."""
    row = session.get(Project, project_id)
    if row is None:
        raise NotFound(f"Could not find project: {project_id}.")
    return row


def _check_name(ctx: Context, name: str, domain_id: str, but: str = "") -> None:
    taken = select(Project.id).where(Project.domain_id == domain_id, Project.name == name, Project.id != but)
    if ctx.session.scalar(taken):
        raise Conflict(
            f"Conflict occurred attempting to store project - it is not permitted to have two projects "
            f"in the same domain with the same name: {name}."
        )


def index(ctx: Context) -> Reply:
    statement = select(Project)
    statement = filter_texts(ctx, statement, {"name": Project.name, "domain_id": Project.domain_id})
    statement = filter_tags(ctx, statement)
    if (parent := ctx.query.get("parent_id")) is not None:
        top = Project.parent_id.is_(None) & (Project.domain_id == parent)
        statement = statement.where((Project.parent_id == parent) | top)
    if (enabled := read_flag(ctx, "enabled")) is not None:
        statement = statement.where(Project.enabled == enabled)
    if read_flag(ctx, "is_domain"):
        return build_list(ctx, "projects", [])
    page = read_page(
        ctx.session,
        statement,
        ctx.query,
        columns={"name": Project.name, "id": Project.id},
        identity=Project.id,
        default=[("name", "asc")],
        maximum=ctx.settings.api.max_limit,
    )
    return build_list(ctx, "projects", page, view)


def show(ctx: Context, project_id: str) -> Project:
    """Any project for admins; for others one they have a role on (403 otherwise, whether it exists or not)."""
    if not ctx.allows(READ) and not read_roles(ctx.session, ctx.token.user_id, "project", project_id):
        raise Forbidden(f"Policy doesn't allow {READ} to be performed.")
    return find_project(ctx.session, project_id)


def create(ctx: Context) -> Project:
    body = ctx.body
    if body.get("is_domain"):
        raise BadRequest("Invalid input for field/attribute is_domain: projects that act as domains are not offered")
    parent = body.get("parent_id")
    row = None if parent is None else ctx.session.get(Project, parent)
    if row is not None:
        domain_id = body.get("domain_id") or row.domain_id
        if domain_id != row.domain_id:
            raise BadRequest("Invalid input for field/attribute parent_id: the parent is in another domain")
        line = select_line(parent)
        if ctx.session.scalar(select(func.count()).select_from(line)) >= DEEPEST:
            raise Forbidden(f"Max hierarchy depth of {DEEPEST} reached for the branch of {row.id}.")
        if not row.enabled:
            raise Forbidden(f"Cannot create a project in a branch where {row.id} is disabled.")
    else:
        domain_id = choose_domain_id(ctx, body.get("domain_id") or parent)
        if parent not in (None, domain_id):
            raise NotFound(f"Could not find project: {parent}.")
        find_domain(ctx.session, domain_id)
    _check_name(ctx, body["name"], domain_id)
    created = Project(
        domain_id=domain_id,
        parent_id=row.id if row is not None else None,
        name=body["name"],
        description=body.get("description") or "",
        enabled=body.get("enabled", True),
        tags=sorted(body.get("tags", [])),
    )
    ctx.session.add(created)
    ctx.session.flush()
    return created


def update(ctx: Context, project_id: str) -> Project:
    """Disabling a project ends the tokens scoped to it at once; domain and parent stay what they are."""
    row = find_project(ctx.session, project_id)
    now_is = {"domain_id": row.domain_id, "parent_id": row.parent_id or row.domain_id, "is_domain": False}
    for name, value in now_is.items():
        if ctx.body.get(name, value) not in (value, None):
            raise Forbidden(f"{name} of a project cannot be changed.")
    if "name" in ctx.body:
        _check_name(ctx, ctx.body["name"], row.domain_id, but=row.id)
        row.name = ctx.body["name"]
    if "description" in ctx.body:
        row.description = ctx.body["description"] or ""
    if "enabled" in ctx.body:
        _check_enabled(ctx, row, ctx.body["enabled"])
        row.enabled = ctx.body["enabled"]
        if not row.enabled:
            row.tokens_valid_after = now()
    if "tags" in ctx.body:
        row.tags = sorted(ctx.body["tags"])
    ctx.session.flush()
    return row


def _check_enabled(ctx: Context, row: Project, wanted: bool) -> None:
    """Nothing below a disabled project is enabled: from the top down one enables, from the bottom up one disables."""
    if wanted and row.parent_id and not find_project(ctx.session, row.parent_id).enabled:
        raise Forbidden(f"Cannot enable project {row.id} since its parent {row.parent_id} is disabled.")
    below = select_below(row.id)
    enabled = select(Project.id).join(below, below.c.id == Project.id).where(Project.enabled, Project.id != row.id)
    if not wanted and ctx.session.scalar(enabled.limit(1)):
        raise Forbidden(f"Cannot disable project {row.id} since its subtree contains enabled projects.")


def _list_possessions(session, project_id: str) -> list[str]:
    """What the project still owns, "3 ports" …: every model with a project_id that is not left out above."""
    found = []
    for mapper in sorted(Base.registry.mappers, key=lambda mapper: mapper.local_table.name):
        model = mapper.class_
        if model in _BELONGINGS or "project_id" not in mapper.columns:
            continue
        statement = select(func.count()).select_from(model).where(model.project_id == project_id)
        if model in _LIVING:
            statement = statement.where(_LIVING[model])
        if count := session.scalar(statement):
            found.append(f"{count} {mapper.local_table.name.replace('_', ' ')}")
    return found


def delete(ctx: Context, project_id: str) -> None:
    """409 while it owns anything, 403 while it has projects below it. What belongs to it goes along with it."""
    delete_project(ctx.session, find_project(ctx.session, project_id))


def delete_project(session, row: Project) -> None:
    """The row with what is part of it; Conflict, Forbidden as `delete` says."""
    project_id = row.id
    if session.scalar(select(Project.id).where(Project.parent_id == project_id).limit(1)):
        raise Forbidden(f"Cannot delete the project {project_id} since it is not a leaf in the hierarchy.")
    possessions = _list_possessions(session, project_id)
    if possessions:
        raise Conflict(f"Project {project_id} still owns {', '.join(possessions)}: delete them first.")
    session.execute(
        sql_delete(Assignment).where(Assignment.target_kind == "project", Assignment.target_id == project_id)
    )
    for model in (Trust, AppCredential, Credential, Quota, FlavorAccess):
        session.execute(sql_delete(model).where(model.project_id == project_id))
    session.execute(sql_delete(SecurityGroup).where(SecurityGroup.default_for == project_id))
    session.execute(sql_update(User).where(User.default_project_id == project_id).values(default_project_id=None))
    session.delete(row)


def view(ctx: Context, row: Project) -> dict:
    return {
        "id": row.id,
        "name": row.name,
        "domain_id": row.domain_id,
        "description": row.description,
        "enabled": row.enabled,
        "parent_id": row.parent_id or row.domain_id,
        "is_domain": False,
        "tags": list(row.tags),
        "options": {},
        "links": {"self": build_link(ctx, "projects", row.id)},
    }


def view_family(ctx: Context, row: Project) -> dict:
    """With the projects above and below, as far as the query asks for them."""
    asked = {name: read_flag(ctx, name) for name in FAMILY}
    for side in ("parents", "subtree"):
        if asked[f"{side}_as_list"] and asked[f"{side}_as_ids"]:
            raise BadRequest(f"Invalid input for query parameters {side}_as_list, {side}_as_ids: only one of them.")
    body = view(ctx, row)
    if not any(asked.values()):
        return body
    line, below = select_line(row.id), select_below(row.id)
    parents = {one.id: one for one in ctx.session.scalars(select(Project).join(line, line.c.id == Project.id))}
    subtree = list(ctx.session.scalars(select(Project).join(below, below.c.id == Project.id).order_by(Project.name)))
    above, at = [], row
    while at.parent_id:
        at = parents[at.parent_id]
        above.append(at)
    found = {"parents": above, "subtree": [one for one in subtree if one.id != row.id]}
    if not ctx.allows(READ):
        own = read_targets(ctx.session, ctx.token.user_id, "project")
        found = {side: [one for one in rows if one.id in own] for side, rows in found.items()}
    for side, rows in found.items():
        if asked[f"{side}_as_list"]:
            body[side] = [{"project": view(ctx, one)} for one in rows]
    if asked["parents_as_ids"]:
        ids = None
        for one in (row.domain_id, *(one.id for one in reversed(found["parents"]))):
            ids = {one: ids}
        body["parents"] = ids
    if asked["subtree_as_ids"]:
        body["subtree"] = _nest(row.id, found["subtree"])
    return body


def _nest(project_id: str, rows: list[Project]) -> dict | None:
    return {one.id: _nest(one.id, rows) for one in rows if one.parent_id == project_id} or None


FAMILY = ("parents_as_list", "parents_as_ids", "subtree_as_list", "subtree_as_ids")
READ = rule("identity:projects:read", ADMIN)
SHOW = rule("identity:projects:show", ANYONE)
CREATE = rule("identity:projects:create", ADMIN)
UPDATE = rule("identity:projects:update", ADMIN)
DELETE = rule("identity:projects:delete", ADMIN)
ROUTES = [
    Route("GET", "/projects", READ, None, index),
    Route("POST", "/projects", CREATE, FIELDS, create, view, 201, key="project"),
    Route("GET", "/projects/{project_id}", SHOW, None, show, view_family, key="project"),
    Route("PATCH", "/projects/{project_id}", UPDATE, CHANGES, update, view, key="project"),
    Route("DELETE", "/projects/{project_id}", DELETE, None, delete),
]
