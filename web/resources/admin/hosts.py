"""Hosts as the control plane knows them, and what on them is not as asked (`kumo host`, `plan`, `drift`)."""

from __future__ import annotations

from sqlalchemy import select

from ...drift import build_drift, look_at_hosts, read_documents
from ...errors import Conflict, NotFound
from ...http import Context
from ...models import Host
from ...policy import ADMIN, rule
from ...routes import Reply, Route

MOST_HOSTS = 16  # looked at in one request; each takes a second or two


def show_time(moment) -> str | None:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ") if moment else None


def index(ctx: Context) -> list[Host]:
    return list(ctx.session.scalars(select(Host).order_by(Host.name)))


def show(ctx: Context, name: str) -> Host:
    host = ctx.session.scalar(select(Host).where(Host.name == name))
    if host is None:
        raise NotFound("host", name)
    return host


def view(ctx: Context, host: Host) -> dict:
    """``generation`` is what is wanted, ``observed_generation`` what was seen; ``observed`` has facts and orphans."""
    return {
        "id": host.id,
        "name": host.name,
        "roles": list(host.roles),
        "zone": host.zone,
        "enabled": host.enabled,
        "disabled_reason": host.disabled_reason,
        "forced_down": host.forced_down,
        "generation": host.generation,
        "observed_generation": host.observed_generation,
        "observed_at": show_time(host.observed_at),
        "failures": host.failures,
        "error": host.error,
        "observed": dict(host.observed or {}),
    }


def look(ctx: Context, names: list[str]) -> list:
    """((host, document), outcome) of each host; Conflict where they are too many for one request."""
    with ctx.database.read() as session:
        pairs = read_documents(session, ctx.settings, names)
    if len(pairs) > MOST_HOSTS:
        raise Conflict(
            f"{len(pairs)} hosts are more than the {MOST_HOSTS} that one request looks at; name some: ?host=A"
        )
    return list(zip(pairs, look_at_hosts(ctx.settings, pairs), strict=True))


def index_drift(ctx: Context) -> Reply:
    """Of the hosts that ``?host=`` (repeatable) names, by default of all that are not fenced."""
    looks = look(ctx, ctx.query.getlist("host"))
    return Reply({"drift": [build_drift(host, seen) for (host, _), seen in looks]})


def show_drift(ctx: Context, name: str) -> Reply:
    (((host, _), seen),) = look(ctx, [name])
    return Reply({"drift": build_drift(host, seen)})


READ = rule("admin:hosts:read", ADMIN)
DRIFT = rule("admin:hosts:drift", ADMIN)
ROUTES = [
    Route("GET", "/hosts", READ, None, index, view, key="hosts"),
    Route("GET", "/hosts/{name}", READ, None, show, view, key="host"),
    Route("GET", "/hosts/{name}/drift", DRIFT, None, show_drift, transaction=False),
    Route("GET", "/drift", DRIFT, None, index_drift, transaction=False),
]
