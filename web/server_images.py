"""Images made of servers' disks, in the caller's transaction: begun, followed, ended (docs/compute.md).

A row of `server_images` is what a host is asked for; the image's own status says whether its bytes have come, and
whoever looks draws the same conclusion from both: the upload's handler, and whoever stores a run. Touches no bytes.
Next rooms: `resources/compute/server_images.py`, `resources/image/host_uploads.py`,
`reconcile/observe_server_images.py`.
"""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from .models import Host, Image, Server, ServerImage, finish_actions, now, touch
from .reconcile.status import compute_image_task, refresh_status

TRIES = 4  # of a host, before an image will not be made


def hold_image(session: Session, image_id: str) -> Image | None:
    """The image, its row held."""
    statement = select(Image).where(Image.id == image_id).with_for_update()
    return session.scalar(statement.execution_options(populate_existing=True))


def begin_server_image(session: Session, server: Server, image: Image, backup_type=None, rotation=None) -> ServerImage:
    """The server's host is to make the image; nothing else is asked of the server before it is there."""
    session.add(image)
    session.flush()
    row = ServerImage(
        image_id=image.id, server_id=server.id, host_id=server.host_id, backup_type=backup_type, rotation=rotation
    )
    session.add(row)
    session.flush()
    server.image_task = compute_image_task(row, server.shelved_image_id == image.id)
    return row


def follow_server_image(session: Session, row: ServerImage, server: Server, request_id: str | None = None) -> None:
    """What follows from the row, its image and the server; the caller holds the host's and the server's rows."""
    image = hold_image(session, row.image_id)
    if image.status in ("active", "deactivated"):
        if row.rotation is not None:
            rotate_backups(session, image, row)
        _end(session, row, server, None, request_id)
    elif image.deleted_at is not None:
        _end(session, row, server, "Error: the image was deleted", request_id)
    elif server.deleted_at is not None:
        fail_server_image(session, row, server, "the server was deleted", request_id)
    elif server.host_id != row.host_id:
        fail_server_image(session, row, server, "the server has gone to another host", request_id)
    elif row.observed_state == "failed" and row.attempt >= TRIES:
        fail_server_image(session, row, server, row.observed_error or "the host gave no reason", request_id)
    else:
        if row.observed_state == "failed":
            row.attempt, row.observed_state, row.observed_progress = row.attempt + 1, None, 0.0
            touch(session, row.host_id, request_id)
        server.image_task = compute_image_task(row, server.shelved_image_id == row.image_id)
        refresh_status(server)


def fail_server_image(
    session: Session, row: ServerImage, server: Server, error: str, request_id: str | None = None
) -> None:
    """There will be no such image: it is deleted, and the action that asked for it says so."""
    image = hold_image(session, row.image_id)
    if image.deleted_at is None:
        image.status, image.deleted_at, image.upload_id = "deleted", now(), None
    _end(session, row, server, f"Error: {error}", request_id)


def _end(session: Session, row: ServerImage, server: Server, message: str | None, request_id: str | None) -> None:
    session.delete(row)
    session.flush()
    server.image_task = None
    if server.shelved_image_id != row.image_id:
        finish_actions(session, server.id, message, image=True)
    elif message is None:
        server.shelved_at = now()
    else:  # it is not shelved, and as it was wanted before
        server.shelve = server.shelved_image_id = server.operation = server.operation_deadline = None
        finish_actions(session, server.id, message)
    server.updated_at = now()
    refresh_status(server)
    touch(session, row.host_id, request_id)


def forget_server_image(session: Session, image_id: str, request_id: str | None = None) -> None:
    """The image is deleted: the host that makes it is told, if one does."""
    row = session.get(ServerImage, image_id)
    if row is None:
        return
    session.execute(select(Host.id).where(Host.id == row.host_id).with_for_update()).all()
    server = session.scalar(select(Server).where(Server.id == row.server_id).with_for_update())
    session.expire(row)
    row = session.get(ServerImage, image_id)
    if row is not None:
        follow_server_image(session, row, server, request_id)


def fail_images_of_server(session: Session, server: Server, error: str, request_id: str | None = None) -> None:
    """No image of the server will be made any more."""
    for row in session.scalars(select(ServerImage).where(ServerImage.server_id == server.id)).all():
        fail_server_image(session, row, server, error, request_id)


def rotate_backups(session: Session, newest: Image, row: ServerImage) -> None:
    """Of the server's backups of this type as many as wanted stay, the newest of them; protected ones stay, too."""
    found = session.scalars(
        select(Image)
        .where(Image.project_id == newest.project_id, Image.status == "active", Image.deleted_at.is_(None))
        .order_by(Image.created_at.desc(), Image.id)
    )
    own = {"image_type": "backup", "backup_type": row.backup_type, "instance_uuid": row.server_id}
    backups = [one for one in found if own.items() <= one.properties.items()]
    for image in backups[row.rotation :]:
        if not image.protected:
            image.status, image.deleted_at = "deleted", now()
