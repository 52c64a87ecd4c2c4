"""Projects: what owns servers, networks and images, and what roles are given on.

A domain is told as a project that acts as one (`is_domain`), too, and may be made, changed and deleted as such;
it owns nothing. Source: Identity API reference, "Projects". Next rooms: `project_possessions.py`, which deletes
them, and `users.py`.
"""

from __future__ import annotations

from sqlalchemy import false, func, select

from ...errors import BadRequest, Conflict, Forbidden, NotFound
from ...fields import BOOL, HEX_ID, NAME, OBJECT, field, nullable, text
from ...grants import read_roles, read_targets, select_below, select_line
from ...http import Context
from ...models import Domain, Project, now
from ...paging import read_page
from ...policy import ADMIN, ANYONE, rule
from ...routes import Reply, Route
from . import domains
from .domains import build_domain, change_domain, choose_domain_id, find_domain
from .extras import check_id, merge_extra
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


def find_project(session, project_id: str) -> Project:
    """The project of this id; NotFound."""
    row = session.get(Project, project_id)
    if row is None:
        raise NotFound(f"Could not find project: {project_id}.")
    return row


def find_any(session, project_id: str) -> Project | Domain:
    """The project of this id, or the domain, which is a project that acts as one; NotFound."""
    return session.get(Domain, project_id) or find_project(session, project_id)


def _check_name(ctx: Context, name: str, domain_id: str, but: str = "") -> None:
    taken = select(Project.id).where(Project.domain_id == domain_id, Project.name == name, Project.id != but)
    if ctx.session.scalar(taken):
        raise Conflict(
            f"Conflict occurred attempting to store project - it is not permitted to have two projects "
            f"in the same domain with the same name: {name}."
        )


def index(ctx: Context) -> Reply:
    """Projects, or with `is_domain` those that act as domains."""
    model = Domain if read_flag(ctx, "is_domain") else Project
    statement, names = select(model), {"name": model.name}
    if model is Project:
        names["domain_id"] = Project.domain_id
        if (parent := ctx.query.get("parent_id")) is not None:
            top = Project.parent_id.is_(None) & (Project.domain_id == parent)
            statement = statement.where((Project.parent_id == parent) | top)
    elif ctx.query.get("parent_id") or ctx.query.get("domain_id"):
        statement = statement.where(false())  # they have neither
    statement = filter_tags(ctx, filter_texts(ctx, statement, names), model.tags)
    if (enabled := read_flag(ctx, "enabled")) is not None:
        statement = statement.where(model.enabled == enabled)
    page = read_page(
        ctx.session,
        statement,
        ctx.query,
        columns={"name": model.name, "id": model.id},
        identity=model.id,
        default=[("name", "asc")],
        maximum=ctx.settings.api.max_limit,
    )
    return build_list(ctx, "projects", page, view)


def show(ctx: Context, project_id: str) -> Project | Domain:
    """Any project for admins; for others one they have a role on (403 otherwise, whether it exists or not)."""
    held = ("project", "domain") if not ctx.allows(READ) else ()
    if held and not any(read_roles(ctx.session, ctx.token.user_id, kind, project_id) for kind in held):
        raise Forbidden(f"Policy doesn't allow {READ} to be performed.")
    return find_any(ctx.session, project_id)


def create(ctx: Context) -> Project | Domain:
    body = ctx.body
    if body.get("is_domain"):
        if body.get("parent_id") or body.get("domain_id"):
            raise BadRequest("Invalid input for field/attribute is_domain: only root projects can act as domains")
        ctx.policy.check(domains.CREATE, ctx.token.credentials(), {})
        return build_domain(ctx, FIELDS, {})
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
        extra=merge_extra({}, body, FIELDS),
    )
    ctx.session.add(created)
    ctx.session.flush()
    return created


def update(ctx: Context, project_id: str) -> Project | Domain:
    """Disabling a project ends the tokens scoped to it at once; domain and parent stay what they are."""
    row = find_any(ctx.session, project_id)
    check_id(ctx.body, project_id)
    now_is = {name: value for name, value in view(ctx, row).items() if name in ("domain_id", "parent_id", "is_domain")}
    for name, value in now_is.items():
        if ctx.body.get(name, value) not in (value, None):
            raise Forbidden(f"{name} of a project cannot be changed.")
    if isinstance(row, Domain):
        ctx.policy.check(domains.UPDATE, ctx.token.credentials(), {})
        return change_domain(ctx, row, FIELDS)
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
    row.extra = merge_extra(row.extra, ctx.body, FIELDS)
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


def view(ctx: Context, row: Project | Domain) -> dict:
    acts = isinstance(row, Domain)
    return {
        **row.extra,
        "id": row.id,
        "name": row.name,
        "domain_id": None if acts else row.domain_id,
        "description": row.description,
        "enabled": row.enabled,
        "parent_id": None if acts else row.parent_id or row.domain_id,
        "is_domain": acts,
        "tags": list(row.tags),
        "options": {},
        "links": {"self": build_link(ctx, "projects", row.id)},
    }


def view_family(ctx: Context, row: Project | Domain) -> dict:
    """With the projects above and below, as far as the query asks for them."""
    asked = {name: read_flag(ctx, name) for name in FAMILY}
    for side in ("parents", "subtree"):
        if asked[f"{side}_as_list"] and asked[f"{side}_as_ids"]:
            raise BadRequest(f"Invalid input for query parameters {side}_as_list, {side}_as_ids: only one of them.")
    body = view(ctx, row)
    if not any(asked.values()):
        return body
    found = _read_family(ctx, row)
    if not ctx.allows(READ):
        own = read_targets(ctx.session, ctx.token.user_id, "project")
        found = {side: [one for one in rows if one.id in own] for side, rows in found.items()}
    for side, rows in found.items():
        if asked[f"{side}_as_list"]:
            body[side] = [{"project": view(ctx, one)} for one in rows]
    if asked["parents_as_ids"]:
        ids = None
        above = [one.id for one in reversed(found["parents"])]
        for one in above if isinstance(row, Domain) else (row.domain_id, *above):
            ids = {one: ids}
        body["parents"] = ids
    if asked["subtree_as_ids"]:
        body["subtree"] = _nest(row.id, found["subtree"])
    return body


def _read_family(ctx: Context, row: Project | Domain) -> dict[str, list[Project]]:
    """{parents: from the next one up, subtree: by name}; of a domain all its projects."""
    if isinstance(row, Domain):
        below = select(Project).where(Project.domain_id == row.id).order_by(Project.name)
        return {"parents": [], "subtree": list(ctx.session.scalars(below))}
    line, below = select_line(row.id), select_below(row.id)
    parents = {one.id: one for one in ctx.session.scalars(select(Project).join(line, line.c.id == Project.id))}
    subtree = ctx.session.scalars(select(Project).join(below, below.c.id == Project.id).order_by(Project.name))
    above, at = [], row
    while at.parent_id:
        at = parents[at.parent_id]
        above.append(at)
    return {"parents": above, "subtree": [one for one in subtree if one.id != row.id]}


def _nest(project_id: str, rows: list[Project]) -> dict | None:
    return {one.id: _nest(one.id, rows) for one in rows if (one.parent_id or one.domain_id) == project_id} or None


FAMILY = ("parents_as_list", "parents_as_ids", "subtree_as_list", "subtree_as_ids")
READ = rule("identity:projects:read", ADMIN)
SHOW = rule("identity:projects:show", ANYONE)
CREATE = rule("identity:projects:create", ADMIN)
UPDATE = rule("identity:projects:update", ADMIN)
ROUTES = [
    Route("GET", "/projects", READ, None, index),
    Route("POST", "/projects", CREATE, FIELDS, create, view, 201, key="project", extra=True),
    Route("GET", "/projects/{project_id}", SHOW, None, show, view_family, key="project"),
    Route("PATCH", "/projects/{project_id}", UPDATE, CHANGES, update, view, key="project", extra=True),
]
