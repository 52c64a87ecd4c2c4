"""What follows once the snapshots that an image of a server is made of are taken, in the transaction that saw it.

A server's ``image_task`` without a row of `server_images` is of such an image; it ends when none of the snapshots of
its volumes is under way any more. Next rooms: `resources/compute/volume_images.py`, `reconcile/observe_volumes.py`.
"""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from .models import Host, Server, ServerImage, Snapshot, VolumeAttachment, finish_actions, now, touch
from .reconcile.status import refresh_status

LATE = "the snapshots of its volumes took longer than their deadline"


def follow_volume_images(session: Session, settings, host: Host) -> None:
    """End the making of images of this host's servers whose volumes have no snapshot under way."""
    others = select(ServerImage.server_id)
    waiting = select(Server).where(
        Server.host_id == host.id, Server.image_task.is_not(None), Server.id.not_in(others), Server.gone_at.is_(None)
    )
    for server in session.scalars(waiting.order_by(Server.id)).all():
        volumes = select(VolumeAttachment.volume_id).where(VolumeAttachment.server_id == server.id)
        found = session.scalars(
            select(Snapshot).where(
                Snapshot.volume_id.in_(volumes), Snapshot.deleted_at.is_(None), Snapshot.built_at.is_(None)
            )
        ).all()
        oldest = now() - timedelta(seconds=settings.worker.operation_timeout_s)
        failed = [one for one in found if one.fault_message is not None]
        going = [one for one in found if one.fault_message is None]
        if any(one.created_at > oldest for one in going):
            continue
        error = f"Error: {failed[0].fault_message}" if failed else f"Error: {LATE}" if going else None
        server.image_task = None
        server.updated_at = now()
        finish_actions(session, server.id, error, image=True)
        refresh_status(server)
        touch(session, host.id)


def touch_users(session: Session, volume_id: str) -> None:
    """A snapshot of the volume has changed: the hosts of the guests that use it look whether an image waits for it."""
    hosts = (
        select(Server.host_id)
        .join(VolumeAttachment, VolumeAttachment.server_id == Server.id)
        .where(VolumeAttachment.volume_id == volume_id, Server.image_task.is_not(None))
    )
    for host_id in session.scalars(hosts.distinct()).all():
        touch(session, host_id)
