"""Domains: the containers of users and projects.

In `projects.py` each of them also is a project that acts as a domain.
Source: Identity API reference, "Domains". Next room: `domain_contents.py`, which deletes them with all they contain.
"""

from __future__ import annotations

from sqlalchemy import select

from ...errors import Conflict, Forbidden, NotFound
from ...fields import BOOL, NAME, OBJECT, field, nullable, text
from ...http import Context
from ...models import Domain, Project, now
from ...paging import read_page
from ...policy import ADMIN, ANYONE, rule
from ...routes import Reply, Route
from .extras import check_id, merge_extra
from .lists import TAGS, build_link, build_list, filter_texts, read_flag

DEFAULT = "default"
_COMMON = {
    "description": field(nullable(text(4096))),
    "enabled": field(BOOL),
    "tags": field(TAGS),
    "options": field({**OBJECT, "maxProperties": 0}),
}
ID = {"type": "string", "pattern": r"^[0-9a-f]{32}\Z"}
FIELDS = {
    "name": field({**NAME, "maxLength": 64}, required=True),
    **_COMMON,
    "explicit_domain_id": field(ID),
}
CHANGES = {"name": field({**NAME, "maxLength": 64}), **_COMMON}


def find_domain(session, domain_id: str) -> Domain:
    """The domain of this id; NotFound."""
    row = session.get(Domain, domain_id)
    if row is None:
        raise NotFound(f"Could not find domain: {domain_id}.")
    return row


def choose_domain_id(ctx: Context, given: str | None) -> str:
    """The domain a new object goes to: the one named, else that of the caller's scope, else the caller's own."""
    if given:
        return find_domain(ctx.session, given).id
    if ctx.token.domain:
        return ctx.token.domain[0]
    return (ctx.token.project_domain or ctx.token.user_domain)[0]


def _check_name(ctx: Context, name: str, but: str = "") -> None:
    if ctx.session.scalar(select(Domain.id).where(Domain.name == name, Domain.id != but)):
        raise Conflict(f"Conflict occurred attempting to store domain - it is not permitted to have two named {name}.")


def index(ctx: Context) -> Reply:
    statement = select(Domain)
    statement = filter_texts(ctx, statement, {"name": Domain.name})
    if (enabled := read_flag(ctx, "enabled")) is not None:
        statement = statement.where(Domain.enabled == enabled)
    page = read_page(
        ctx.session,
        statement,
        ctx.query,
        columns={"name": Domain.name, "id": Domain.id},
        identity=Domain.id,
        default=[("name", "asc")],
        maximum=ctx.settings.api.max_limit,
    )
    return build_list(ctx, "domains", page, view)


def show(ctx: Context, domain_id: str) -> Domain:
    """Any domain for admins; one's own for everyone."""
    known = {pair[0] for pair in (ctx.token.user_domain, ctx.token.project_domain, ctx.token.domain) if pair}
    if domain_id not in known:
        ctx.policy.check(READ, ctx.token.credentials(), {})
    return find_domain(ctx.session, domain_id)


def create(ctx: Context) -> Domain:
    """With an id of its maker's choice (the same domain in several clouds), or a random one."""
    chosen = ctx.body.get("explicit_domain_id")
    if chosen and any(ctx.session.get(model, chosen) is not None for model in (Domain, Project)):
        raise Conflict(f"Conflict occurred attempting to store domain - Duplicate ID, {chosen}.")
    return build_domain(ctx, FIELDS, {"id": chosen} if chosen else {})


def build_domain(ctx: Context, known: dict, more: dict) -> Domain:
    """A new domain as the body says, whose fields are ``known``; ``more`` are columns beside."""
    _check_name(ctx, ctx.body["name"])
    row = Domain(
        name=ctx.body["name"],
        description=ctx.body.get("description") or "",
        enabled=ctx.body.get("enabled", True),
        tags=sorted(ctx.body.get("tags", [])),
        extra=merge_extra({}, ctx.body, known),
        **more,
    )
    ctx.session.add(row)
    ctx.session.flush()
    return row


def update(ctx: Context, domain_id: str) -> Domain:
    """Disabling a domain ends the tokens of its users and projects at once."""
    row = find_domain(ctx.session, domain_id)
    check_id(ctx.body, domain_id)
    return change_domain(ctx, row, FIELDS)


def change_domain(ctx: Context, row: Domain, known: dict) -> Domain:
    """The domain as the body wants it, whose fields are ``known``."""
    if "name" in ctx.body:
        _check_name(ctx, ctx.body["name"], but=row.id)
    if row.id == DEFAULT and ctx.body.get("enabled") is False:
        raise Forbidden("The default domain cannot be disabled.")
    for name in ("name", "enabled"):
        if name in ctx.body:
            setattr(row, name, ctx.body[name])
    if "description" in ctx.body:
        row.description = ctx.body["description"] or ""
    if "tags" in ctx.body:
        row.tags = sorted(ctx.body["tags"])
    row.extra = merge_extra(row.extra, ctx.body, known)
    if not row.enabled:
        row.tokens_valid_after = now()
    ctx.session.flush()
    return row


def view(ctx: Context, row: Domain) -> dict:
    return {
        **row.extra,
        "id": row.id,
        "name": row.name,
        "description": row.description,
        "enabled": row.enabled,
        "tags": list(row.tags),
        "options": {},
        "links": {"self": build_link(ctx, "domains", row.id)},
    }


READ = rule("identity:domains:read", ADMIN)
SHOW = rule("identity:domains:show", ANYONE)
CREATE = rule("identity:domains:create", ADMIN)
UPDATE = rule("identity:domains:update", ADMIN)
ROUTES = [
    Route("GET", "/domains", READ, None, index),
    Route("POST", "/domains", CREATE, FIELDS, create, view, 201, key="domain", extra=True),
    Route("GET", "/domains/{domain_id}", SHOW, None, show, view, key="domain"),
    Route("PATCH", "/domains/{domain_id}", UPDATE, CHANGES, update, view, key="domain", extra=True),
]
