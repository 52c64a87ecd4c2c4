"""What projects used in a span of time: hours of servers, times their sizes. Read only.

Source: Compute API reference, "Usage reports (os-simple-tenant-usage)".
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sqlalchemy import or_, select

from ...errors import BadRequest, Forbidden
from ...http import Context
from ...models import Server, now
from ...policy import ADMIN, READER, rule
from ...routes import Route
from .server_filters import refuse

OTHERS = rule("compute:tenant_usage:others", "role:admin")
MOST = 1000  # servers of one answer until 2.39, which knows no pages
WEEKS = timedelta(weeks=4)


def _parse_time(name: str, text: str | None, default: datetime) -> datetime:
    if not text:
        return default
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise refuse(name, text, "It is no ISO 8601 time.") from None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _read_span(ctx: Context) -> tuple[datetime, datetime]:
    end = _parse_time("end", ctx.query.get("end"), now())
    start = _parse_time("start", ctx.query.get("start"), end - WEEKS)
    if start >= end:
        raise BadRequest("Invalid start time. The start time cannot occur after the end time.")
    return start, end


def _read_servers(ctx: Context, start: datetime, end: datetime, project_id: str | None) -> list[Server]:
    placed = or_(Server.host_id.is_not(None), Server.offloaded_at.is_not(None))
    statement = select(Server).where(
        Server.created_at < end, or_(Server.gone_at.is_(None), Server.gone_at > start), placed
    )
    if project_id is not None:
        statement = statement.where(Server.project_id == project_id)
    marker = ctx.query.get("marker") if ctx.version >= (2, 40) else None
    if marker:
        at = ctx.session.scalar(select(Server.number).where(Server.id == marker))
        if at is None:
            raise BadRequest(f"marker [{marker[:100]}] not found")
        statement = statement.where(Server.number > at)
    limit = MOST
    given = ctx.query.get("limit") if ctx.version >= (2, 40) else None
    if given:
        if not given.isdigit():
            raise refuse("limit", given, "It is no whole number.")
        limit = min(int(given), ctx.settings.api.max_limit)
    return list(ctx.session.scalars(statement.order_by(Server.number).limit(limit)))


def _build_one(server: Server, start: datetime, end: datetime) -> dict:
    began, ended = max(server.created_at, start), min(server.gone_at or end, end)
    hours = max((ended - began).total_seconds(), 0) / 3600
    return {
        "name": server.name,
        "instance_id": server.id,
        "tenant_id": server.project_id,
        "flavor": server.flavor["name"],
        "hours": hours,
        "vcpus": server.flavor["vcpus"],
        "memory_mb": server.flavor["ram_mb"],
        "local_gb": server.flavor["disk_gb"] + server.flavor.get("ephemeral_gb", 0),
        "started_at": server.created_at.strftime("%Y-%m-%dT%H:%M:%S.%f"),
        "ended_at": server.gone_at.strftime("%Y-%m-%dT%H:%M:%S.%f") if server.gone_at else None,
        "state": "terminated" if server.gone_at else server.vm_state,
        "uptime": int(((server.gone_at or now()) - server.created_at).total_seconds()),
    }


def _build_sums(project_id: str, usages: list[dict], start: datetime, end: datetime) -> dict:
    return {
        "tenant_id": project_id,
        "start": start.strftime("%Y-%m-%dT%H:%M:%S.%f"),
        "stop": end.strftime("%Y-%m-%dT%H:%M:%S.%f"),
        "total_hours": sum(one["hours"] for one in usages),
        "total_vcpus_usage": sum(one["hours"] * one["vcpus"] for one in usages),
        "total_memory_mb_usage": sum(one["hours"] * one["memory_mb"] for one in usages),
        "total_local_gb_usage": sum(one["hours"] * one["local_gb"] for one in usages),
    }


def index(ctx: Context) -> list[dict]:
    """Sums for every project; with detailed=1 its servers too."""
    start, end = _read_span(ctx)
    by_project: dict[str, list[dict]] = {}
    for server in _read_servers(ctx, start, end, None):
        by_project.setdefault(server.project_id, []).append(_build_one(server, start, end))
    detailed = ctx.query.get("detailed") == "1"
    return [
        {**_build_sums(project_id, usages, start, end), **({"server_usages": usages} if detailed else {})}
        for project_id, usages in sorted(by_project.items())
    ]


def show(ctx: Context, project_id: str) -> dict:
    if project_id != ctx.token.project_id and not ctx.allows(OTHERS):
        raise Forbidden(f"Policy doesn't allow {OTHERS} to be performed.")
    start, end = _read_span(ctx)
    usages = [_build_one(server, start, end) for server in _read_servers(ctx, start, end, project_id)]
    return {**_build_sums(project_id, usages, start, end), "server_usages": usages} if usages else {}


def view(ctx: Context, usage: dict) -> dict:
    return usage


LIST = rule("compute:tenant_usage:index", ADMIN)
SHOW = rule("compute:tenant_usage:show", READER)
ROUTES = [
    Route("GET", "/os-simple-tenant-usage", LIST, None, index, view, reply_key="tenant_usages"),
    Route("GET", "/os-simple-tenant-usage/{project_id}", SHOW, None, show, view, reply_key="tenant_usage"),
]
