"""Projects and domains deleted: a domain with all that is in it, by either of its two names.

The reference says that users, groups, projects and roles go along; what would orphan servers or images does
not: a project that still owns something is a 409, and then nothing is deleted. Source: Identity API
reference, "Delete domain". Next rooms: `domains.py`, `project_possessions.py`.
"""

from __future__ import annotations

from sqlalchemy import delete as sql_delete
from sqlalchemy import select

from ...errors import Forbidden
from ...http import Context
from ...models import Assignment, Domain, Group, Project, Role, User
from ...policy import ADMIN, rule
from ...routes import Route
from .domains import DEFAULT, find_domain
from .groups import delete_group
from .project_possessions import delete_project
from .projects import find_any
from .users import delete_user


def delete(ctx: Context, domain_id: str) -> None:
    """Only a disabled domain (403); all of it, or nothing (409)."""
    session, row = ctx.session, find_domain(ctx.session, domain_id)
    if domain_id == DEFAULT:
        raise Forbidden("The default domain cannot be deleted.")
    if row.enabled:
        raise Forbidden("Cannot delete a domain that is enabled, please disable it first.")
    left = {one.id: one for one in session.scalars(select(Project).where(Project.domain_id == domain_id))}
    while left:
        parents = {one.parent_id for one in left.values()}
        for one in [one for one in left.values() if one.id not in parents]:
            delete_project(session, left.pop(one.id))
        session.flush()
    for model, remove in ((Group, delete_group), (User, delete_user)):
        for one in session.scalars(select(model).where(model.domain_id == domain_id)).all():
            remove(session, one)
    session.flush()
    session.execute(sql_delete(Assignment).where(Assignment.target_kind == "domain", Assignment.target_id == domain_id))
    session.execute(sql_delete(Role).where(Role.domain_id == domain_id))
    session.delete(row)


def delete_any(ctx: Context, project_id: str) -> None:
    """409 while it owns anything, 403 while it has projects below it. What belongs to it goes along with it."""
    row = find_any(ctx.session, project_id)
    if isinstance(row, Domain):
        ctx.policy.check(DELETE, ctx.token.credentials(), {})
        return delete(ctx, row.id)
    return delete_project(ctx.session, row)


DELETE = rule("identity:domains:delete", ADMIN)
DELETE_PROJECT = rule("identity:projects:delete", ADMIN)
ROUTES = [
    Route("DELETE", "/domains/{domain_id}", DELETE, None, delete),
    Route("DELETE", "/projects/{project_id}", DELETE_PROJECT, None, delete_any),
]
