"""Trusts: a user lets another one act with some of its roles on one project.

A token made through one ends with the trust, its time, either user, the project, or any of its roles:
`web/delegations.py` looks at every check. Trusts are never changed. Source: Identity API reference, "OS-TRUST".
Next room: `tokens.py`, where a trust is a scope.
"""

from __future__ import annotations

from sqlalchemy import or_, select

from ...delegations import TRUST, check_unrestricted, read_chain
from ...errors import BadRequest, Forbidden, NotFound
from ...fields import BOOL, HEX_ID, field, items, mapping, nullable, text, whole
from ...grants import read_roles
from ...http import Context
from ...models import Role, Trust, User, now
from ...policy import ADMIN, ANYONE, rule
from ...routes import Reply, Route
from . import roles
from .lists import build_link, build_list, parse_time, write_time
from .users import find_user

TRUST_SCOPE = "OS-TRUST:trust"
DEEPEST = 3  # how often a trust can be handed on
FIELDS = {
    "trustor_user_id": field(HEX_ID, required=True),
    "trustee_user_id": field(HEX_ID, required=True),
    "impersonation": field(BOOL, required=True),
    "project_id": field(nullable(HEX_ID)),
    "roles": field(items(mapping({"id": HEX_ID, "name": text(255, 1)}), 100)),
    "expires_at": field(nullable(text(64))),
    "remaining_uses": field(nullable(whole(1))),
    "allow_redelegation": field(nullable(BOOL)),
    "redelegation_count": field(nullable(whole(0))),
}


def find_trust(ctx: Context, trust_id: str) -> Trust:
    """One that the caller gave or got, or any for admins; NotFound, also for one that has ended."""
    row = ctx.session.get(Trust, trust_id)
    own = row is not None and ctx.token.user_id in (row.trustor_id, row.trustee_id)
    if row is None or not (own or ctx.allows(OTHERS)) or not read_chain(ctx.session, trust_id):
        raise NotFound(f"Could not find trust: {trust_id}.")
    if row.remaining_uses == 0:
        raise NotFound(f"Could not find trust: {trust_id}.")
    return row


def use_trust(session, user: User, given: dict) -> tuple[str, str, str, tuple]:
    """(user id, kind, target, via) of a token of this trustee through the trust; one use of it is over."""
    if set(given) != {TRUST_SCOPE}:
        raise BadRequest("Invalid input for field/attribute scope: one of project, domain, system, unscoped, a trust")
    trust_id = given[TRUST_SCOPE]["id"]
    row = session.execute(select(Trust).where(Trust.id == trust_id).with_for_update()).scalar()
    if row is None or not read_chain(session, trust_id) or row.trustee_id != user.id or row.remaining_uses == 0:
        raise Forbidden("The trust is not this user's to use, or it has ended.")
    if row.remaining_uses is not None:
        row.remaining_uses -= 1
        session.flush()
    return (row.trustor_id if row.impersonation else row.trustee_id), "project", row.project_id, (TRUST, row.id)


def index(ctx: Context) -> Reply:
    """All for admins, for others those they gave or those they got."""
    trustor, trustee = ctx.query.get("trustor_user_id"), ctx.query.get("trustee_user_id")
    if not ctx.allows(OTHERS) and ctx.token.user_id not in (trustor, trustee):
        raise Forbidden("Only trusts that oneself gave or got can be listed: filter by trustor or trustee.")
    statement = select(Trust).where(or_(Trust.expires_at.is_(None), Trust.expires_at > now())).order_by(Trust.id)
    statement = statement.where(or_(Trust.remaining_uses.is_(None), Trust.remaining_uses > 0))
    for column, wanted in ((Trust.trustor_id, trustor), (Trust.trustee_id, trustee)):
        if wanted:
            statement = statement.where(column == wanted)
    return build_list(ctx, "trusts", list(ctx.session.scalars(statement)), view)


def show(ctx: Context, trust_id: str) -> Trust:
    return find_trust(ctx, trust_id)


def _choose_depth(ctx: Context, parent: Trust | None) -> int:
    """How often the new trust may be handed on; Forbidden where that is more than allowed."""
    body = ctx.body
    most = DEEPEST if parent is None else parent.redelegation_count - 1
    if not body.get("allow_redelegation"):
        return 0
    if body.get("remaining_uses") is not None:
        raise Forbidden("remaining_uses must not be given where redelegation is allowed.")
    count = body.get("redelegation_count")
    count = most if count is None else count
    if count > most:
        raise Forbidden(f"Requested redelegation depth of {count} is greater than allowed {most}.")
    return count


def _choose_roles(ctx: Context, held: dict[str, str]) -> list[str]:
    """Ids of the roles asked for; Forbidden for one that is not held."""
    chosen = set()
    for one in ctx.body.get("roles") or []:
        fitting = [i for i, name in held.items() if one and one.get("id", i) == i and one.get("name", name) == name]
        if len(fitting) != 1:
            raise Forbidden("A trust can only be of roles that the trustor has on the project.")
        chosen.update(fitting)
    if not chosen:
        raise Forbidden("At least one role should be specified.")
    return sorted(chosen)


def create(ctx: Context) -> Trust:
    """By the trustor, of roles it has; through a trust that allows it, of no more than that one gave."""
    session, body, delegation = ctx.session, ctx.body, ctx.token.delegation
    if body["trustor_user_id"] != ctx.token.user_id:
        raise Forbidden("The authenticated user should match the trustor.")
    find_user(session, body["trustee_user_id"])
    project_id = body.get("project_id")
    if project_id is None:
        raise Forbidden("A trust needs a project: project_id is missing.")
    expires_at = parse_time(body.get("expires_at"), "expires_at")
    if expires_at is not None and expires_at <= now():
        raise BadRequest("Invalid input for field/attribute expires_at: it is in the past")
    parent = None
    if delegation is not None and delegation.kind == TRUST:
        parent = find_trust(ctx, delegation.id)
        if parent.redelegation_count == 0:
            raise Forbidden("The trust this token was made through does not allow redelegation.")
        if project_id != parent.project_id or (body["impersonation"] and not parent.impersonation):
            raise Forbidden("A redelegated trust is of the same project, and impersonates only where the first does.")
        if parent.expires_at is not None and (expires_at is None or expires_at > parent.expires_at):
            raise Forbidden("A redelegated trust cannot outlive the one it is made through.")
        held = {role_id: name for role_id, name in ctx.token.roles if role_id in parent.role_ids}
    else:
        check_unrestricted(delegation)
        own = read_roles(session, ctx.token.user_id, "project", project_id)
        if delegation is not None:
            own = [pair for pair in own if pair in ctx.token.roles] if project_id == ctx.token.project_id else ()
        held = dict(own)
    row = Trust(
        trustor_id=ctx.token.user_id,
        trustee_id=body["trustee_user_id"],
        project_id=project_id,
        impersonation=body["impersonation"],
        role_ids=_choose_roles(ctx, held),
        expires_at=expires_at,
        remaining_uses=body.get("remaining_uses"),
        redelegation_count=_choose_depth(ctx, parent),
        parent_id=parent.id if parent else None,
    )
    session.add(row)
    session.flush()
    return row


def delete(ctx: Context, trust_id: str) -> None:
    """By the trustor or an admin; those made through it go along, and so do their tokens."""
    row = find_trust(ctx, trust_id)
    check_unrestricted(ctx.token.delegation)
    if row.trustor_id != ctx.token.user_id and not ctx.allows(OTHERS):
        raise Forbidden("Only the trustor can delete a trust.")
    ctx.session.delete(row)


def _read_role_rows(ctx: Context, row: Trust) -> list[Role]:
    return list(ctx.session.scalars(select(Role).where(Role.id.in_(row.role_ids)).order_by(Role.name)))


def index_roles(ctx: Context, trust_id: str) -> Reply:
    return build_list(ctx, "roles", _read_role_rows(ctx, find_trust(ctx, trust_id)), roles.view)


def show_role(ctx: Context, trust_id: str, role_id: str) -> Role:
    for one in _read_role_rows(ctx, find_trust(ctx, trust_id)):
        if one.id == role_id:
            return one
    raise NotFound(f"Could not find role: {role_id}.")


def view(ctx: Context, row: Trust) -> dict:
    return {
        "id": row.id,
        "trustor_user_id": row.trustor_id,
        "trustee_user_id": row.trustee_id,
        "project_id": row.project_id,
        "impersonation": row.impersonation,
        "expires_at": write_time(row.expires_at),
        "remaining_uses": row.remaining_uses,
        "redelegation_count": row.redelegation_count,
        "redelegated_trust_id": row.parent_id,
        "deleted_at": None,
        "links": {"self": build_link(ctx, "OS-TRUST", "trusts", row.id)},
    }


def view_whole(ctx: Context, row: Trust) -> dict:
    link = ctx.url(f"/OS-TRUST/trusts/{row.id}/roles")
    return {
        **view(ctx, row),
        "roles": [roles.view(ctx, one) for one in _read_role_rows(ctx, row)],
        "roles_links": {"next": None, "self": link, "previous": None},
    }


OTHERS = rule("identity:trusts:others", ADMIN)
READ = rule("identity:trusts:read", ANYONE)
CREATE = rule("identity:trusts:create", ANYONE)
DELETE = rule("identity:trusts:delete", ANYONE)
ONE = "/OS-TRUST/trusts/{trust_id}"
ROUTES = [
    Route("GET", "/OS-TRUST/trusts", READ, None, index),
    Route("POST", "/OS-TRUST/trusts", CREATE, FIELDS, create, view_whole, 201, key="trust"),
    Route("GET", ONE, READ, None, show, view_whole, key="trust"),
    Route("DELETE", ONE, DELETE, None, delete),
    Route("GET", ONE + "/roles", READ, None, index_roles),
    Route("GET", ONE + "/roles/{role_id}", READ, None, show_role, roles.view, key="role"),
]
