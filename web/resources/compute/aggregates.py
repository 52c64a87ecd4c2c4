"""Aggregates: the groups of hosts that zones are, for clients that look a host's zone up here. Read only.

Source: Compute API reference, "Host aggregates (os-aggregates)". A host is in its zone by `kumo host`;
nothing else groups hosts yet.
"""

from __future__ import annotations

import uuid
import zlib

from sqlalchemy import select

from ...errors import NotFound
from ...fields import field, since
from ...http import Context
from ...models import Host
from ...policy import ADMIN, rule
from ...routes import Route

NAMESPACE = uuid.UUID("a9bd6ffa-2d4f-4b2c-8a37-0c4f6e1d3b52")
VIEW_FIELDS = {"uuid": field({}, since("2.41"))}


def build_number(zone: str) -> int:
    """The aggregate's id: a number that only the zone's name decides."""
    return zlib.crc32(zone.encode()) & 0x7FFFFFFF


def _read(ctx: Context) -> dict[str, list[Host]]:
    zones: dict[str, list[Host]] = {}
    for host in ctx.session.scalars(select(Host).order_by(Host.zone, Host.name)):
        if "hypervisor" in host.roles:
            zones.setdefault(host.zone, []).append(host)
    return zones


def index(ctx: Context) -> list[tuple[str, list[Host]]]:
    return list(_read(ctx).items())


def show(ctx: Context, aggregate_id: str) -> tuple[str, list[Host]]:
    for zone, hosts in _read(ctx).items():
        if str(build_number(zone)) == aggregate_id:
            return zone, hosts
    raise NotFound(f"Aggregate {aggregate_id} could not be found.")


def view(ctx: Context, found: tuple[str, list[Host]]) -> dict:
    zone, hosts = found
    return {
        "id": build_number(zone),
        "uuid": str(uuid.uuid5(NAMESPACE, zone)),
        "name": zone,
        "availability_zone": zone,
        "hosts": [host.name for host in hosts],
        "metadata": {"availability_zone": zone},
        "created_at": min(host.created_at for host in hosts).strftime("%Y-%m-%dT%H:%M:%S.%f"),
        "updated_at": None,
        "deleted": False,
        "deleted_at": None,
    }


LIST = rule("compute:aggregates:index", ADMIN)
SHOW = rule("compute:aggregates:show", ADMIN)
ROUTES = [
    Route("GET", "/os-aggregates", LIST, None, index, view, reply_key="aggregates", view_fields=VIEW_FIELDS),
    Route(
        "GET", "/os-aggregates/{aggregate_id}", SHOW, None, show, view, reply_key="aggregate", view_fields=VIEW_FIELDS
    ),
]
