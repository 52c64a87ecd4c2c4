"""Hypervisors: the hosts that run guests, as they were last seen.

Source: Compute API reference, "Hypervisors (os-hypervisors)". Ids are UUIDs from 2.53 on and numbers
before; the number is taken from the UUID, so that it needs no column. Changes nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from sqlalchemy import select

from ...capacity import read_host_usage
from ...errors import BadRequest, NotFound
from ...fields import FALSE, TRUE, field, since, until
from ...http import Context
from ...models import Host, Server, now
from ...paging import Page, read_limit
from ...policy import ADMIN, rule
from ...routes import Route
from ...scheduler import is_up
from .server_filters import refuse
from .server_views import DOMAIN_PREFIX

SIZES = (
    "cpu_info", "current_workload", "disk_available_least", "free_disk_gb", "free_ram_mb", "local_gb", "local_gb_used",
    "memory_mb", "memory_mb_used", "running_vms", "vcpus", "vcpus_used",
)  # fmt: skip
VIEW_FIELDS = {**{name: field({}, until("2.87")) for name in SIZES}, "uptime": field({}, since("2.88"))}
QUERY = {"limit", "marker", "hypervisor_hostname_pattern", "with_servers"}


@dataclass
class Shown:
    """A host with what its guests use, and the guests where they are shown."""

    host: Host
    used: dict[str, int]
    up: bool
    servers: list[tuple[str, str]] | None = None


def build_number(row) -> int:
    """The id of a host or a service for versions that want a number: the first 28 bits of its UUID."""
    return int(row.id[:7], 16) + 1


def _read_hosts(ctx: Context) -> list[Host]:
    return [host for host in ctx.session.scalars(select(Host).order_by(Host.created_at, Host.id)) if _runs_guests(host)]


def _runs_guests(host: Host) -> bool:
    return "hypervisor" in host.roles


def _read_shown(ctx: Context, hosts: list[Host], servers: bool = False) -> list[Shown]:
    ids = [host.id for host in hosts]
    usage = read_host_usage(ctx.session, ids)
    at, sweep_s = now(), ctx.settings.worker.sweep_s
    guests: dict[str, list[tuple[str, str]]] = {host_id: [] for host_id in ids}
    if servers and ids:
        rows = ctx.session.execute(
            select(Server.host_id, Server.id).where(Server.host_id.in_(ids), Server.gone_at.is_(None))
        )
        for host_id, server_id in rows:
            guests[host_id].append((DOMAIN_PREFIX + server_id, server_id))
    nothing = {"servers": 0, "vcpus": 0, "memory_mb": 0, "disk_gb": 0}
    return [
        Shown(
            host,
            usage.get(host.id, nothing),
            is_up(host.observed_at, host.forced_down, at, sweep_s),
            guests[host.id] if servers else None,
        )
        for host in hosts
    ]


def _wants_servers(ctx: Context) -> bool:
    value = ctx.query.get("with_servers", "false") if ctx.version >= (2, 53) else "false"
    if value not in TRUE and value not in FALSE:
        raise refuse("with_servers", value, "It is no boolean.")
    return value in TRUE


def index(ctx: Context) -> Page:
    """In the order they were added; paged from 2.33 on, filtered by a part of the name from 2.53 on."""
    query = ctx.query
    hosts = _read_hosts(ctx)
    for name in query:
        if name not in QUERY and ctx.version >= (2, 75):
            raise BadRequest(f"Invalid input for query parameter {name}: Additional properties are not allowed.")
    pattern = query.get("hypervisor_hostname_pattern") if ctx.version >= (2, 53) else None
    if pattern is not None:
        if query.get("marker") or query.get("limit"):
            raise BadRequest("Paging over hypervisors with the hypervisor_hostname_pattern query is not supported.")
        hosts = [host for host in hosts if pattern.strip("%").lower() in host.name.lower()]
        if not hosts:
            raise NotFound(f"No hypervisor matching '{pattern[:255]}' could be found.")
    marker = query.get("marker") if ctx.version >= (2, 33) else None
    if marker:
        places = [place for place, host in enumerate(hosts) if marker in (host.id, str(build_number(host)))]
        if not places:
            raise BadRequest(f"marker [{marker[:100]}] not found")
        hosts = hosts[places[0] + 1 :]
    more = None
    if ctx.version >= (2, 33):
        limit = read_limit(query, ctx.settings.api.max_limit)
        if len(hosts) > limit > 0:
            more = hosts[limit - 1].id if ctx.version >= (2, 53) else str(build_number(hosts[limit - 1]))
        hosts = hosts[:limit]
    return Page(_read_shown(ctx, hosts, _wants_servers(ctx)), more)


def _find(ctx: Context, hypervisor_id: str) -> Host:
    by_number = ctx.version < (2, 53)
    for host in _read_hosts(ctx):
        if hypervisor_id == (str(build_number(host)) if by_number else host.id):
            return host
    raise NotFound(f"Hypervisor with ID '{hypervisor_id}' could not be found.")


def show(ctx: Context, hypervisor_id: str) -> Shown:
    return _read_shown(ctx, [_find(ctx, hypervisor_id)], _wants_servers(ctx))[0]


def show_uptime(ctx: Context, hypervisor_id: str) -> Shown:
    shown = _read_shown(ctx, [_find(ctx, hypervisor_id)])[0]
    if not shown.up:
        raise BadRequest(f"The host {shown.host.name} is down: its uptime is not known")
    return shown


def show_statistics(ctx: Context) -> dict:
    """Sums over the hypervisors that are enabled."""
    views = [_build_sizes(shown) for shown in _read_shown(ctx, [h for h in _read_hosts(ctx) if h.enabled])]
    summed = {name: sum(view[name] for view in views) for name in SIZES if name != "cpu_info"}
    return {"count": len(views), **summed}


def search(ctx: Context, pattern: str) -> list[Shown]:
    """Those whose name contains the text."""
    hosts = [host for host in _read_hosts(ctx) if pattern.lower() in host.name.lower()]
    if not hosts:
        raise NotFound(f"No hypervisor matching '{pattern[:255]}' could be found.")
    return _read_shown(ctx, hosts)


def list_servers(ctx: Context, pattern: str) -> list[Shown]:
    return _read_shown(ctx, [shown.host for shown in search(ctx, pattern)], servers=True)


def _facts(host: Host) -> dict:
    return (host.observed or {}).get("host") or {}


def _build_sizes(shown: Shown) -> dict:
    facts, used = _facts(shown.host), shown.used
    return {
        "cpu_info": facts.get("cpu_info") or {},
        "current_workload": 0,
        "disk_available_least": facts.get("disk_free_gb", 0),
        "free_disk_gb": facts.get("disk_gb", 0) - used["disk_gb"],
        "free_ram_mb": facts.get("memory_mb", 0) - used["memory_mb"],
        "local_gb": facts.get("disk_gb", 0),
        "local_gb_used": used["disk_gb"],
        "memory_mb": facts.get("memory_mb", 0),
        "memory_mb_used": used["memory_mb"],
        "running_vms": used["servers"],
        "vcpus": facts.get("vcpus", 0),
        "vcpus_used": used["vcpus"],
    }


def build_uptime(facts: dict) -> str | None:
    """The line of `uptime` out of what was seen; None where nothing was."""
    if "uptime_s" not in facts:
        return None
    minutes = int(facts["uptime_s"]) // 60
    load = ", ".join(f"{value:.2f}" for value in facts.get("load", []))
    days, clock = minutes // 1440, f"{minutes % 1440 // 60}:{minutes % 60:02}"
    return f" up {days} days, {clock},  load average: {load}"


def view_listed(ctx: Context, shown: Shown) -> dict:
    host = shown.host
    view = {
        "id": build_number(host) if ctx.version < (2, 53) else host.id,
        "hypervisor_hostname": host.name,
        "state": "up" if shown.up else "down",
        "status": "enabled" if host.enabled else "disabled",
    }
    if shown.servers is not None and (shown.servers or ctx.version >= (2, 75)):
        view["servers"] = [{"name": name, "uuid": server_id} for name, server_id in shown.servers]
    return view


def view_shown(ctx: Context, shown: Shown) -> dict:
    host, facts = shown.host, _facts(shown.host)
    sizes = _build_sizes(shown)
    if ctx.version < (2, 28):
        sizes["cpu_info"] = json.dumps(sizes["cpu_info"])
    return {
        **view_listed(ctx, shown),
        **sizes,
        "host_ip": host.connection.get("ansible_host", "127.0.0.1"),
        "hypervisor_type": facts.get("hypervisor_type", "QEMU"),
        "hypervisor_version": facts.get("hypervisor_version", 0),
        "service": {
            "host": host.name,
            "id": build_number(host) if ctx.version < (2, 53) else host.id,
            "disabled_reason": host.disabled_reason,
        },
        "uptime": build_uptime(facts) if shown.up else None,
    }


def view_uptime(ctx: Context, shown: Shown) -> dict:
    return {**view_listed(ctx, shown), "uptime": build_uptime(_facts(shown.host))}


def view_statistics(ctx: Context, sums: dict) -> dict:
    return sums


LIST = rule("compute:hypervisors:index", ADMIN)
SHOW = rule("compute:hypervisors:show", ADMIN)
PATH = "/os-hypervisors"
ONE = PATH + "/{hypervisor_id}"
MANY = "hypervisors"
ROUTES = [
    Route("GET", PATH, LIST, None, index, view_listed, reply_key=MANY),
    Route("GET", PATH + "/detail", LIST, None, index, view_shown, reply_key=MANY, view_fields=VIEW_FIELDS),
    Route(
        "GET",
        PATH + "/statistics",
        LIST,
        None,
        show_statistics,
        view_statistics,
        reply_key="hypervisor_statistics",
        until="2.87",
    ),
    Route("GET", ONE, SHOW, None, show, view_shown, reply_key="hypervisor", view_fields=VIEW_FIELDS),
    Route("GET", ONE + "/uptime", SHOW, None, show_uptime, view_uptime, reply_key="hypervisor", until="2.87"),
    Route("GET", PATH + "/{pattern}/search", LIST, None, search, view_listed, reply_key=MANY, until="2.52"),
    Route("GET", PATH + "/{pattern}/servers", LIST, None, list_servers, view_listed, reply_key=MANY, until="2.52"),
]
