"""Aggregates: groups of hypervisors that admins make. One with ``availability_zone`` in its metadata is a zone.

A host is in one zone at most: its own column, which follows the aggregates. Source: Compute API reference, "Host
aggregates (os-aggregates)". Next rooms: `placement.py`, which reads them; `availability_zones.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import delete as delete_rows
from sqlalchemy import select

from ...errors import BadRequest, Conflict, NotFound
from ...fields import field, mapping, nullable, since, text
from ...http import Context
from ...models import Aggregate, AggregateHost, Host, Server, now, touch
from ...policy import ADMIN, rule
from ...routes import Reply, Route

ZONE = "availability_zone"
NAME = {**text(255, 1), "format": "name"}
ZONE_NAME = {**text(255, 1), "pattern": r"^[^:]*\Z", "format": "name"}
FIELDS = {"name": field(NAME, required=True), ZONE: field(nullable(ZONE_NAME))}
UPDATE_FIELDS = {"name": field(NAME), ZONE: field(nullable(ZONE_NAME))}
HOST_FIELDS = {"host": field(text(255, 1), required=True)}
METADATA = mapping({}, extra=True) | {
    "propertyNames": {"minLength": 1, "maxLength": 255, "pattern": r"^[a-zA-Z0-9\-_:. ]+\Z"},
    "additionalProperties": nullable(text(255)),
}
METADATA_FIELDS = {"metadata": field(METADATA, required=True)}
VIEW_FIELDS = {"uuid": field({}, since("2.41"))}


@dataclass
class Shown:
    """An aggregate with its hosts."""

    aggregate: Aggregate
    hosts: list[Host]


def _read_members(ctx: Context, aggregate: Aggregate) -> list[Host]:
    statement = select(Host).join(AggregateHost, AggregateHost.host_id == Host.id)
    return list(ctx.session.scalars(statement.where(AggregateHost.aggregate_id == aggregate.id).order_by(Host.name)))


def _show(ctx: Context, aggregate: Aggregate) -> Shown:
    return Shown(aggregate, _read_members(ctx, aggregate))


def _find(ctx: Context, aggregate_id: str) -> Aggregate:
    row = ctx.session.get(Aggregate, int(aggregate_id)) if aggregate_id.isdigit() and len(aggregate_id) < 10 else None
    if row is None:
        raise NotFound(f"Aggregate {aggregate_id[:255]} could not be found.")
    return row


def _find_host(ctx: Context) -> Host:
    row = ctx.session.scalar(select(Host).where(Host.name == ctx.body["host"]).with_for_update())
    if row is None or "hypervisor" not in row.roles:
        raise NotFound(f"Compute host {ctx.body['host']} could not be found.")
    return row


def _check_name(ctx: Context, name: str, besides: int | None = None) -> None:
    found = ctx.session.scalar(select(Aggregate.id).where(Aggregate.name == name))
    if found is not None and found != besides:
        raise Conflict(f"Aggregate {name} already exists.")


def index(ctx: Context) -> list[Shown]:
    members: dict[int, list[Host]] = {}
    statement = select(AggregateHost.aggregate_id, Host).join(Host, Host.id == AggregateHost.host_id)
    for aggregate_id, host in ctx.session.execute(statement.order_by(Host.name)):
        members.setdefault(aggregate_id, []).append(host)
    rows = ctx.session.scalars(select(Aggregate).order_by(Aggregate.id))
    return [Shown(row, members.get(row.id, [])) for row in rows]


def show(ctx: Context, aggregate_id: str) -> Shown:
    return _show(ctx, _find(ctx, aggregate_id))


def create(ctx: Context) -> Shown:
    _check_name(ctx, ctx.body["name"])
    zone = ctx.body.get(ZONE)
    row = Aggregate(name=ctx.body["name"], metadata_={ZONE: zone} if zone else {})
    ctx.session.add(row)
    ctx.session.flush()
    return Shown(row, [])


def update(ctx: Context, aggregate_id: str) -> Shown:
    """A new name or zone; its hosts follow, unless guests are on them."""
    row, body = _find(ctx, aggregate_id), ctx.body
    if not body:
        raise BadRequest("Invalid input in aggregate: name or availability_zone is needed")
    if "name" in body:
        _check_name(ctx, body["name"], row.id)
        row.name = body["name"]
    if ZONE in body:
        _set_metadata(ctx, row, {ZONE: body[ZONE]})
    row.updated_at = now()
    return _show(ctx, row)


def delete(ctx: Context, aggregate_id: str) -> Reply:
    row = _find(ctx, aggregate_id)
    if _read_members(ctx, row):
        raise BadRequest(f"Cannot delete aggregate {row.id}. Reason: Host aggregate is not empty.")
    ctx.session.delete(row)
    return Reply("")


def _move(ctx: Context, host: Host, zone: str, why: str) -> None:
    """The host's zone; Conflict where guests of the other zone are on it."""
    if host.zone == zone:
        return
    guest = select(Server.id).where(Server.host_id == host.id, Server.gone_at.is_(None)).limit(1)
    if ctx.session.scalar(guest) is not None:
        raise Conflict(f"{why}. Reason: One or more hosts contain instances in this zone.")
    host.zone = zone
    touch(ctx.session, host.id, ctx.request_id)


def _read_other_zone(ctx: Context, host: Host, besides: Aggregate) -> str | None:
    """The zone that another aggregate puts the host in."""
    statement = select(Aggregate).join(AggregateHost, AggregateHost.aggregate_id == Aggregate.id)
    for row in ctx.session.scalars(statement.where(AggregateHost.host_id == host.id, Aggregate.id != besides.id)):
        if row.metadata_.get(ZONE):
            return row.metadata_[ZONE]
    return None


def add_host(ctx: Context, aggregate_id: str) -> Shown:
    row, host = _find(ctx, aggregate_id), _find_host(ctx)
    if ctx.session.get(AggregateHost, (row.id, host.id)) is not None:
        raise Conflict(f"Aggregate {row.id} already has host {host.name}.")
    zone, why = row.metadata_.get(ZONE), f"Cannot add host to aggregate {row.id}"
    other = _read_other_zone(ctx, host, row)
    if zone and other and other != zone:
        raise Conflict(f"{why}. Reason: Host {host.name} already in availability zone {other}.")
    if zone:
        _move(ctx, host, zone, why)
    ctx.session.add(AggregateHost(aggregate_id=row.id, host_id=host.id))
    row.updated_at = now()
    ctx.session.flush()
    return _show(ctx, row)


def remove_host(ctx: Context, aggregate_id: str) -> Shown:
    row, host = _find(ctx, aggregate_id), _find_host(ctx)
    if ctx.session.get(AggregateHost, (row.id, host.id)) is None:
        raise NotFound(f"Cannot remove host {host.name} in aggregate {row.id}: it is not in it.")
    if row.metadata_.get(ZONE):
        zone = _read_other_zone(ctx, host, row) or ctx.settings.compute.availability_zone
        _move(ctx, host, zone, f"Cannot remove host from aggregate {row.id}")
    ctx.session.execute(
        delete_rows(AggregateHost).where(AggregateHost.aggregate_id == row.id, AggregateHost.host_id == host.id)
    )
    row.updated_at = now()
    return _show(ctx, row)


def set_metadata(ctx: Context, aggregate_id: str) -> Shown:
    """Set keys; one that is null goes."""
    row = _find(ctx, aggregate_id)
    _set_metadata(ctx, row, ctx.body["metadata"])
    row.updated_at = now()
    return _show(ctx, row)


def _set_metadata(ctx: Context, row: Aggregate, given: dict) -> None:
    merged = {**row.metadata_, **given}
    if given.get(ZONE) == "":
        raise BadRequest(f"Cannot update aggregate {row.id}. Reason: Availability zone name must not be empty.")
    metadata = {name: value for name, value in merged.items() if value is not None}
    if metadata.get(ZONE) != row.metadata_.get(ZONE):
        why = f"Cannot update aggregate {row.id}"
        for host in _read_members(ctx, row):
            other = _read_other_zone(ctx, host, row)
            if metadata.get(ZONE) and other and other != metadata[ZONE]:
                raise Conflict(f"{why}. Reason: Host {host.name} already in availability zone {other}.")
            _move(ctx, host, metadata.get(ZONE) or other or ctx.settings.compute.availability_zone, why)
    row.metadata_ = metadata


def _show_time(value) -> str | None:
    return value.strftime("%Y-%m-%dT%H:%M:%S.%f") if value else None


def view(ctx: Context, shown: Shown) -> dict:
    row = shown.aggregate
    return view_created(ctx, shown) | {"hosts": [host.name for host in shown.hosts], "metadata": dict(row.metadata_)}


def view_created(ctx: Context, shown: Shown) -> dict:
    """A new one is answered without hosts and metadata."""
    row = shown.aggregate
    return {
        "id": row.id,
        "uuid": row.uuid,
        "name": row.name,
        "availability_zone": row.metadata_.get(ZONE),
        "created_at": _show_time(row.created_at),
        "updated_at": _show_time(row.updated_at),
        "deleted": False,
        "deleted_at": None,
    }


LIST = rule("compute:aggregates:index", ADMIN)
SHOW = rule("compute:aggregates:show", ADMIN)
WRITE = rule("compute:aggregates:write", ADMIN)
PATH = "/os-aggregates"
ONE = PATH + "/{aggregate_id}"
SHOWN = {"reply_key": "aggregate", "view_fields": VIEW_FIELDS}


def _action(name: str, fields: dict, handler) -> Route:
    return Route("POST", ONE + "/action", WRITE, fields, handler, view, action=name, **SHOWN)


ROUTES = [
    Route("GET", PATH, LIST, None, index, view, reply_key="aggregates", view_fields=VIEW_FIELDS),
    Route("POST", PATH, WRITE, FIELDS, create, view_created, key="aggregate", view_fields=VIEW_FIELDS),
    Route("GET", ONE, SHOW, None, show, view, **SHOWN),
    Route("PUT", ONE, WRITE, UPDATE_FIELDS, update, view, key="aggregate", view_fields=VIEW_FIELDS),
    Route("DELETE", ONE, WRITE, None, delete, None, 200),
    _action("add_host", HOST_FIELDS, add_host),
    _action("remove_host", HOST_FIELDS, remove_host),
    _action("set_metadata", METADATA_FIELDS, set_metadata),
]
