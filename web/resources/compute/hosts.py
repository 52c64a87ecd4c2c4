"""os-hosts, which old clients ask for until 2.42: services and where they run, who uses what of a hypervisor, enabling
and disabling one.

Source: Compute API reference, "Hosts (os-hosts) (DEPRECATED)". Turning a machine off or on and its maintenance mode are
no state that Kumo keeps: refused. Next rooms: `services.py`, which has the same rows by a newer name; `hypervisors.py`.
"""

from __future__ import annotations

from sqlalchemy import func, select

from ...capacity import read_host_usage, read_hosts
from ...errors import BadRequest, NotFound
from ...fields import field, one_of
from ...http import Context
from ...models import Host, Server
from ...policy import ADMIN, rule
from ...routes import Route
from .services import WORKER_ZONE, read_workers

SWITCH = one_of("enable", "disable", "Enable", "Disable", "ENABLE", "DISABLE")
FIELDS = {"status": field(SWITCH), "maintenance_mode": field(SWITCH)}
SIZES = {"cpu": "vcpus", "memory_mb": "memory_mb", "disk_gb": "disk_gb"}


def _is_named(row: dict, query) -> bool:
    return query.get("zone") in (None, "", row["zone"]) and query.get("service") in (None, row["service"])


def index(ctx: Context) -> list[dict]:
    """A row for each hypervisor and for each machine that workers run on."""
    rows = [
        {"host_name": host.name, "service": "compute", "zone": host.zone}
        for host in ctx.session.scalars(select(Host).order_by(Host.name))
        if "hypervisor" in host.roles
    ]
    machines = sorted({worker.machine for worker in read_workers(ctx)})
    rows += [{"host_name": machine, "service": "conductor", "zone": WORKER_ZONE} for machine in machines]
    return [row for row in rows if _is_named(row, ctx.query)]


def _find(ctx: Context, name: str) -> Host:
    host = ctx.session.scalar(select(Host).where(Host.name == name))
    if host is None or "hypervisor" not in host.roles:
        raise NotFound(f"Compute host {name[:255]} could not be found.")
    return host


def show(ctx: Context, name: str) -> list[dict]:
    """What it has, what is given out, and what each project's guests have of it."""
    host = _find(ctx, name)
    facts = (host.observed or {}).get("host") or {}
    used = read_host_usage(ctx.session, [host.id]).get(host.id, {})
    rows = ctx.session.execute(
        select(
            Server.project_id,
            func.sum(Server.flavor["vcpus"].as_integer()),
            func.sum(Server.flavor["ram_mb"].as_integer()),
            func.sum(Server.flavor["disk_gb"].as_integer()),
        )
        .where(Server.host_id == host.id, Server.gone_at.is_(None))
        .group_by(Server.project_id)
        .order_by(Server.project_id)
    )
    listed = [("(total)", facts), ("(used_now)", used), ("(used_max)", used)]
    listed += [(project, dict(zip(SIZES.values(), map(int, sums), strict=True))) for project, *sums in rows]
    return [
        {"host": host.name, "project": project, **{name: sizes.get(key, 0) for name, key in SIZES.items()}}
        for project, sizes in listed
    ]


def update(ctx: Context, name: str) -> dict:
    """A disabled host gets no new guests; its own go on."""
    if not ctx.body:
        raise BadRequest("Invalid input in body: one of status and maintenance_mode is needed")
    read_hosts(ctx.session)
    host = _find(ctx, name)
    if "maintenance_mode" in ctx.body:
        raise BadRequest(
            f"Invalid input for field/attribute maintenance_mode. Value: {ctx.body['maintenance_mode']}. Hosts have no "
            "such mode: disable it, then move its guests (kumo host drain)."
        )
    host.enabled = ctx.body["status"].lower() == "enable"
    host.disabled_reason = None
    return {"host": host.name, "status": "enabled" if host.enabled else "disabled"}


def _refuse(power_action: str):
    def act(ctx: Context, name: str) -> None:
        host = _find(ctx, name)
        raise BadRequest(f"Host {host.name} cannot be asked for {power_action} here: machines are their operator's.")

    return act


def view_listed(ctx: Context, row: dict) -> dict:
    return row


def view_shown(ctx: Context, resource: dict) -> dict:
    return {"resource": resource}


def view_changed(ctx: Context, changed: dict) -> dict:
    return changed


LIST = rule("compute:hosts:index", ADMIN)
SHOW = rule("compute:hosts:show", ADMIN)
UPDATE = rule("compute:hosts:update", ADMIN)
POWER = rule("compute:hosts:power", ADMIN)
PATH = "/os-hosts"
ONE = PATH + "/{name}"
LAST = {"until": "2.42"}
ROUTES = [
    Route("GET", PATH, LIST, None, index, view_listed, reply_key="hosts", **LAST),
    Route("GET", ONE, SHOW, None, show, view_shown, reply_key="host", **LAST),
    Route("PUT", ONE, UPDATE, FIELDS, update, view_changed, **LAST),
    *[
        Route("GET", f"{ONE}/{power_action}", POWER, None, _refuse(power_action), view_changed, **LAST)
        for power_action in ("startup", "shutdown", "reboot")
    ],
]
