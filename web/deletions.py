"""Servers deleted, in the caller's transaction: for good, or off and kept for `[compute] reclaim_instance_interval_s`.

A server is never deleted here: its tombstone is set, and its host makes it so. Next rooms:
`resources/compute/server_deletions.py`, which asks; `reconcile/observe.py`, which reclaims what was kept long enough.
"""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from .models import Host, Server, now, touch
from .moves import follow_deletion
from .password_orders import end_password
from .reconcile.status import refresh_status
from .server_images import fail_images_of_server
from .shelving import drop_shelved_image


def begin_deletion(session: Session, settings, server: Server, request_id: str | None = None) -> None:
    """The tombstone of a server on a host; the caller holds its rows, computes its status and tells its host."""
    server.deleted_at = now()
    end_password(session, server, "the server was deleted")
    fail_images_of_server(session, server, "the server was deleted", request_id)
    drop_shelved_image(session, server)
    server.operation = "delete"
    server.operation_deadline = now() + timedelta(seconds=settings.worker.operation_timeout_s)
    follow_deletion(session, settings, server, request_id)


def reclaim_servers(session: Session, settings, host: Host) -> float | None:
    """Delete the host's servers whose time to be restored is over; seconds until that of the next one, None: none.

    Without an interval nothing is reclaimed: what was kept before stays until somebody restores or deletes it.
    """
    interval_s = settings.compute.reclaim_instance_interval_s
    if interval_s <= 0:
        return None
    kept = select(Server).where(
        Server.host_id == host.id, Server.soft_deleted_at.is_not(None), Server.deleted_at.is_(None)
    )
    waits: list[float] = []
    for server in session.scalars(kept.order_by(Server.id)).all():
        left_s = (server.soft_deleted_at - now()).total_seconds() + interval_s
        if left_s > 0:
            waits.append(left_s)
            continue
        begin_deletion(session, settings, server)
        server.updated_at = now()
        refresh_status(server)
        touch(session, host.id)
    return min(waits, default=None)
