"""Servers that are shelved and unshelved, in the caller's transaction, for handlers and the loop alike.

What is wanted is `servers.shelve`; what was seen are `shelved_at` (off, and its image whole) and `offloaded_at` (gone
from its host). A host is given up by a server in the transaction in which it was seen without it, and no sooner
(docs/compute.md, "Shelving"). Callers hold the host's row. Next rooms: `server_images.py`, which says when the image is
whole; `resources/compute/server_shelves.py`, `reconcile/observe.py`.
"""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import select, update
from sqlalchemy.orm import Session, selectinload

from .allocation import end_port_use
from .models import FloatingIP, Host, Port, Server, finish_actions, now, touch
from .models.networks import COMPUTE
from .models.reach import touch_hosts_and_networks
from .reconcile.status import refresh_status
from .router_legs import sync_router_legs
from .server_images import fail_images_of_server, hold_image
from .volume_attachments import release_attachments, resume_attachments

OFF = ("shutoff", "crashed")


def mark_shelved(session: Session, server: Server) -> None:
    """A guest on volumes was seen off: there is no image to wait for."""
    if server.shelve is not None and server.shelved_at is None and server.shelved_image_id is None:
        server.shelved_at = now()
        touch(session, server.host_id)


def store_offloaded(session: Session, server: Server) -> None:
    """Its host was seen without it: ports, addresses and volumes stay the server's, and are on no host."""
    host_id = server.host_id
    server.host_id, server.offloaded_at = None, server.offloaded_at or now()
    server.disk_image_id = server.observed_state = server.observed_reason = server.observed_error = None
    server.observed_failures = 0
    server.operation = server.operation_deadline = None
    finish_actions(session, server.id, None)
    networks = set()
    for port in _read_ports(session, server):
        networks.add(port.network_id)
        if port.detached_at is not None:
            end_port_use(session, port)  # it was on its way out of a guest that is gone
            continue
        port.host_id = port.observed_state = None
        session.execute(update(FloatingIP).where(FloatingIP.port_id == port.id).values(observed_state=None))
    release_attachments(session, server.id)
    session.flush()
    touch_hosts_and_networks(session, {host_id}, networks)


def return_to_host(session: Session, settings, server: Server, host_id: str, request_id: str | None = None) -> None:
    """It is to be on the host that was chosen for it, with a root disk made of its shelved image.

    Conflict where its router has no address left for that host.
    """
    server.shelve, server.host_id, server.disk_image_id = None, host_id, server.shelved_image_id
    server.observed_state = server.observed_reason = server.observed_error = None
    server.observed_failures = 0
    zone = session.get(Host, host_id).zone
    networks = set()
    for port in _read_ports(session, server):
        port.host_id, port.device_owner, port.observed_state = host_id, COMPUTE + zone, None
        networks.add(port.network_id)
    resume_attachments(session, server.id, request_id)
    session.flush()
    sync_router_legs(session, settings, networks, request_id=request_id)
    touch_hosts_and_networks(session, {host_id}, networks, request_id)


def _read_ports(session: Session, server: Server) -> list[Port]:
    statement = select(Port).where(Port.device_id == server.id).options(selectinload(Port.addresses))
    return list(session.scalars(statement.order_by(Port.id)).unique())


def finish_unshelving(session: Session, server: Server) -> None:
    """It was seen as it is wanted again: nothing needs its image any more but the disk that lies over it."""
    drop_shelved_image(session, server)
    server.shelved_at = server.offloaded_at = None


def drop_shelved_image(session: Session, server: Server) -> None:
    """The image it was shelved to is deleted; one that its owner has protected stays, as an image like any other."""
    image = hold_image(session, server.shelved_image_id) if server.shelved_image_id else None
    if image is not None and image.deleted_at is None and not image.protected:
        image.status, image.deleted_at, image.upload_id = "deleted", now(), None
    server.shelved_image_id = None


def abandon_shelving(session: Session, server: Server, message: str, request_id: str | None = None) -> None:
    """It is shelved no more, before it was: no image will be, and its guest is as it was wanted before."""
    if server.shelve is None or server.shelved_at is not None:
        return
    fail_images_of_server(session, server, message, request_id)
    server.shelve = server.shelved_image_id = None
    server.operation = server.operation_deadline = None
    finish_actions(session, server.id, f"Error: {message}")
    touch(session, server.host_id, request_id)


def fail_shelving(session: Session, server: Server, message: str) -> bool:
    """What was under way between shelved and not has failed; False where nothing was. No fault: it can be asked again.

    A guest that could not be shelved is as it was; one that could not be unshelved is shelved, and leaves the host on
    which that failed. What cannot be removed from its host is told, and removed as soon as that is possible.
    """
    if server.deleted_at is not None or (server.shelve is None and server.shelved_at is None):
        return False
    if server.shelved_at is None:
        abandon_shelving(session, server, message)
        return True
    if server.shelve is None:
        server.shelve = "shelved" if server.offloaded_at is None else "offloaded"
        server.observed_failures = 0
        touch(session, server.host_id)
    server.operation = server.operation_deadline = None
    finish_actions(session, server.id, f"Error: {message}")
    return True


def follow_shelving(session: Session, settings, host: Host) -> float | None:
    """Offload what has been shelved for long enough; seconds until the next one of the host has been, None: none is."""
    offload_s, at = settings.compute.shelved_offload_time_s, now()
    waits = []
    shelved = select(Server).where(
        Server.host_id == host.id, Server.shelved_at.is_not(None), Server.shelve.is_not(None)
    )  # fmt: skip
    for server in session.scalars(shelved.where(Server.deleted_at.is_(None)).order_by(Server.id)).all():
        if server.shelve == "shelved" and offload_s >= 0:
            left_s = offload_s - (at - server.shelved_at).total_seconds()
            if left_s > 0:
                waits.append(left_s)
                continue
            server.shelve, server.operation, server.operation_deadline = "offloaded", "shelveOffload", None
            touch(session, host.id)
        if server.shelve == "offloaded" and server.operation is not None and server.operation_deadline is None:
            server.operation_deadline = at + timedelta(seconds=settings.worker.operation_timeout_s)
        refresh_status(server)
    return min(waits) if waits else None
