"""Attachments: uses of volumes, by guests of this cloud or by hosts outside that a client speaks for.

With a connector the answer has how to log in to the volume's own iSCSI target, so that the volume service is of use
with no compute at all. Source: Block Storage API reference, "Attachments (attachments)", since 3.27.
"""

from __future__ import annotations

import time

from sqlalchemy import select

from ...errors import BadRequest, Conflict, NotFound, Unavailable
from ...fields import OBJECT, UUID, field, nullable
from ...http import Context
from ...models import Server, Volume, VolumeAttachment, now, touch
from ...paging import Page, read_page
from ...policy import MEMBER, READER, rule
from ...reconcile.volume_status import compute_attachment_status
from ...routes import Route
from ...volume_attachments import refresh_volume, request_detach, reserve_attachment
from .volume_rows import find_volume, hold, show_time

FIELDS = {
    "volume_uuid": field(UUID, required=True),
    "instance_uuid": field(nullable(UUID)),
    "connector": field(nullable(OBJECT)),
}
UPDATE_FIELDS = {"connector": field(OBJECT, required=True)}
SORT_COLUMNS = {"id": VolumeAttachment.id, "created_at": VolumeAttachment.created_at}
WAIT_S = 15.0
POLL_S = 0.1


def _find(ctx: Context, attachment_id: str) -> VolumeAttachment:
    row = ctx.session.get(VolumeAttachment, attachment_id)
    if row is None or row.released or (row.project_id != ctx.token.project_id and not ctx.is_admin):
        raise NotFound(f"Volume attachment could not be found with filter: attachment_id = {attachment_id[:255]}.")
    return row


def index(ctx: Context) -> Page:
    statement = select(VolumeAttachment).where(~VolumeAttachment.released)
    if not (ctx.is_admin and ctx.query.get("all_tenants")):
        statement = statement.where(VolumeAttachment.project_id == ctx.project_id)
    for name, column in (("volume_id", VolumeAttachment.volume_id), ("instance_id", VolumeAttachment.server_id)):
        if name in ctx.query:
            statement = statement.where(column == ctx.query[name])
    return read_page(
        ctx.session,
        statement,
        ctx.query,
        columns=SORT_COLUMNS,
        identity=VolumeAttachment.id,
        default=[("created_at", "desc")],
        maximum=ctx.settings.api.max_limit,
    )


def show(ctx: Context, attachment_id: str) -> VolumeAttachment:
    return _find(ctx, attachment_id)


def create(ctx: Context) -> VolumeAttachment:
    """A reservation; with a connector an open target, whose credentials the answer has.

    A server of this cloud is attached to by the Compute API: nothing would plug the volume into the guest here.
    """
    given = ctx.body
    with ctx.write() as session:
        volume = hold(ctx, find_volume(ctx, given["volume_uuid"]))
        server_id = given.get("instance_uuid")
        if server_id and session.scalar(select(Server.id).where(Server.id == server_id, Server.gone_at.is_(None))):
            raise BadRequest(
                f"Invalid input received: {server_id} is a server of this cloud; attach the volume by the Compute API"
            )
        attachment = reserve_attachment(
            session,
            volume,
            server_id=server_id,
            connector=given.get("connector"),
            wanted=bool(given.get("connector")),
            request_id=ctx.request_id,
        )
        attachment_id = attachment.id
    return _wait(ctx, attachment_id) if given.get("connector") else attachment


def update(ctx: Context, attachment_id: str) -> VolumeAttachment:
    """A reservation gets its connector: its target is opened."""
    with ctx.write() as session:
        attachment = _find(ctx, attachment_id)
        if attachment.deleted_at is not None:
            raise Conflict(f"Attachment {attachment_id} is being removed")
        volume = hold(ctx, session.get(Volume, attachment.volume_id))
        attachment.connector, attachment.wanted = dict(ctx.body["connector"]), True
        refresh_volume(session, volume)
        touch(session, volume.host_id, ctx.request_id)
    return _wait(ctx, attachment_id)


def _wait(ctx: Context, attachment_id: str) -> VolumeAttachment:
    """The attachment once its storage host exports it; Unavailable where that takes too long."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        with ctx.database.read.begin() as session:
            row = session.get(VolumeAttachment, attachment_id)
        if row is None:
            break
        if row.observed_export is not None:
            return row
        time.sleep(POLL_S)
    raise Unavailable(f"The storage host of attachment {attachment_id} did not export it within {WAIT_S:.0f} s.")


def complete(ctx: Context, attachment_id: str) -> None:
    """The client has connected: the volume is in use."""
    attachment = _find(ctx, attachment_id)
    if attachment.observed_export is None:
        raise BadRequest(f"Invalid attachment: {attachment_id} has no connection yet")
    volume = hold(ctx, ctx.session.get(Volume, attachment.volume_id))
    attachment.completed, attachment.attached_at = True, attachment.attached_at or now()
    refresh_volume(ctx.session, volume)


def delete(ctx: Context, attachment_id: str) -> list[VolumeAttachment]:
    """Close the target. An attachment that a server of this cloud uses goes by the Compute API (security case 12)."""
    attachment = _find(ctx, attachment_id)
    if attachment.server_id is not None:
        server = ctx.session.scalar(select(Server).where(Server.id == attachment.server_id))
        if server is not None and server.gone_at is None:
            raise Conflict(
                f"Detach volume from instance {server.id} using the Compute API: attachment {attachment.id} is its own."
            )
    hold(ctx, ctx.session.get(Volume, attachment.volume_id))
    request_detach(ctx.session, attachment, ctx.request_id)
    left = select(VolumeAttachment).where(
        VolumeAttachment.volume_id == attachment.volume_id, VolumeAttachment.deleted_at.is_(None)
    )
    return list(ctx.session.scalars(left))


def view(ctx: Context, row: VolumeAttachment) -> dict:
    return {
        "id": row.id,
        "status": compute_attachment_status(row),
        "instance": row.server_id,
        "volume_id": row.volume_id,
        "attached_at": show_time(row.attached_at) or "",
        "detached_at": "",
        "attach_mode": "ro" if row.read_only else "rw",
        "connection_info": _build_connection(row),
    }


def _build_connection(row: VolumeAttachment) -> dict:
    """How to log in, for the client that gave the connector; of a guest's attachment nobody is told."""
    if (row.server_id is not None and not row.connector) or row.observed_export is None:
        return {}
    return {
        "driver_volume_type": "iscsi",
        "attachment_id": row.id,
        "target_portal": row.observed_export["portal"],
        "target_iqn": row.observed_export["iqn"],
        "target_lun": row.observed_export["lun"],
        "target_discovered": False,
        "auth_method": "CHAP",
        "auth_username": row.username,
        "auth_password": row.password,
        "volume_id": row.volume_id,
        "access_mode": "ro" if row.read_only else "rw",
        "encrypted": False,
        "discard": False,
        "qos_specs": None,
    }


def view_left(ctx: Context, row: VolumeAttachment) -> dict:
    return {"attachment_id": row.id, "volume_id": row.volume_id, "instance": row.server_id}


LIST = rule("volume:attachments:index", READER)
SHOW = rule("volume:attachments:show", MEMBER)
WRITE = rule("volume:attachments:write", MEMBER)
ONE = "/attachments/{attachment_id}"
SINCE = {"since": "3.27"}
ROUTES = [
    Route("GET", "/attachments", LIST, None, index, view_left, key="attachments", **SINCE),
    Route("GET", "/attachments/detail", SHOW, None, index, view, key="attachments", **SINCE),
    Route("POST", "/attachments", WRITE, FIELDS, create, view, key="attachment", transaction=False, **SINCE),
    Route("GET", ONE, SHOW, None, show, view, key="attachment", **SINCE),
    Route("PUT", ONE, WRITE, UPDATE_FIELDS, update, view, key="attachment", transaction=False, **SINCE),
    Route("DELETE", ONE, WRITE, None, delete, view_left, reply_key="attachments", **SINCE),
    Route("POST", ONE + "/action", WRITE, {}, complete, None, 204, action="os-complete", since="3.44"),
]
