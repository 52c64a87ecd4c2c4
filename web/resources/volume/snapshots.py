"""Snapshots of volumes. Source: Block Storage API reference, "Volume snapshots (snapshots)"."""

from __future__ import annotations

from sqlalchemy import select

from ...errors import BadRequest, NotFound
from ...fields import BOOL, METADATA, TEXT, TRUE, UUID, field, nullable, since, text
from ...http import Context
from ...models import Host, Snapshot, Volume, now, touch
from ...paging import Page, read_page
from ...policy import ADMIN, MEMBER, READER, rule
from ...routes import Reply, Route
from ...volume_attachments import check_volume_quota, create_snapshot, refresh_snapshot
from .volume_rows import find_snapshot, find_volume, hold, read_pool, show_time

NAME = nullable(text(255))
FIELDS = {
    "volume_id": field(UUID, required=True),
    "name": field(NAME),
    "display_name": field(NAME),
    "description": field(nullable(TEXT)),
    "display_description": field(nullable(TEXT)),
    "force": field(nullable(BOOL)),
    "metadata": field(nullable(METADATA)),
}
UPDATE_FIELDS = {name: FIELDS[name] for name in ("name", "display_name", "description", "display_description")}
SORT_COLUMNS = {
    "id": Snapshot.id,
    "name": Snapshot.name,
    "status": Snapshot.status,
    "created_at": Snapshot.created_at,
    "size": Snapshot.size_gb,
}
VIEW_FIELDS = {"user_id": field({}, since("3.41"))}


def _read_page(ctx: Context) -> Page:
    conditions = [Snapshot.gone_at.is_(None)]
    if not (ctx.is_admin and ctx.query.get("all_tenants") in TRUE):
        conditions.append(Snapshot.project_id == ctx.project_id)
    for name, column in (("name", Snapshot.name), ("status", Snapshot.status), ("volume_id", Snapshot.volume_id)):
        if name in ctx.query:
            conditions.append(column == ctx.query[name])
    return read_page(
        ctx.session,
        select(Snapshot).where(*conditions),
        ctx.query,
        columns=SORT_COLUMNS,
        identity=Snapshot.id,
        default=[("created_at", "desc")],
        maximum=ctx.settings.api.max_limit,
        offsets=True,
    )


def index(ctx: Context) -> Page:
    return _read_page(ctx)


def show(ctx: Context, snapshot_id: str) -> Snapshot:
    return find_snapshot(ctx, snapshot_id)


def create(ctx: Context) -> Snapshot:
    """Of a volume that nobody writes; of one in use only by force, and where its backend can do it in one moment."""
    body = ctx.body
    volume = hold(ctx, find_volume(ctx, body["volume_id"]))
    _check_volume(ctx, volume, body.get("force") in TRUE)
    check_volume_quota(ctx.session, ctx.project_id, "snapshots", volume.size_gb)
    return create_snapshot(
        ctx.session,
        volume,
        user_id=ctx.token.user_id,
        name=body.get("name", body.get("display_name")),
        description=body.get("description", body.get("display_description")),
        metadata=body.get("metadata"),
        request_id=ctx.request_id,
    )


def _check_volume(ctx: Context, volume: Volume, force: bool) -> None:
    if volume.status == "available":
        return
    if volume.status != "in-use" or not force:
        raise BadRequest(
            f"Invalid volume: Volume {volume.id} status must be available, but current status is: {volume.status}."
        )
    pool = read_pool(ctx.session.get(Host, volume.host_id))
    if not pool.get("snapshot_in_use"):
        raise BadRequest(
            f"Invalid volume: Volume {volume.id} is in use, and its backend ({pool.get('backend', 'unknown')}) cannot "
            "take a snapshot of one moment then; detach it first."
        )


def update(ctx: Context, snapshot_id: str) -> Snapshot:
    snapshot = find_snapshot(ctx, snapshot_id)
    body = ctx.body
    if not body:
        raise BadRequest("Invalid input in snapshot: at least one field is needed")
    snapshot.name = body.get("name", body.get("display_name", snapshot.name))
    snapshot.description = body.get("description", body.get("display_description", snapshot.description))
    snapshot.updated_at = now()
    return snapshot


def delete(ctx: Context, snapshot_id: str) -> None:
    """A tombstone until the storage host is seen without it."""
    snapshot = hold(ctx, find_snapshot(ctx, snapshot_id))
    waiting = ctx.session.scalar(
        select(Volume.id).where(
            Volume.snapshot_id == snapshot.id, Volume.built_at.is_(None), Volume.deleted_at.is_(None)
        )
    )
    if waiting is not None:
        raise BadRequest(f"Invalid snapshot: Snapshot {snapshot.id} is being copied into volume {waiting}.")
    snapshot.deleted_at = snapshot.deleted_at or now()
    snapshot.fault_message = None
    snapshot.observed_failures = 0
    if snapshot.host_id is None:
        snapshot.gone_at = now()
    refresh_snapshot(snapshot)
    touch(ctx.session, snapshot.host_id, ctx.request_id)


def reset_status(ctx: Context, snapshot_id: str) -> None:
    """Forget a fault; what is so shows again after the host's next look."""
    snapshot = hold(ctx, find_snapshot(ctx, snapshot_id))
    snapshot.fault_message = None
    snapshot.observed_failures = 0
    refresh_snapshot(snapshot)
    touch(ctx.session, snapshot.host_id, ctx.request_id)


def index_metadata(ctx: Context, snapshot_id: str) -> Reply:
    return Reply({"metadata": dict(find_snapshot(ctx, snapshot_id).metadata_)})


def add_metadata(ctx: Context, snapshot_id: str) -> Reply:
    snapshot = find_snapshot(ctx, snapshot_id)
    snapshot.metadata_ = {**snapshot.metadata_, **ctx.body["metadata"]}
    return Reply({"metadata": dict(snapshot.metadata_)})


def replace_metadata(ctx: Context, snapshot_id: str) -> Reply:
    snapshot = find_snapshot(ctx, snapshot_id)
    snapshot.metadata_ = dict(ctx.body["metadata"])
    return Reply({"metadata": dict(snapshot.metadata_)})


def delete_metadata(ctx: Context, snapshot_id: str, key: str) -> Reply:
    snapshot = find_snapshot(ctx, snapshot_id)
    if key not in snapshot.metadata_:
        raise NotFound(f"Snapshot {snapshot_id} has no metadata with key {key[:255]}.")
    snapshot.metadata_ = {name: value for name, value in snapshot.metadata_.items() if name != key}
    return Reply("")


def view_listed(ctx: Context, snapshot: Snapshot) -> dict:
    return {
        "id": snapshot.id,
        "name": snapshot.name,
        "description": snapshot.description,
        "volume_id": snapshot.volume_id,
        "status": snapshot.status,
        "size": snapshot.size_gb,
        "created_at": show_time(snapshot.created_at),
        "updated_at": show_time(snapshot.updated_at),
        "metadata": dict(snapshot.metadata_),
        "user_id": snapshot.user_id,
    }


def view_shown(ctx: Context, snapshot: Snapshot) -> dict:
    progress = 1.0 if snapshot.built_at else snapshot.observed_progress or 0.0
    return {
        **view_listed(ctx, snapshot),
        "os-extended-snapshot-attributes:project_id": snapshot.project_id,
        "os-extended-snapshot-attributes:progress": f"{int(progress * 100)}%",
    }


LIST = rule("volume:snapshots:index", READER)
SHOW = rule("volume:snapshots:show", READER)
CREATE = rule("volume:snapshots:create", MEMBER)
UPDATE = rule("volume:snapshots:update", MEMBER)
DELETE = rule("volume:snapshots:delete", MEMBER)
RESET = rule("volume:snapshots:reset_status", ADMIN)
META = {"metadata": field(METADATA, required=True)}
ONE = "/snapshots/{snapshot_id}"
SHOWN = {"key": "snapshot", "view_fields": VIEW_FIELDS}
ROUTES = [
    Route("GET", "/snapshots", LIST, None, index, view_listed, key="snapshots", view_fields=VIEW_FIELDS),
    Route("GET", "/snapshots/detail", LIST, None, index, view_shown, key="snapshots", view_fields=VIEW_FIELDS),
    Route("POST", "/snapshots", CREATE, FIELDS, create, view_listed, 202, **SHOWN),
    Route("GET", ONE, SHOW, None, show, view_shown, **SHOWN),
    Route("PUT", ONE, UPDATE, UPDATE_FIELDS, update, view_listed, **SHOWN),
    Route("DELETE", ONE, DELETE, None, delete, None, 202),
    Route("GET", ONE + "/metadata", SHOW, None, index_metadata),
    Route("POST", ONE + "/metadata", UPDATE, META, add_metadata),
    Route("PUT", ONE + "/metadata", UPDATE, META, replace_metadata),
    Route("DELETE", ONE + "/metadata/{key}", UPDATE, None, delete_metadata, None, 200),
    Route(
        "POST", ONE + "/action", RESET, {"status": field(text(255))}, reset_status, None, 202, action="os-reset_status"
    ),
]
