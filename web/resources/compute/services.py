"""Compute services: one for each hypervisor, since Kumo runs no daemon there, and one for each worker process.

Source: Compute API reference, "Compute services (os-services)". A disabled host gets no new guests; its
own go on. Workers go by the name of the nearest service that clients know, and cannot be disabled: each takes what is
due. Next rooms: `hosts.py`, `availability_zones.py`, which list the same.
"""

from __future__ import annotations

from sqlalchemy import delete as sql_delete
from sqlalchemy import select

from ...capacity import read_hosts
from ...errors import BadRequest, Conflict, NotFound
from ...fields import BOOL, field, one_of, since, text
from ...http import Context
from ...models import AggregateHost, Host, Server, WorkerProcess, now, touch
from ...moves import fence_host, read_open_of_host
from ...policy import ADMIN, rule
from ...routes import Route
from ...scheduler import is_up
from .hypervisors import build_number

BINARY = "nova-compute"  # the name that clients look for
WORKER, WORKER_ZONE = "nova-conductor", "internal"
TIME = "%Y-%m-%dT%H:%M:%S.%f"
FIELDS = {
    "status": field(one_of("enabled", "disabled")),
    "disabled_reason": field({**text(255, 1), "format": "printable"}),
    "forced_down": field(BOOL),
}
HOST = {"host": field(text(255, 1), required=True), "binary": field(text(255, 1), required=True)}
REASON_FIELDS = {**HOST, "disabled_reason": field(text(255, 1), required=True)}
FORCE_FIELDS = {**HOST, "forced_down": field(BOOL)}
VIEW_FIELDS = {"forced_down": field({}, since("2.11"))}
QUERY = {"host", "binary"}


def read_workers(ctx: Context) -> list[WorkerProcess]:
    """Every worker process that was heard of, by the names of their machines."""
    return list(ctx.session.scalars(select(WorkerProcess).order_by(WorkerProcess.machine, WorkerProcess.id)))


def index(ctx: Context) -> list[Host | WorkerProcess]:
    for name in ctx.query:
        if name not in QUERY and ctx.version >= (2, 75):
            raise BadRequest(f"Invalid input for query parameter {name}: Additional properties are not allowed.")
    binary, named = ctx.query.get("binary"), ctx.query.get("host")
    found: list[Host | WorkerProcess] = []
    if binary in (None, BINARY):
        hosts = ctx.session.scalars(select(Host).order_by(Host.name))
        found += [host for host in hosts if "hypervisor" in host.roles and named in (None, host.name)]
    if binary in (None, WORKER):
        found += [worker for worker in read_workers(ctx) if named in (None, worker.machine)]
    return found


def _find(ctx: Context, **wanted) -> Host:
    read_hosts(ctx.session)  # what moves from or to it may be decided anew
    host = ctx.session.scalar(select(Host).filter_by(**wanted))
    if host is None and "id" in wanted and ctx.session.get(WorkerProcess, wanted["id"]) is not None:
        raise _not_to_be_changed(WORKER)
    if host is None or "hypervisor" not in host.roles:
        raise NotFound(f"Service {next(iter(wanted.values()))} not found.")
    return host


def _not_to_be_changed(binary: str) -> BadRequest:
    return BadRequest(f"Updating a {binary} service is not supported. Only {BINARY} services can be updated.")


def update(ctx: Context, service_id: str) -> Host:
    """Enable, disable with a reason, or mark as down by hand."""
    body = ctx.body
    if not body:
        raise BadRequest("No updates were requested. Fields 'status' or 'forced_down' should be specified.")
    if "disabled_reason" in body and body.get("status") != "disabled":
        raise BadRequest("Specifying disabled_reason requires that status is 'disabled'.")
    host = _find(ctx, id=service_id)
    if "status" in body:
        host.enabled = body["status"] == "enabled"
        host.disabled_reason = body.get("disabled_reason")
    if "forced_down" in body:
        _force_down(ctx, host, body["forced_down"])
    return host


def _force_down(ctx: Context, host: Host, down: bool) -> None:
    """Down by an admin's word is fenced: its guests may be evacuated, and what it says of a run before is not heard."""
    if down:
        fence_host(ctx.session, ctx.settings, host, ctx.request_id)
    elif host.forced_down:
        host.forced_down = False
        touch(ctx.session, host.id, ctx.request_id)


def _find_named(ctx: Context) -> Host:
    if ctx.body["binary"] == WORKER and any(one.machine == ctx.body["host"] for one in read_workers(ctx)):
        raise _not_to_be_changed(WORKER)
    if ctx.body["binary"] != BINARY:
        raise NotFound(f"Service {ctx.body['binary']} on host {ctx.body['host']} not found.")
    return _find(ctx, name=ctx.body["host"])


def enable(ctx: Context) -> dict:
    host = _find_named(ctx)
    host.enabled, host.disabled_reason = True, None
    return {**ctx.body, "status": "enabled"}


def disable(ctx: Context) -> dict:
    host = _find_named(ctx)
    host.enabled, host.disabled_reason = False, ctx.body.get("disabled_reason")
    return {**ctx.body, "status": "disabled"}


def force_down(ctx: Context) -> dict:
    host = _find_named(ctx)
    _force_down(ctx, host, ctx.body.get("forced_down", True))
    return {**ctx.body, "forced_down": host.forced_down}


def delete(ctx: Context, service_id: str) -> None:
    """The host runs guests no more, and is in no aggregate. Its row stays: what it did is told by it.

    A worker that still lives is there again with its next sign of life.
    """
    by_number = ctx.version < (2, 53)
    for worker in read_workers(ctx):
        if service_id == (str(build_number(worker)) if by_number else worker.id):
            ctx.session.delete(worker)
            return
    hosts = [host for host in read_hosts(ctx.session) if "hypervisor" in host.roles]
    host = next((one for one in hosts if service_id == (str(build_number(one)) if by_number else one.id)), None)
    if host is None:
        raise NotFound(f"Service {service_id[:255]} not found.")
    guests = select(Server.id).where(Server.host_id == host.id, Server.gone_at.is_(None)).limit(1)
    if ctx.session.scalar(guests) is not None:
        raise Conflict(
            "Unable to delete compute service that is hosting instances. Migrate or delete the instances first."
        )
    if read_open_of_host(ctx.session, host.id):
        raise Conflict("Unable to delete compute service that has in-progress migrations.")
    host.roles = [role for role in host.roles if role != "hypervisor"]
    ctx.session.execute(sql_delete(AggregateHost).where(AggregateHost.host_id == host.id))
    touch(ctx.session, host.id, ctx.request_id)


def view(ctx: Context, service: Host | WorkerProcess) -> dict:
    return view_worker(ctx, service) if isinstance(service, WorkerProcess) else view_host(ctx, service)


def view_worker(ctx: Context, worker: WorkerProcess) -> dict:
    return {
        "id": build_number(worker) if ctx.version < (2, 53) else worker.id,
        "binary": WORKER,
        "host": worker.machine,
        "zone": WORKER_ZONE,
        "status": "enabled",
        "state": "up" if worker.is_up(now()) else "down",
        "updated_at": worker.seen_at.strftime(TIME),
        "disabled_reason": None,
        "forced_down": False,
    }


def view_host(ctx: Context, host: Host) -> dict:
    up = is_up(host.observed_at, host.forced_down, now(), ctx.settings.worker.sweep_s)
    return {
        "id": build_number(host) if ctx.version < (2, 53) else host.id,
        "binary": BINARY,
        "host": host.name,
        "zone": host.zone,
        "status": "enabled" if host.enabled else "disabled",
        "state": "up" if up else "down",
        "updated_at": host.observed_at.strftime(TIME) if host.observed_at else None,
        "disabled_reason": host.disabled_reason,
        "forced_down": host.forced_down,
    }


def view_changed(ctx: Context, changed: dict) -> dict:
    return changed


LIST = rule("compute:services:index", ADMIN)
UPDATE = rule("compute:services:update", ADMIN)
DELETE = rule("compute:services:delete", ADMIN)
PATH = "/os-services"


def _put(name: str, fields: dict, handler, since_version: str = "2.1") -> Route:
    return Route(
        "PUT",
        f"{PATH}/{name}",
        UPDATE,
        fields,
        handler,
        view_changed,
        reply_key="service",
        since=since_version,
        until="2.52",
    )


ROUTES = [
    Route("GET", PATH, LIST, None, index, view, reply_key="services", view_fields=VIEW_FIELDS),
    Route("DELETE", PATH + "/{service_id}", DELETE, None, delete, None, 204),
    _put("enable", HOST, enable),
    _put("disable", HOST, disable),
    _put("disable-log-reason", REASON_FIELDS, disable),
    _put("force-down", FORCE_FIELDS, force_down, "2.11"),
    Route(
        "PUT",
        PATH + "/{service_id}",
        UPDATE,
        FIELDS,
        update,
        view,
        reply_key="service",
        view_fields=VIEW_FIELDS,
        since="2.53",
    ),
]
