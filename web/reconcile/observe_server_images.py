"""What a run saw of images that a host makes of servers' disks, into their rows.

What follows from it is the answer of `web/server_images.py`.

Next room: `observe.py`.
"""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from ..models import Host, Server, ServerImage, now
from ..server_images import fail_server_image, follow_server_image


def _read_rows(session: Session, host: Host) -> list[tuple[ServerImage, Server]]:
    """Images that the host makes, or that are to be made of a server that is here now."""
    here = or_(ServerImage.host_id == host.id, Server.host_id == host.id)
    statement = select(ServerImage, Server).join(Server, Server.id == ServerImage.server_id).where(here)
    return [tuple(pair) for pair in session.execute(statement.order_by(ServerImage.image_id)).all()]


def store_server_images(session: Session, host: Host, result: dict) -> None:
    """Store how far each is; those that are done, or failed for good, end."""
    servers = result["observed"].get("servers", {})
    for row, server in _read_rows(session, host):
        seen = (servers.get(server.id) or {}).get("snapshot")
        mine = seen is not None and row.host_id == host.id
        if mine and (seen["image"], seen["attempt"]) == (row.image_id, row.attempt):
            if (row.observed_state, row.observed_progress) != (seen["state"], seen["progress"]):
                row.progressed_at = now()
            row.observed_state, row.observed_progress = seen["state"], seen["progress"]
            row.observed_error = seen["error"] or row.observed_error
        follow_server_image(session, row, server)


def apply_image_deadlines(session: Session, settings, host: Host) -> None:
    """Images that did not go on for as long as an operation may take will not be made."""
    late = now() - timedelta(seconds=settings.worker.operation_timeout_s)
    for row, server in _read_rows(session, host):
        if row.host_id == host.id and row.progressed_at < late:
            reason = row.observed_error or host.error or "the host did not get to it in time"
            fail_server_image(session, row, server, f"it took longer than its deadline: {reason}")
