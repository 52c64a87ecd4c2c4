"""Limits of a project's network objects; what is used is counted from rows. Source: API reference, "Quotas"."""

from __future__ import annotations

from sqlalchemy import delete as sql_delete
from sqlalchemy import select

from ...allocation import COUNTED, count_used
from ...errors import BadRequest, NotFound
from ...fields import BOOL, field, whole
from ...http import Context
from ...models import Quota, read_limit
from ...models.quotas import read_default_limit
from ...policy import ADMIN, ANYONE, rule
from ...routes import Route

FIELDS = {**{name: field(whole(-1)) for name in COUNTED}, "check_limit": field(BOOL)}


def _check_project(ctx: Context, project_id: str) -> None:
    """A project sees its own limits, an administrator those of all."""
    if project_id != ctx.token.project_id and not ctx.allows(OTHERS):
        raise NotFound(f"Quota for tenant {project_id} could not be found.", kind="TenantQuotaNotFound")


def _read_limits(ctx: Context, project_id: str) -> dict[str, int]:
    return {name: read_limit(ctx.session, project_id, name) for name in COUNTED}


def index(ctx: Context) -> list[dict]:
    """Projects with limits of their own."""
    projects = ctx.session.scalars(
        select(Quota.project_id).where(Quota.resource.in_(COUNTED)).distinct().order_by(Quota.project_id)
    ).all()
    return [{**_read_limits(ctx, one), "tenant_id": one, "project_id": one} for one in projects]


def show(ctx: Context, project_id: str) -> dict:
    _check_project(ctx, project_id)
    return _read_limits(ctx, project_id)


def show_default(ctx: Context, project_id: str) -> dict:
    _check_project(ctx, project_id)
    return {name: read_default_limit(ctx.session, name) for name in COUNTED}


def show_details(ctx: Context, project_id: str) -> dict:
    _check_project(ctx, project_id)
    return {
        name: {"limit": limit, "used": count_used(ctx.session, project_id, name), "reserved": 0}
        for name, limit in _read_limits(ctx, project_id).items()
    }


def update(ctx: Context, project_id: str) -> dict:
    """With check_limit a limit below what is used is refused."""
    for name, limit in ctx.body.items():
        if name == "check_limit":
            continue
        if ctx.body.get("check_limit") and -1 < limit < count_used(ctx.session, project_id, name):
            raise BadRequest(
                f"Quota limit {limit} is lower than current usage of resource {name}.",
                kind="QuotaLimitLowerThanCurrentUsage",
            )
        ctx.session.merge(Quota(project_id=project_id, resource=name, limit=limit))
    ctx.session.flush()
    return _read_limits(ctx, project_id)


def delete(ctx: Context, project_id: str) -> None:
    """The defaults hold again."""
    ctx.session.execute(sql_delete(Quota).where(Quota.project_id == project_id, Quota.resource.in_(COUNTED)))


def view(ctx: Context, quota: dict) -> dict:
    return quota


OTHERS = rule("network:quotas:others", ADMIN)
LIST = rule("network:quotas:index", ADMIN)
SHOW = rule("network:quotas:show", ANYONE)
UPDATE = rule("network:quotas:update", ADMIN)
DELETE = rule("network:quotas:delete", ADMIN)
ROUTES = [
    Route("GET", "/quotas", LIST, None, index, view, reply_key="quotas"),
    Route("GET", "/quotas/{project_id}", SHOW, None, show, view, key="quota"),
    Route("GET", "/quotas/{project_id}/default", SHOW, None, show_default, view, key="quota"),
    Route("GET", "/quotas/{project_id}/details.json", SHOW, None, show_details, view, key="quota"),
    Route("GET", "/quotas/{project_id}/details", SHOW, None, show_details, view, key="quota"),
    Route("PUT", "/quotas/{project_id}", UPDATE, FIELDS, update, view, key="quota"),
    Route("DELETE", "/quotas/{project_id}", DELETE, None, delete, None, 204),
]
