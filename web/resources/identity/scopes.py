"""What the caller's own tokens can be scoped to: projects, domains, the system.

Source: Identity API reference, "Authentication and token management" (/v3/auth/…). Next room: `tokens.py`.
"""

from __future__ import annotations

from sqlalchemy import select

from ...grants import read_targets
from ...http import Context
from ...models import Domain, Project
from ...policy import ANYONE, rule
from ...routes import Reply, Route
from . import domains, projects
from .lists import build_list


def index_projects(ctx: Context) -> Reply:
    """Enabled projects, in enabled domains, on which the caller has a role."""
    rows = ctx.session.scalars(
        select(Project)
        .join(Domain, Domain.id == Project.domain_id)
        .where(Project.id.in_(read_targets(ctx.session, ctx.token.user_id, "project")), Project.enabled, Domain.enabled)
        .order_by(Project.name, Project.id)
    )
    return build_list(ctx, "projects", list(rows), projects.view)


def index_domains(ctx: Context) -> Reply:
    held = read_targets(ctx.session, ctx.token.user_id, "domain")
    rows = ctx.session.scalars(select(Domain).where(Domain.id.in_(held), Domain.enabled).order_by(Domain.name))
    return build_list(ctx, "domains", list(rows), domains.view)


def index_system(ctx: Context) -> Reply:
    held = read_targets(ctx.session, ctx.token.user_id, "system")
    return build_list(ctx, "system", [{"all": True}] if held else [])


READ = rule("identity:scopes:read", ANYONE)
ROUTES = [
    Route("GET", "/auth/projects", READ, None, index_projects),
    Route("GET", "/auth/domains", READ, None, index_domains),
    Route("GET", "/auth/system", READ, None, index_system),
]
