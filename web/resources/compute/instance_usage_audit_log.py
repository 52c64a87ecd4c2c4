"""os-instance_usage_audit_log: how many guests each hypervisor had in the last whole month, counted from rows.

Source: Compute API reference, "Server usage audit log". There is no audit that could run or fail: a host that was
there in the month is done. Read only.
"""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import func, or_, select

from ...errors import BadRequest
from ...http import Context
from ...models import Host, Server, now
from ...policy import ADMIN, rule
from ...routes import Route


def choose_month(before: datetime) -> tuple[datetime, datetime]:
    """The last whole month that had ended by ``before``: its beginning and its end (the next month's beginning)."""
    end = datetime(before.year, before.month, 1, tzinfo=UTC)
    year, month = (end.year - 1, 12) if end.month == 1 else (end.year, end.month - 1)
    return datetime(year, month, 1, tzinfo=UTC), end


def index(ctx: Context) -> dict:
    return _build(ctx, *choose_month(now()))


def show(ctx: Context, before: str) -> dict:
    """The month before a time (``2026-11-27 10:00:00``, UTC)."""
    try:
        at = datetime.fromisoformat(before)
    except ValueError:
        raise BadRequest(f"Invalid timestamp for date {before[:100]}") from None
    return _build(ctx, *choose_month(at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)))


def _build(ctx: Context, begin: datetime, end: datetime) -> dict:
    hosts = [host for host in ctx.session.scalars(select(Host).order_by(Host.name)) if "hypervisor" in host.roles]
    rows = ctx.session.execute(
        select(Server.host_id, func.count())
        .where(Server.created_at < end, or_(Server.gone_at.is_(None), Server.gone_at > begin))
        .group_by(Server.host_id)
    )
    counts = {host_id: count for host_id, count in rows if host_id is not None}
    done = [host for host in hosts if host.created_at < end]
    message = "Counted from the rows of servers"
    return {
        "log": {
            host.name: {"state": "DONE", "instances": counts.get(host.id, 0), "errors": 0, "message": message}
            for host in done
        },
        "hosts_not_run": [host.name for host in hosts if host not in done],
        "num_hosts": len(hosts),
        "num_hosts_done": len(done),
        "num_hosts_not_run": len(hosts) - len(done),
        "num_hosts_running": 0,
        "overall_status": f"{'ALL' if len(done) == len(hosts) else len(done)} hosts done. 0 errors.",
        "period_beginning": begin.strftime("%Y-%m-%d %H:%M:%S"),
        "period_ending": end.strftime("%Y-%m-%d %H:%M:%S"),
        "total_errors": 0,
        "total_instances": sum(counts.get(host.id, 0) for host in done),
    }


def view(ctx: Context, log: dict) -> dict:
    return log


PATH = "/os-instance_usage_audit_log"
LIST = rule("compute:instance_usage_audit_log:index", ADMIN)
SHOW = rule("compute:instance_usage_audit_log:show", ADMIN)
ROUTES = [
    Route("GET", PATH, LIST, None, index, view, reply_key="instance_usage_audit_logs"),
    Route("GET", PATH + "/{before}", SHOW, None, show, view, reply_key="instance_usage_audit_log"),
]
