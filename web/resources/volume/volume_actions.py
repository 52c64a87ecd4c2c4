"""What may be asked of a volume by `POST /volumes/{id}/action`.

Source: Block Storage API reference, "Volume actions". Connecting is the attachments' business; the older actions
for that (os-attach, os-initialize_connection …) are not offered.
"""

from __future__ import annotations

from ...errors import BadRequest
from ...fields import BOOL, FALSE, METADATA, TRUE, field, nullable, one_of, text, whole
from ...http import Context
from ...models import now, touch
from ...policy import ADMIN, MEMBER, rule
from ...routes import Reply, Route
from ...volume_attachments import check_volume_quota, refresh_volume
from .volume_rows import find_volume, hold
from .volumes import delete_volume

PROTECTED = ("image_id", "image_name", "checksum", "size", "min_disk", "min_ram", "disk_format", "container_format")


def extend(ctx: Context, volume_id: str) -> None:
    """A larger size is wanted; from 3.42 on also while a guest uses the volume."""
    volume = hold(ctx, find_volume(ctx, volume_id))
    size = int(ctx.body["new_size"])
    usable = ("available", "in-use") if ctx.version >= (3, 42) else ("available",)
    if volume.status not in usable:
        raise BadRequest(
            f"Invalid volume: Volume {volume.id} status must be '{' or '.join(usable)}' to extend, "
            f"currently {volume.status}."
        )
    if size <= volume.size_gb:
        raise BadRequest(
            f"Invalid input received: New size for extend must be greater than current size. "
            f"(current: {volume.size_gb}, extended: {size})."
        )
    check_volume_quota(ctx.session, volume.project_id, "volumes", size - volume.size_gb, count=0)
    volume.size_gb, volume.updated_at = size, now()
    refresh_volume(ctx.session, volume)
    touch(ctx.session, volume.host_id, ctx.request_id)


def set_bootable(ctx: Context, volume_id: str) -> Reply:
    volume = find_volume(ctx, volume_id)
    volume.bootable = ctx.body["bootable"] in TRUE
    volume.updated_at = now()
    return Reply("")


def set_read_only(ctx: Context, volume_id: str) -> None:
    """What attachments from now on may do."""
    volume = hold(ctx, find_volume(ctx, volume_id))
    if volume.status != "available":
        raise BadRequest(f"Invalid volume: Volume {volume.id} must be available to update readonly flag.")
    volume.read_only = ctx.body["readonly"] not in FALSE
    volume.updated_at = now()


def reset_status(ctx: Context, volume_id: str) -> None:
    """Forget a fault: the status is computed, not set; what is really so shows again after the host's next look."""
    volume = hold(ctx, find_volume(ctx, volume_id))
    volume.fault_message = None
    volume.observed_failures = 0
    volume.updated_at = now()
    refresh_volume(ctx.session, volume)
    touch(ctx.session, volume.host_id, ctx.request_id)


def force_delete(ctx: Context, volume_id: str) -> None:
    delete_volume(ctx, hold(ctx, find_volume(ctx, volume_id)), force=True)


def set_image_metadata(ctx: Context, volume_id: str) -> Reply:
    volume = find_volume(ctx, volume_id)
    volume.image_metadata = {**volume.image_metadata, **ctx.body["metadata"]}
    return Reply({"metadata": dict(volume.image_metadata)})


def unset_image_metadata(ctx: Context, volume_id: str) -> Reply:
    volume = find_volume(ctx, volume_id)
    key = ctx.body["key"]
    if key in PROTECTED or key not in volume.image_metadata:
        raise BadRequest(f"Invalid input received: {key} is not among the volume's image metadata, or must stay")
    volume.image_metadata = {name: value for name, value in volume.image_metadata.items() if name != key}
    return Reply("")


def show_image_metadata(ctx: Context, volume_id: str) -> Reply:
    return Reply({"metadata": dict(find_volume(ctx, volume_id).image_metadata)})


EXTEND = rule("volume:volumes:extend", MEMBER)
UPDATE = rule("volume:volumes:update_flags", MEMBER)
RESET = rule("volume:volumes:reset_status", ADMIN)
FORCE = rule("volume:volumes:force_delete", ADMIN)


def _action(name: str, permission: str, fields: dict, handler, status: int = 202) -> Route:
    return Route("POST", "/volumes/{volume_id}/action", permission, fields, handler, None, status, action=name)


ROUTES = [
    _action("os-extend", EXTEND, {"new_size": field(whole(1), required=True)}, extend),
    _action("os-set_bootable", UPDATE, {"bootable": field(BOOL, required=True)}, set_bootable, 200),
    _action("os-update_readonly_flag", UPDATE, {"readonly": field(BOOL, required=True)}, set_read_only),
    _action(
        "os-reset_status",
        RESET,
        {
            "status": field(nullable(text(255))),
            "attach_status": field(nullable(one_of("attached", "detached"))),
            "migration_status": field(nullable(text(255))),
        },
        reset_status,
    ),
    _action("os-force_delete", FORCE, {}, force_delete),
    _action("os-set_image_metadata", UPDATE, {"metadata": field(METADATA, required=True)}, set_image_metadata, 200),
    _action("os-unset_image_metadata", UPDATE, {"key": field(text(255, 1), required=True)}, unset_image_metadata, 200),
    _action("os-show_image_metadata", UPDATE, {}, show_image_metadata, 200),
]
