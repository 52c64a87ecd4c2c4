"""Volume and snapshot rows as handlers need them: found, held, and shown. Next room: `web/volume_attachments.py`."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select

from ...errors import NotFound
from ...http import Context
from ...models import Host, Snapshot, Volume, VolumeType, VolumeTypeAccess

HOST_POOL = "{host}@{backend}#{backend}"


def show_time(value: datetime | None) -> str | None:
    """A time as this API writes it."""
    return value.strftime("%Y-%m-%dT%H:%M:%S.%f") if value else None


def _find(ctx: Context, model, what: str, object_id: str):
    row = ctx.session.get(model, object_id)
    if row is None or row.gone_at is not None or (row.project_id != ctx.token.project_id and not ctx.is_admin):
        raise NotFound(f"{what} {object_id[:255]} could not be found.")
    return row


def find_volume(ctx: Context, volume_id: str) -> Volume:
    """The project's volume (an admin's: any); NotFound where it is another's, or gone."""
    return _find(ctx, Volume, "Volume", volume_id)


def find_snapshot(ctx: Context, snapshot_id: str) -> Snapshot:
    """The project's snapshot, likewise."""
    return _find(ctx, Snapshot, "Snapshot", snapshot_id)


def hold(ctx: Context, row):
    """The same row, held until the transaction ends: its host first, as the loop does."""
    if not ctx.database.is_sqlite:
        if row.host_id is not None:
            ctx.session.execute(select(Host.id).where(Host.id == row.host_id).with_for_update())
        ctx.session.refresh(row, with_for_update=True)
        if row.gone_at is not None:
            raise NotFound(f"{type(row).__name__} {row.id} could not be found.")
    return row


def find_type(ctx: Context, given: str) -> VolumeType:
    """A volume type by id or name that the project may use; NotFound elsewise."""
    row = ctx.session.get(VolumeType, given) or ctx.session.scalar(select(VolumeType).where(VolumeType.name == given))
    if row is None or not may_use(ctx, row):
        raise NotFound(f"Volume type {given[:255]} could not be found.")
    return row


def may_use(ctx: Context, row: VolumeType) -> bool:
    """Whether the caller's project may use the type."""
    if row.is_public or ctx.is_admin:
        return True
    return ctx.session.get(VolumeTypeAccess, (row.id, ctx.token.project_id or "")) is not None


def read_hosts(ctx: Context, rows) -> dict[str, Host]:
    """{host id: host} of those that hold the rows, in one query."""
    ids = {row.host_id for row in rows if row.host_id is not None}
    return {host.id: host for host in ctx.session.scalars(select(Host).where(Host.id.in_(ids)))} if ids else {}


def read_pool(host: Host | None) -> dict:
    """What was last seen of a storage host's pool."""
    observed = (host.observed or {}) if host is not None else {}
    return (observed.get("host") or {}).get("storage") or {}


def read_backend(host: Host) -> str:
    """The name of a storage host's backend, as last seen."""
    return read_pool(host).get("backend", "file")


def build_pool_name(host: Host | None) -> str | None:
    """A volume's place as admins see it: host@backend#pool."""
    return HOST_POOL.format(host=host.name, backend=read_backend(host)) if host is not None else None
