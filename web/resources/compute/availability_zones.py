"""Availability zones: the names that hosts carry; for admins also where workers run, as the zone `internal`.

Source: Compute API reference, "Availability zones".
"""

from __future__ import annotations

from sqlalchemy import select

from ...http import Context
from ...models import Host, now
from ...policy import ADMIN, ANYONE, rule
from ...routes import Route
from ...scheduler import is_up
from .services import BINARY, TIME, WORKER, WORKER_ZONE, read_workers


def _read_hosts(ctx: Context) -> dict[str, list[Host]]:
    zones: dict[str, list[Host]] = {}
    for host in ctx.session.scalars(select(Host).order_by(Host.zone, Host.name)):
        if "hypervisor" in host.roles:
            zones.setdefault(host.zone, []).append(host)
    return zones


def index(ctx: Context) -> list[dict]:
    return [
        {"zoneName": zone, "zoneState": {"available": any(host.enabled for host in hosts)}, "hosts": None}
        for zone, hosts in _read_hosts(ctx).items()
    ]


def detail(ctx: Context) -> list[dict]:
    """With each host's service: active is enabled, available is seen lately."""
    at, sweep_s = now(), ctx.settings.worker.sweep_s
    found = [
        {
            "zoneName": zone,
            "zoneState": {"available": any(host.enabled for host in hosts)},
            "hosts": {
                host.name: {
                    BINARY: {
                        "active": host.enabled,
                        "available": is_up(host.observed_at, host.forced_down, at, sweep_s),
                        "updated_at": host.observed_at.strftime(TIME) if host.observed_at else None,
                    }
                }
                for host in hosts
            },
        }
        for zone, hosts in _read_hosts(ctx).items()
    ]
    workers = {}
    for worker in sorted(read_workers(ctx), key=lambda one: one.seen_at):  # of a machine's, the newest word counts
        seen = {"active": True, "available": worker.is_up(at), "updated_at": worker.seen_at.strftime(TIME)}
        workers[worker.machine] = {WORKER: seen}
    if workers:
        found.append({"zoneName": WORKER_ZONE, "zoneState": {"available": True}, "hosts": workers})
    return found


def view(ctx: Context, zone: dict) -> dict:
    return zone


LIST = rule("compute:availability_zones:index", ANYONE)
DETAIL = rule("compute:availability_zones:detail", ADMIN)
ROUTES = [
    Route("GET", "/os-availability-zone", LIST, None, index, view, reply_key="availabilityZoneInfo"),
    Route("GET", "/os-availability-zone/detail", DETAIL, None, detail, view, reply_key="availabilityZoneInfo"),
]
