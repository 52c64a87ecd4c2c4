"""Role inferences: whoever has the prior role has the implied one, too, at the next check of a token.

Source: Identity API reference, "Implied roles". Next room: `web/grants.py`, which follows them.
"""

from __future__ import annotations

from sqlalchemy import select

from ...errors import Forbidden, NotFound
from ...grants import expand_roles, read_implied
from ...http import Context
from ...models import Implication, Role
from ...policy import ADMIN, rule
from ...routes import Reply, Route
from .lists import build_link
from .roles import find_role


def _describe(ctx: Context, role: Role) -> dict:
    return {"id": role.id, "name": role.name, "links": {"self": build_link(ctx, "roles", role.id)}}


def _find(ctx: Context, prior_id: str, implied_id: str) -> tuple[Role, Role, Implication]:
    prior, implied = find_role(ctx.session, prior_id), find_role(ctx.session, implied_id)
    row = ctx.session.get(Implication, (prior_id, implied_id))
    if row is None:
        raise NotFound(f"{prior_id} does not imply {implied_id}.")
    return prior, implied, row


def _read_rules(ctx: Context, prior_id: str | None = None) -> list[dict]:
    roles = {row.id: row for row in ctx.session.scalars(select(Role).order_by(Role.name))}
    implied = read_implied(ctx.session)
    return [
        {
            "prior_role": _describe(ctx, role),
            "implies": [_describe(ctx, roles[one]) for one in sorted(implied[role_id], key=lambda i: roles[i].name)],
        }
        for role_id, role in roles.items()
        if role_id in implied and prior_id in (None, role_id)
    ]


def index(ctx: Context) -> Reply:
    return Reply({"role_inferences": _read_rules(ctx), "links": {"self": ctx.url("/role_inferences")}})


def index_implied(ctx: Context, prior_id: str) -> Reply:
    role = find_role(ctx.session, prior_id)
    found = _read_rules(ctx, prior_id) or [{"prior_role": _describe(ctx, role), "implies": []}]
    return Reply({"role_inference": found[0], "links": {"self": ctx.url(f"/roles/{prior_id}/implies")}})


def show(ctx: Context, prior_id: str, implied_id: str) -> Reply:
    prior, implied, _ = _find(ctx, prior_id, implied_id)
    return _tell(ctx, prior, implied, 200)


def check(ctx: Context, prior_id: str, implied_id: str) -> Reply:
    """HEAD: 204, which the reference kept though GET is answered with a body."""
    _find(ctx, prior_id, implied_id)
    return Reply(None, 204)


def _tell(ctx: Context, prior: Role, implied: Role, status: int) -> Reply:
    body = {"prior_role": _describe(ctx, prior), "implies": _describe(ctx, implied)}
    link = ctx.url(f"/roles/{prior.id}/implies/{implied.id}")
    return Reply({"role_inference": body, "links": {"self": link}}, status)


def create(ctx: Context, prior_id: str, implied_id: str) -> Reply:
    """A ring is refused, and so is implying `admin`, or a role of one domain by one of all."""
    prior, implied = find_role(ctx.session, prior_id), find_role(ctx.session, implied_id)
    if implied.name == "admin" and implied.domain_id is None:
        raise Forbidden("The role admin cannot be implied: whoever gave the prior role would make admins.")
    if implied.domain_id is not None and prior.domain_id is None:
        raise Forbidden(f"{implied_id} is of one domain and cannot be implied by a role of all.")
    if prior_id in expand_roles([implied_id], read_implied(ctx.session)):
        raise Forbidden(f"{implied_id} implies {prior_id} already: roles cannot imply each other.")
    if ctx.session.get(Implication, (prior_id, implied_id)) is None:
        ctx.session.add(Implication(prior_id=prior_id, implied_id=implied_id))
    return _tell(ctx, prior, implied, 201)


def delete(ctx: Context, prior_id: str, implied_id: str) -> Reply:
    ctx.session.delete(_find(ctx, prior_id, implied_id)[2])
    return Reply(None, 204)


READ = rule("identity:role_inferences:read", ADMIN)
CREATE = rule("identity:role_inferences:create", ADMIN)
DELETE = rule("identity:role_inferences:delete", ADMIN)
ONE = "/roles/{prior_id}/implies/{implied_id}"
ROUTES = [
    Route("GET", "/role_inferences", READ, None, index),
    Route("GET", "/roles/{prior_id}/implies", READ, None, index_implied),
    Route("GET", ONE, READ, None, show),
    Route("HEAD", ONE, READ, None, check),
    Route("PUT", ONE, CREATE, None, create),
    Route("DELETE", ONE, DELETE, None, delete),
]
