"""Images and backups of servers: an image without bytes at once, which the server's host then makes of its disk.

Source: Compute API reference, "Create Image (createImage Action)" and "Create Server Back Up (createBackup Action)".
Of a guest whose root disk is a volume it is snapshots of its volumes (`volume_images.py`). Next rooms:
`web/server_images.py`, `web/reconcile/status.py`.
"""

from __future__ import annotations

from sqlalchemy import select

from ...errors import BadRequest
from ...fields import METADATA, NAME, field, text, whole
from ...http import Context
from ...image_quotas import check_image_quota
from ...models import Image, Server, Volume, VolumeAttachment, new_uuid
from ...policy import MEMBER, rule
from ...routes import Reply, Route
from ...server_images import begin_server_image
from .server_requests import check_metadata, invalid
from .server_rows import check_placed, find_server, find_server_to_change, mark_changed, record_action
from .volume_images import NOT_PROPERTIES, TASK, build_image, check_allowed_of_volumes, take_snapshots

IMAGE_FIELDS = {"name": field(NAME, required=True), "metadata": field(METADATA)}
BACKUP_FIELDS = {
    **IMAGE_FIELDS,
    "backup_type": field(text(255), required=True),
    "rotation": field(whole(0), required=True),
}
# What an image has besides properties: no property is called so.
ATTRIBUTES = {column.key for column in Image.__table__.columns} | {
    "owner",
    "self",
    "file",
    "schema",
    "locations",
    "stores",
}
NOT_INHERITED = (
    "image_type", "image_location", "image_state", "instance_uuid", "base_image_ref", "backup_type", "owner_id",
    "user_id", "block_device_mapping", "bdm_v2", "root_device_name", "cache_in_nova",
)  # fmt: skip
MOST_PROPERTIES = 128


def read_root_volume(ctx: Context, server: Server) -> Volume | None:
    """The volume that is the guest's root disk; None where that is a disk of its host."""
    root = select(VolumeAttachment.volume_id).where(
        VolumeAttachment.server_id == server.id, VolumeAttachment.boot_index == 0
    )
    return ctx.session.scalar(select(Volume).where(Volume.id.in_(root)).limit(1))


def is_volume_backed(ctx: Context, server: Server) -> bool:
    """Whether the guest's root disk is a volume."""
    return read_root_volume(ctx, server) is not None


def _find(ctx: Context, server_id: str, action: str) -> Server:
    """The server; the project's row is held before the host's, as whoever places guests does it."""
    find_server(ctx, server_id)
    check_image_quota(ctx.session, ctx.project_id)
    return find_server_to_change(ctx, server_id, action)


def create_image(ctx: Context, server_id: str) -> str:
    """The id of an image that will be active once the host has sent the guest's disk."""
    server = _find(ctx, server_id, "create_image")
    if is_volume_backed(ctx, server):
        return _create_of_volumes(ctx, server)
    return _begin(ctx, server, "createImage", {"image_type": "snapshot"})


def create_image_counted(ctx: Context, server_id: str) -> str:
    """As `create_image`, with the metadata counted as a server's is (until 2.38)."""
    check_metadata(ctx, ctx.body.get("metadata", {}))
    return create_image(ctx, server_id)


def create_backup(ctx: Context, server_id: str) -> str:
    """The same; once it is active, the newest ``rotation`` of the server's backups of its type stay (0: none)."""
    server = _find(ctx, server_id, "create_backup")
    if is_volume_backed(ctx, server):
        raise BadRequest("Backup is not supported for volume-backed instances.")
    kind, rotation = ctx.body["backup_type"], ctx.body["rotation"]
    return _begin(ctx, server, "createBackup", {"image_type": "backup", "backup_type": kind}, kind, rotation)


def create_backup_counted(ctx: Context, server_id: str) -> str:
    check_metadata(ctx, ctx.body.get("metadata", {}))
    return create_backup(ctx, server_id)


def _create_of_volumes(ctx: Context, server: Server) -> str:
    """The id of an image without bytes, of snapshots of the server's volumes."""
    check_allowed_of_volumes(ctx)
    check_placed(server)
    kept = {name: value for name, value in (server.image_properties or {}).items() if name not in NOT_PROPERTIES}
    base = _read_root_metadata(ctx, server)
    given, marks = ctx.body.get("metadata", {}), {"image_type": "snapshot"}
    properties = _build_properties(ctx, server, kept, str(base.get("image_id", "")), ctx.project_id, given, marks)
    mapping = take_snapshots(ctx, server, ctx.body["name"])
    image = build_image(ctx, ctx.body["name"], properties, mapping, str(base.get("min_ram") or 0))
    ctx.session.add(image)
    server.image_task = TASK
    record_action(ctx, server, "createImage")
    mark_changed(ctx, server)
    return image.id


def _begin(ctx: Context, server: Server, action: str, marks: dict, backup_type=None, rotation=None) -> str:
    check_placed(server)
    image = build_image_of(ctx, server, ctx.body["name"], ctx.project_id, ctx.body.get("metadata", {}), marks)
    begin_server_image(ctx.session, server, image, backup_type, rotation)
    record_action(ctx, server, action)
    mark_changed(ctx, server)
    return image.id


def build_image_of(ctx: Context, server: Server, name: str, project_id: str, given: dict, marks: dict) -> Image:
    """The row of an image that is to be made of the server's disk; without bytes."""
    base = ctx.session.get(Image, server.image_id) if server.image_id else None
    inherited, base_id = base.properties if base else {}, server.image_id or ""
    return Image(
        id=new_uuid(),
        project_id=project_id,
        name=name,
        visibility="private",
        disk_format="qcow2",
        container_format="bare",
        min_disk=max(base.min_disk if base else 0, server.flavor["disk_gb"]),
        min_ram=base.min_ram if base else 0,
        properties=_build_properties(ctx, server, inherited, base_id, project_id, given, marks),
    )


def _read_root_metadata(ctx: Context, server: Server) -> dict:
    """What the server's root volume has from the image that it was once copied from."""
    found = (
        select(Volume.image_metadata)
        .join(VolumeAttachment, VolumeAttachment.volume_id == Volume.id)
        .where(VolumeAttachment.server_id == server.id, VolumeAttachment.boot_index == 0)
    )
    return ctx.session.scalar(found.limit(1)) or {}


def _build_properties(
    ctx: Context, server: Server, base: dict, base_id: str, project_id: str, given: dict, marks: dict
) -> dict:
    """The properties of the new image: its base's, its kind, then those that were ``given``, then what it is of."""
    for name in given:
        if name in ATTRIBUTES or name.startswith("os_glance_"):
            raise invalid("metadata", name, "An image has an attribute of this name.")
    inherited = {name: value for name, value in base.items() if name not in NOT_INHERITED}
    own = {
        "instance_uuid": server.id,
        "base_image_ref": base_id,
        "image_location": "snapshot",
        "owner_id": project_id,
        "user_id": ctx.token.user_id,
    }
    properties = {**inherited, **marks, **given, **own}
    if len(properties) > MOST_PROPERTIES:
        raise invalid("metadata", len(given), f"An image has at most {MOST_PROPERTIES} properties.")
    return properties


def view_id(ctx: Context, image_id: str) -> dict:
    return {"image_id": image_id}


def _locate(create):
    """The handler whose answer is the image's address in a header (until 2.44)."""

    def handle(ctx: Context, server_id: str) -> Reply:
        address = ctx.url(f"/images/{create(ctx, server_id)}", "image")
        return Reply(None, 202, {} if ctx.body.get("rotation") == 0 else {"Location": address})

    return handle


PATH = "/servers/{server_id}/action"
CREATE_IMAGE = rule("compute:servers:create_image", MEMBER)
CREATE_BACKUP = rule("compute:servers:create_backup", MEMBER)


def _build_routes(action: str, permission: str, fields: dict, counted, create) -> list[Route]:
    located = (counted, "2.1", "2.38"), (create, "2.39", "2.44")
    routes = [
        Route("POST", PATH, permission, fields, _locate(one), None, 202, action=action, since=since, until=until)
        for one, since, until in located
    ]
    return [*routes, Route("POST", PATH, permission, fields, create, view_id, 202, action=action, since="2.45")]


ROUTES = [
    *_build_routes("createImage", CREATE_IMAGE, IMAGE_FIELDS, create_image_counted, create_image),
    *_build_routes("createBackup", CREATE_BACKUP, BACKUP_FIELDS, create_backup_counted, create_backup),
]
