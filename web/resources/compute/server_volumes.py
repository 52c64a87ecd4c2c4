"""Volumes of a server: attached, shown, let go. Rows say what is wanted; two hosts make it so, in order.

Source: Compute API reference, "Servers with volume attachments (os-volume_attachments)". The swap of one volume
for another is not offered. Next room: `web/volume_attachments.py`.
"""

from __future__ import annotations

import re
import string

from sqlalchemy import select

from ...errors import BadRequest, Conflict, NotFound
from ...fields import BOOL, TRUE, UUID, field, nullable, since, text
from ...http import Context
from ...models import Host, Server, Volume, VolumeAttachment, touch
from ...models.hardware import read_devices
from ...policy import MEMBER, READER, rule
from ...reconcile.status import SHELVED
from ...routes import Route
from ...volume_attachments import request_detach, reserve_attachment
from .device_tags import TAG, check_tag_free
from .server_rows import check_placed, find_server, find_server_to_change, mark_changed, record_action

FIELDS = {
    "volumeId": field(UUID, required=True),
    "device": field(nullable({"type": "string", "pattern": r"^(/dev/)?[a-z]{2,3}[a-z0-9]{0,3}\Z"})),
    "tag": field(TAG, since("2.49")),
    "delete_on_termination": field(BOOL, since("2.79")),
}
UPDATE_FIELDS = {
    "volumeId": field(UUID, required=True),
    "device": field(nullable(text(255))),
    "serverId": field(UUID),
    "id": field(UUID),
    "tag": field(nullable(TAG)),
    "delete_on_termination": field(BOOL),
}
LETTERS = string.ascii_lowercase[1:]  # vda is the root disk


def read_server_attachments(ctx: Context, server: Server, ending: bool = True) -> list[VolumeAttachment]:
    """The server's attachments, the oldest first; without ``ending`` only those that are still wanted."""
    statement = select(VolumeAttachment).where(VolumeAttachment.server_id == server.id)
    if not ending:
        statement = statement.where(VolumeAttachment.deleted_at.is_(None))
    return list(ctx.session.scalars(statement.order_by(VolumeAttachment.created_at, VolumeAttachment.id)))


def choose_device(given: str | None, taken: set[str]) -> str:
    """The guest's disk for a volume: the one asked for where it is free and can be, else the next free one."""
    name = (given or "").removeprefix("/dev/")
    if re.fullmatch(r"vd[b-z]", name):
        if name in taken:
            raise Conflict(f"The supplied device path (/dev/{name}) is in use.")
        return name
    for letter in LETTERS:
        if f"vd{letter}" not in taken:
            return f"vd{letter}"
    raise BadRequest("The maximum allowed number of disk devices (26) of a single instance has been exceeded.")


def find_usable_volume(ctx: Context, volume_id: str) -> Volume:
    """The project's volume, its row held until the transaction ends; NotFound elsewise."""
    volume = ctx.session.get(Volume, volume_id)
    seen = volume is not None and volume.gone_at is None
    if not seen or (volume.project_id != ctx.token.project_id and not ctx.is_admin):
        raise NotFound(f"Volume {volume_id} could not be found.")
    return hold_volume(ctx, volume)


def hold_volume(ctx: Context, volume: Volume) -> Volume:
    """The volume, its row held until the transaction ends."""
    if not ctx.database.is_sqlite:
        if volume.host_id is not None:
            ctx.session.execute(select(Host.id).where(Host.id == volume.host_id).with_for_update())
        ctx.session.refresh(volume, with_for_update=True)
    return volume


def index(ctx: Context, server_id: str) -> list[VolumeAttachment]:
    return read_server_attachments(ctx, find_server(ctx, server_id))


def _find(ctx: Context, server: Server, volume_id: str) -> VolumeAttachment:
    for attachment in read_server_attachments(ctx, server):
        if attachment.volume_id == volume_id:
            return attachment
    raise NotFound(f"volume_id not found: {volume_id}")


def show(ctx: Context, server_id: str, volume_id: str) -> VolumeAttachment:
    return _find(ctx, find_server(ctx, server_id), volume_id)


def create(ctx: Context, server_id: str) -> VolumeAttachment:
    """The volume is wanted in the guest: its storage host opens a target, then its own host plugs it in."""
    body = ctx.body
    server = find_server_to_change(ctx, server_id, "attach_volume")
    _check_shelved(ctx, server, "attach_volume")
    check_placed(server)
    volume = find_usable_volume(ctx, body["volumeId"])
    held = read_server_attachments(ctx, server)
    if any(one.volume_id == volume.id for one in held):
        raise BadRequest(f"Invalid volume: volume {volume.id} already attached to instance {server.id}")
    check_tag_free(ctx, server, body.get("tag"))
    attachment = reserve_attachment(
        ctx.session,
        volume,
        server_id=server.id,
        device=choose_device(body.get("device"), {one.device for one in held} | set(read_devices(server).values())),
        delete_with_server=body.get("delete_on_termination") in TRUE,
        tag=body.get("tag"),
        wanted=server.host_id is not None,  # of a server that is on no host it is held until it is unshelved
        completed=server.host_id is None,  # in use, as in the reference, although nobody can use it yet
        request_id=ctx.request_id,
    )
    record_action(ctx, server, "attach_volume", finished=server.host_id is None)
    mark_changed(ctx, server)
    return attachment


def _check_shelved(ctx: Context, server: Server, action: str) -> None:
    """Conflict before 2.20 while the server is shelved."""
    if server.vm_state in SHELVED and ctx.version < (2, 20):
        raise Conflict(f"Cannot '{action}' instance {server.id} while it is in vm_state {server.vm_state}")


def update(ctx: Context, server_id: str, volume_id: str) -> None:
    """Whether the volume goes with the server."""
    body = ctx.body
    server = find_server_to_change(ctx, server_id, None)
    attachment = _find(ctx, server, volume_id)
    if body["volumeId"] != volume_id:
        raise BadRequest("Swapping a volume for another is not offered: detach the one and attach the other.")
    for name, value in (("serverId", server.id), ("id", attachment.volume_id)):
        if body.get(name) not in (None, value):
            raise BadRequest(f"The value of {name} must not change: it is {value}.")
    if body.get("device") and body["device"].removeprefix("/dev/") != attachment.device:
        raise BadRequest("The value of device must not change.")
    if "delete_on_termination" in body:
        attachment.delete_with_server = body["delete_on_termination"] in TRUE


def delete(ctx: Context, server_id: str, volume_id: str) -> None:
    """The volume is wanted no more; it is detaching until the guest has let go of it. Twice is once."""
    server = find_server_to_change(ctx, server_id, "detach_volume")
    _check_shelved(ctx, server, "detach_volume")
    attachment = _find(ctx, server, volume_id)
    if attachment.boot_index == 0:
        raise BadRequest("Cannot detach a root device volume")
    find_usable_volume(ctx, volume_id)
    request_detach(ctx.session, attachment, ctx.request_id)
    touch(ctx.session, server.host_id, ctx.request_id)
    record_action(ctx, server, "detach_volume", finished=server.host_id is None)


def view(ctx: Context, attachment: VolumeAttachment) -> dict:
    view = {
        "id": attachment.volume_id,
        "serverId": attachment.server_id,
        "volumeId": attachment.volume_id,
        "device": f"/dev/{attachment.device}",
        "tag": attachment.tag,
        "delete_on_termination": attachment.delete_with_server,
        "attachment_id": attachment.id,
        "bdm_uuid": attachment.id,
    }
    if ctx.version >= (2, 89):
        del view["id"]
    return view


VIEW_FIELDS = {
    "tag": field({}, since("2.70")),
    "delete_on_termination": field({}, since("2.79")),
    "attachment_id": field({}, since("2.89")),
    "bdm_uuid": field({}, since("2.89")),
}
LIST = rule("compute:servers:volumes:index", READER)
SHOW = rule("compute:servers:volumes:show", READER)
CREATE = rule("compute:servers:volumes:create", MEMBER)
UPDATE = rule("compute:servers:volumes:update", MEMBER)
DELETE = rule("compute:servers:volumes:delete", MEMBER)
PATH = "/servers/{server_id}/os-volume_attachments"
ONE = PATH + "/{volume_id}"
SHOWN = {"key": "volumeAttachment", "view_fields": VIEW_FIELDS}
ROUTES = [
    Route("GET", PATH, LIST, None, index, view, key="volumeAttachments", view_fields=VIEW_FIELDS),
    Route("POST", PATH, CREATE, FIELDS, create, view, **SHOWN),
    Route("GET", ONE, SHOW, None, show, view, **SHOWN),
    Route("PUT", ONE, UPDATE, UPDATE_FIELDS, update, None, 202, key="volumeAttachment", since="2.85"),
    Route("DELETE", ONE, DELETE, None, delete, None, 202),
]
