"""Storage hosts as services, their zones and pools, for admins' clients.

Source: Block Storage API reference, "Services (os-services)", "Availability zones", "Back-end storage pools".
"""

from __future__ import annotations

from sqlalchemy import select

from ...errors import BadRequest, NotFound
from ...fields import field, text
from ...http import Context
from ...models import Host, now
from ...policy import ADMIN, ANYONE, rule
from ...routes import Reply, Route
from ...scheduler import is_up
from ...volume_attachments import read_storage_candidates
from .volume_rows import build_pool_name, read_backend

BINARY = "cinder-volume"
FIELDS = {
    "host": field(text(255, 1), required=True),
    "binary": field(text(255)),
    "service": field(text(255)),
    "disabled_reason": field(text(255, 1)),
}


def _read(ctx: Context) -> list[Host]:
    return [host for host in ctx.session.scalars(select(Host).order_by(Host.name)) if "storage" in host.roles]


def _is_up(ctx: Context, host: Host) -> bool:
    return is_up(host.observed_at, host.forced_down, now(), ctx.settings.worker.sweep_s, host.failures)


def index(ctx: Context) -> list[Host]:
    name, binary = ctx.query.get("host"), ctx.query.get("binary")
    if binary not in (None, BINARY):
        return []
    return [host for host in _read(ctx) if name in (None, host.name, f"{host.name}@{read_backend(host)}")]


def view(ctx: Context, host: Host) -> dict:
    return {
        "binary": BINARY,
        "host": f"{host.name}@{read_backend(host)}",
        "zone": host.zone,
        "status": "enabled" if host.enabled else "disabled",
        "state": "up" if _is_up(ctx, host) else "down",
        "updated_at": host.observed_at.strftime("%Y-%m-%dT%H:%M:%S.%f") if host.observed_at else None,
        "disabled_reason": host.disabled_reason,
        "replication_status": "disabled",
        "active_backend_id": None,
        "frozen": False,
    }


def _find(ctx: Context) -> Host:
    if ctx.body.get("binary", BINARY) not in ("", BINARY):
        raise NotFound(f"Service {ctx.body['binary']} could not be found.")
    name = ctx.body["host"].partition("@")[0]
    for host in _read(ctx):
        if host.name == name:
            return host
    raise NotFound(f"Service {BINARY} could not be found on host {ctx.body['host']}.")


def enable(ctx: Context) -> Reply:
    host = _find(ctx)
    host.enabled, host.disabled_reason = True, None
    return Reply(
        {"host": ctx.body["host"], "service": BINARY, "binary": BINARY, "disabled": False, "status": "enabled"}
    )


def disable(ctx: Context) -> Reply:
    host = _find(ctx)
    host.enabled, host.disabled_reason = False, ctx.body.get("disabled_reason")
    view = {"host": ctx.body["host"], "service": BINARY, "binary": BINARY, "disabled": True, "status": "disabled"}
    return Reply({**view, **({"disabled_reason": host.disabled_reason} if host.disabled_reason else {})})


def disable_with_reason(ctx: Context) -> Reply:
    if not ctx.body.get("disabled_reason"):
        raise BadRequest("Missing required element 'disabled_reason' in request body.")
    return disable(ctx)


def index_zones(ctx: Context) -> Reply:
    zones: dict[str, bool] = {}
    for host in _read(ctx):
        zones[host.zone] = zones.get(host.zone, False) or (host.enabled and _is_up(ctx, host))
    views = [{"zoneName": name, "zoneState": {"available": available}} for name, available in sorted(zones.items())]
    return Reply({"availabilityZoneInfo": views})


def index_pools(ctx: Context) -> Reply:
    hosts = {host.id: host for host in _read(ctx)}
    pools = []
    for one in read_storage_candidates(ctx.session, ctx.settings):
        host = hosts[one.id]
        pool = {"name": build_pool_name(host)}
        if ctx.query.get("detail", "false").lower() == "true":
            left = one.total_gb * ctx.settings.volume.allocation_percent // 100 - one.used_gb
            pool["capabilities"] = {
                "volume_backend_name": read_backend(host),
                "storage_protocol": "iSCSI",
                "driver_version": "1",
                "vendor_name": "Kumo",
                "total_capacity_gb": one.total_gb,
                "free_capacity_gb": left,
                "allocated_capacity_gb": one.used_gb,
                "reserved_percentage": 0,
                "QoS_support": False,
                "multiattach": False,
                "thin_provisioning_support": True,
            }
        pools.append(pool)
    return Reply({"pools": pools})


def index_extensions(ctx: Context) -> Reply:
    """There are none: all that is served is the API itself."""
    return Reply({"extensions": []})


READ = rule("volume:services:index", ADMIN)
WRITE = rule("volume:services:update", ADMIN)
ZONES = rule("volume:availability_zones:index", ANYONE)
POOLS = rule("volume:pools:index", ADMIN)
EXTENSIONS = rule("volume:extensions:index", ANYONE)
ROUTES = [
    Route("GET", "/os-services", READ, None, index, view, key="services"),
    Route("PUT", "/os-services/enable", WRITE, FIELDS, enable),
    Route("PUT", "/os-services/disable", WRITE, FIELDS, disable),
    Route("PUT", "/os-services/disable-log-reason", WRITE, FIELDS, disable_with_reason),
    Route("GET", "/os-availability-zone", ZONES, None, index_zones),
    Route("GET", "/scheduler-stats/get_pools", POOLS, None, index_pools),
    Route("GET", "/extensions", EXTENSIONS, None, index_extensions),
]
