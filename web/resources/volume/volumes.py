"""Volumes: list, show, create, update, delete. Writes what is wanted; storage hosts make it so.

Source: Block Storage API reference, "Volumes (volumes)". What compute does with volumes is in
`web/resources/compute/`; actions are in `volume_actions.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import func, select

from ...errors import BadRequest, Forbidden
from ...fields import (
    BOOL,
    FALSE,
    METADATA,
    NULL,
    OBJECT,
    TEXT,
    TRUE,
    UUID,
    field,
    nullable,
    text,
    whole,
)
from ...http import Context
from ...models import Host, Image, ImageMember, Snapshot, Volume, VolumeAttachment, VolumeType, now
from ...paging import Page, read_page
from ...policy import MEMBER, READER, rule
from ...reconcile.volume_status import is_connected
from ...routes import Reply, Route
from ...volume_attachments import (
    create_volume,
    read_attachments,
    refresh_snapshot,
    request_volume_deletion,
)
from .volume_rows import build_pool_name, find_snapshot, find_type, find_volume, hold, read_hosts, read_pool, show_time

VOLUME_NAME = nullable(text(255))
FIELDS = {
    "size": field(nullable(whole(1))),
    "name": field(VOLUME_NAME),
    "display_name": field(VOLUME_NAME),
    "description": field(nullable(TEXT)),
    "display_description": field(nullable(TEXT)),
    "availability_zone": field(nullable(text(255))),
    "volume_type": field(nullable(text(255))),
    "imageRef": field({"anyOf": [UUID, NULL]}),
    "image_id": field({"anyOf": [UUID, NULL]}),
    "snapshot_id": field(nullable(UUID)),
    "source_volid": field(nullable(UUID)),
    "metadata": field(nullable(METADATA)),
    "multiattach": field(nullable(BOOL)),
    "consistencygroup_id": field(NULL),
    "source_replica": field(NULL),
    "backup_id": field(NULL),
    "group_id": field(NULL),
    "encryption_key_id": field(NULL),
    "status": field({}),
    "user_id": field({}),
    "project_id": field({}),
    "attach_status": field({}),
}
UPDATE_FIELDS = {
    "name": field(VOLUME_NAME),
    "display_name": field(VOLUME_NAME),
    "description": field(nullable(TEXT)),
    "display_description": field(nullable(TEXT)),
    "metadata": field(nullable(METADATA)),
}
OUTER = {"OS-SCH-HNT:scheduler_hints": field(OBJECT)}
SORT_COLUMNS = {
    "id": Volume.id,
    "name": Volume.name,
    "display_name": Volume.name,
    "status": Volume.status,
    "size": Volume.size_gb,
    "created_at": Volume.created_at,
    "updated_at": Volume.updated_at,
    "bootable": Volume.bootable,
    "availability_zone": Volume.availability_zone,
}
FILTERS = {
    "name": Volume.name,
    "status": Volume.status,
    "availability_zone": Volume.availability_zone,
    "snapshot_id": Volume.snapshot_id,
    "source_volid": Volume.source_volume_id,
    "user_id": Volume.user_id,
}


@dataclass
class Shown:
    """A volume with what its view needs."""

    volume: Volume
    attachments: list[VolumeAttachment]
    host: Host | None
    type_name: str | None


def read_shown(ctx: Context, volumes: list[Volume]) -> list[Shown]:
    """The volumes with their attachments, hosts and types, in one query each."""
    ids = [volume.id for volume in volumes]
    attachments: dict[str, list] = {}
    if ids:
        held = (VolumeAttachment.volume_id.in_(ids), ~VolumeAttachment.released)
        statement = select(VolumeAttachment).where(*held)
        for one in ctx.session.scalars(statement.order_by(VolumeAttachment.created_at)):
            attachments.setdefault(one.volume_id, []).append(one)
    hosts = read_hosts(ctx, volumes)
    types = dict(ctx.session.execute(select(VolumeType.id, VolumeType.name)).all()) if ids else {}
    return [
        Shown(volume, attachments.get(volume.id, []), hosts.get(volume.host_id), types.get(volume.volume_type_id))
        for volume in volumes
    ]


def _read_flag(ctx: Context, name: str) -> bool | None:
    value = ctx.query.get(name)
    if value is None:
        return None
    if value not in TRUE and value not in FALSE:
        raise BadRequest(f"Invalid input for query parameter {name}. Value: {value[:100]}. It is no boolean.")
    return value in TRUE


def _build_conditions(ctx: Context) -> list:
    conditions = [Volume.gone_at.is_(None)]
    everyone = ctx.is_admin and _read_flag(ctx, "all_tenants")
    if everyone:
        if ctx.query.get("project_id"):
            conditions.append(Volume.project_id == ctx.query["project_id"])
    else:
        conditions.append(Volume.project_id == ctx.project_id)
    for name, column in FILTERS.items():
        if name in ctx.query:
            conditions.append(column == ctx.query[name])
    bootable = _read_flag(ctx, "bootable")
    if bootable is not None:
        conditions.append(Volume.bootable == bootable)
    return conditions


def _read_page(ctx: Context) -> Page:
    return read_page(
        ctx.session,
        select(Volume).where(*_build_conditions(ctx)),
        ctx.query,
        columns=SORT_COLUMNS,
        identity=Volume.id,
        default=[("created_at", "desc")],
        maximum=ctx.settings.api.max_limit,
        offsets=True,
    )


def index(ctx: Context) -> Page:
    return _read_page(ctx)


def detail(ctx: Context) -> Page:
    page = _read_page(ctx)
    page.rows = read_shown(ctx, page.rows)
    return page


def show(ctx: Context, volume_id: str) -> Shown:
    return read_shown(ctx, [find_volume(ctx, volume_id)])[0]


def summary(ctx: Context) -> Reply:
    """How many volumes of what size in all."""
    count, size = ctx.session.execute(
        select(func.count(), func.coalesce(func.sum(Volume.size_gb), 0)).where(*_build_conditions(ctx))
    ).one()
    return Reply({"volume-summary": {"total_count": count, "total_size": int(size), "metadata": {}}})


def create(ctx: Context) -> Reply:
    """A volume that is wanted; of nothing, an image, a snapshot or another volume."""
    body = ctx.body
    if body.get("multiattach") in TRUE:
        raise BadRequest("Invalid input received: multiattach volumes are not offered.")
    image = _find_image(ctx, body.get("imageRef") or body.get("image_id"))
    snapshot = find_snapshot(ctx, body["snapshot_id"]) if body.get("snapshot_id") else None
    source = find_volume(ctx, body["source_volid"]) if body.get("source_volid") else None
    if sum(one is not None for one in (image, snapshot, source)) > 1:
        raise BadRequest("Invalid input received: give one of imageRef, snapshot_id and source_volid")
    if snapshot is not None and snapshot.status != "available":
        raise BadRequest(f"Invalid snapshot: Originating snapshot status must be available, is {snapshot.status}")
    if source is not None:
        _check_source(ctx, source)
    size = body.get("size")
    if size is None:
        if snapshot is None and source is None:
            raise BadRequest("Invalid input received: Volume size must be specified as an integer greater than zero.")
        size = (snapshot or source).size_gb
    name = body.get("volume_type")
    zone = body.get("availability_zone") or None
    if zone is not None and ctx.session.scalar(select(Host.id).where(Host.zone == zone)) is None:
        raise BadRequest(f"Invalid input received: Availability zone '{zone[:255]}' is invalid.")
    volume = create_volume(
        ctx.session,
        ctx.settings,
        project_id=ctx.project_id,
        user_id=ctx.token.user_id,
        size_gb=int(size),
        name=body.get("name", body.get("display_name")),
        description=body.get("description", body.get("display_description")),
        image=image,
        snapshot=snapshot,
        source_volume=source,
        volume_type=find_type(ctx, name) if name else read_default_type(ctx),
        availability_zone=zone,
        metadata=body.get("metadata"),
        request_id=ctx.request_id,
    )
    return Reply({"volume": view_changed(ctx, read_shown(ctx, [volume])[0])}, 202)


def _check_source(ctx: Context, source: Volume) -> None:
    """A volume may be copied where nobody writes to it, or where its backend takes copies of one moment."""
    is_clonable = read_pool(ctx.session.get(Host, source.host_id)).get("snapshot_in_use") if source.host_id else False
    if source.status != "available" and not (source.status == "in-use" and is_clonable):
        raise BadRequest(f"Invalid volume: Source volume must be available to be copied, is {source.status}")


def read_default_type(ctx: Context) -> VolumeType | None:
    """The type that bootstrap made; none where it was removed."""
    return ctx.session.scalar(select(VolumeType).where(VolumeType.name == "__DEFAULT__"))


def _find_image(ctx: Context, image_id: str | None) -> Image | None:
    if not image_id:
        return None
    image = ctx.session.get(Image, image_id)
    project = ctx.token.project_id
    shared = image is not None and (
        image.visibility in ("public", "community")
        or image.project_id == project
        or ctx.is_admin
        or ctx.session.get(ImageMember, (image.id, project or "")) is not None
    )
    if not shared or image.deleted_at is not None:
        raise BadRequest("Invalid image identifier or unable to access requested image.")
    if image.status != "active":
        raise BadRequest(f"Invalid input received: Image {image.id} is not active.")
    if image.size == 0:
        raise BadRequest(f"Invalid input received: Image {image.id} has no bytes: it is of snapshots of volumes.")
    return image


def update(ctx: Context, volume_id: str) -> Shown:
    volume = find_volume(ctx, volume_id)
    body = ctx.body
    if not body:
        raise BadRequest("Invalid input in volume: at least one field is needed")
    volume.name = body.get("name", body.get("display_name", volume.name))
    volume.description = body.get("description", body.get("display_description", volume.description))
    if body.get("metadata") is not None:
        volume.metadata_ = dict(body["metadata"])
    volume.updated_at = now()
    return read_shown(ctx, [volume])[0]


def delete(ctx: Context, volume_id: str) -> None:
    """A tombstone until the storage host is seen without it; with ``cascade`` its snapshots go first."""
    volume = hold(ctx, find_volume(ctx, volume_id))
    delete_volume(ctx, volume, bool(_read_flag(ctx, "cascade")), bool(_read_flag(ctx, "force")))


def delete_volume(ctx: Context, volume: Volume, cascade: bool = False, force: bool = False) -> None:
    """As `delete`; asked for twice it is one deletion."""
    if force and not ctx.is_admin:
        raise Forbidden("Policy doesn't allow volume:force_delete to be performed.")
    if volume.deleted_at is None or volume.fault_message is not None:
        states = ("available", "error", "error_deleting", "error_extending", "creating", "downloading")
        if read_attachments(ctx.session, volume.id) or (volume.status not in states and not force):
            raise BadRequest(
                "Invalid volume: Volume status must be available or error or error_restoring or error_extending or "
                "error_managing and must not be migrating, attached, belong to a group, have snapshots, awaiting a "
                f"transfer, or be disassociated from snapshots after volume transfer; it is {volume.status}."
            )
    snapshots = ctx.session.scalars(
        select(Snapshot).where(Snapshot.volume_id == volume.id, Snapshot.gone_at.is_(None))
    ).all()
    if snapshots and not cascade:
        raise BadRequest(f"Invalid volume: Volume {volume.id} still has {len(snapshots)} dependent snapshots.")
    waiting = ctx.session.scalar(
        select(Volume.id).where(
            Volume.source_volume_id == volume.id, Volume.built_at.is_(None), Volume.deleted_at.is_(None)
        )
    )
    if waiting is not None:
        raise BadRequest(f"Invalid volume: Volume {volume.id} is being copied into volume {waiting}.")
    for snapshot in snapshots:
        snapshot.deleted_at = snapshot.deleted_at or now()
        refresh_snapshot(snapshot)
    request_volume_deletion(ctx.session, volume, ctx.request_id)


def _build_links(ctx: Context, volume: Volume) -> list[dict]:
    path = f"/{ctx.token.project_id}/volumes/{volume.id}"
    return [
        {"rel": "self", "href": ctx.url(path)},
        {"rel": "bookmark", "href": ctx.url(path, versioned=False)},
    ]


def view_listed(ctx: Context, volume: Volume) -> dict:
    return {"id": volume.id, "name": volume.name, "links": _build_links(ctx, volume)}


def view_shown(ctx: Context, shown: Shown) -> dict:
    volume = shown.volume
    view = {
        "id": volume.id,
        "status": volume.status,
        "size": volume.size_gb,
        "availability_zone": shown.host.zone if shown.host else volume.availability_zone,
        "created_at": show_time(volume.created_at),
        "updated_at": show_time(volume.updated_at),
        "name": volume.name,
        "description": volume.description,
        "volume_type": shown.type_name,
        "snapshot_id": volume.snapshot_id,
        "source_volid": volume.source_volume_id,
        "metadata": {**volume.metadata_, **({"readonly": "True"} if volume.read_only else {})},
        "links": _build_links(ctx, volume),
        "user_id": volume.user_id,
        "bootable": "true" if volume.bootable else "false",
        "encrypted": False,
        "replication_status": None,
        "consistencygroup_id": None,
        "multiattach": False,
        "migration_status": None,
        "attachments": [_view_attachment(one, shown) for one in shown.attachments if is_connected(one)],
        "os-vol-tenant-attr:tenant_id": volume.project_id,
    }
    if volume.image_metadata:
        view["volume_image_metadata"] = dict(volume.image_metadata)
    if ctx.is_admin:
        view["os-vol-host-attr:host"] = build_pool_name(shown.host)
        view["os-vol-mig-status-attr:migstat"] = None
        view["os-vol-mig-status-attr:name_id"] = None
    return view


def view_changed(ctx: Context, shown: Shown) -> dict:
    """What a request that makes or changes a volume answers: without what only showing one tells."""
    view = view_shown(ctx, shown)
    return {name: value for name, value in view.items() if not name.startswith(("os-vol-", "volume_image_metadata"))}


def _view_attachment(one: VolumeAttachment, shown: Shown) -> dict:
    return {
        "id": shown.volume.id,
        "attachment_id": one.id,
        "volume_id": shown.volume.id,
        "server_id": one.server_id,
        "host_name": (one.connector or {}).get("host"),
        "device": f"/dev/{one.device}" if one.device else None,
        "attached_at": show_time(one.attached_at),
    }


LIST = rule("volume:volumes:index", READER)
SHOW = rule("volume:volumes:show", READER)
CREATE = rule("volume:volumes:create", MEMBER)
UPDATE = rule("volume:volumes:update", MEMBER)
DELETE = rule("volume:volumes:delete", MEMBER)
ONE = "/volumes/{volume_id}"
ROUTES = [
    Route("GET", "/volumes", LIST, None, index, view_listed, key="volumes"),
    Route("GET", "/volumes/detail", LIST, None, detail, view_shown, key="volumes"),
    Route("GET", "/volumes/summary", LIST, None, summary, since="3.12"),
    Route("POST", "/volumes", CREATE, FIELDS, create, None, 202, key="volume", outer=OUTER),
    Route("GET", ONE, SHOW, None, show, view_shown, key="volume"),
    Route("PUT", ONE, UPDATE, UPDATE_FIELDS, update, view_changed, key="volume"),
    Route("DELETE", ONE, DELETE, None, delete, None, 202),
]
