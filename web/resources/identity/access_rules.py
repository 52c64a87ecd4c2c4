"""Access rules: the requests that a user's application credentials may be confined to.

They are made with an application credential and kept for the next one. Source: Identity API reference,
"Application Credentials". Next room: `application_credentials.py`.
"""

from __future__ import annotations

from sqlalchemy import select

from ...delegations import check_unrestricted
from ...errors import BadRequest, Forbidden, NotFound
from ...fields import HEX_ID, items, mapping, one_of, text
from ...http import Context
from ...models import AccessRule, AppCredential
from ...policy import ANYONE, rule
from ...routes import Reply, Route
from .lists import build_link, build_list
from .users import check_own

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
PATH = {**text(128, 1), "pattern": r"^/[^\s]*$"}
RULES = items(mapping({"id": HEX_ID, "service": text(64, 1), "method": one_of(*METHODS), "path": PATH}), 100)


def store_access_rules(session, user_id: str, given: list[dict]) -> list[dict]:
    """Copies of the user's rules that are named by id, or found or made by what they say; BadRequest, NotFound."""
    found = []
    for one in given:
        if set(one) == {"id"}:
            row = _find(session, user_id, one["id"])
        elif {"service", "method", "path"} <= set(one):
            names = {name: one[name] for name in ("service", "method", "path")}
            row = session.scalar(select(AccessRule).filter_by(user_id=user_id, **names))
            if row is None:
                row = AccessRule(user_id=user_id, **names)
                session.add(row)
                session.flush()
        else:
            raise BadRequest("Invalid input for field/attribute access_rules: an id, or service, method and path")
        found.append({"id": row.id, "service": row.service, "method": row.method, "path": row.path})
    return list({one["id"]: one for one in found}.values())


def _find(session, user_id: str, rule_id: str) -> AccessRule:
    row = session.get(AccessRule, rule_id)
    if row is None or row.user_id != user_id:
        raise NotFound(f"Could not find Access Rule: {rule_id}.")
    return row


def index(ctx: Context, user_id: str) -> Reply:
    check_own(ctx, user_id)
    statement = select(AccessRule).where(AccessRule.user_id == user_id).order_by(AccessRule.path, AccessRule.id)
    for name in ("service", "method", "path"):
        if ctx.query.get(name):
            statement = statement.where(getattr(AccessRule, name) == ctx.query[name])
    return build_list(ctx, "access_rules", list(ctx.session.scalars(statement)), view)


def show(ctx: Context, user_id: str, access_rule_id: str) -> AccessRule:
    check_own(ctx, user_id)
    return _find(ctx.session, user_id, access_rule_id)


def delete(ctx: Context, user_id: str, access_rule_id: str) -> None:
    """403 while an application credential is confined by it."""
    check_own(ctx, user_id)
    check_unrestricted(ctx.token.delegation)
    row = _find(ctx.session, user_id, access_rule_id)
    for used in ctx.session.scalars(select(AppCredential.access_rules).where(AppCredential.user_id == user_id)):
        if any(one["id"] == row.id for one in used):
            raise Forbidden(f"Access rule {row.id} is used by an application credential: delete that first.")
    ctx.session.delete(row)


def view(ctx: Context, row: AccessRule) -> dict:
    return {
        "id": row.id,
        "service": row.service,
        "method": row.method,
        "path": row.path,
        "links": {"self": build_link(ctx, "users", row.user_id, "access_rules", row.id)},
    }


READ = rule("identity:access_rules:read", ANYONE)
DELETE = rule("identity:access_rules:delete", ANYONE)
ONE = "/users/{user_id}/access_rules/{access_rule_id}"
ROUTES = [
    Route("GET", "/users/{user_id}/access_rules", READ, None, index),
    Route("GET", ONE, READ, None, show, view, key="access_rule"),
    Route("DELETE", ONE, DELETE, None, delete),
]
