"""Evacuation of a server from a host that is off: what must be so before it, and its beginning.

What handlers and `kumo host evacuate` share, in the caller's transaction. Problems are `web.errors`. Next room:
`moves.py`.
"""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from .errors import BadRequest, Conflict
from .models import Host, Migration, Server, Volume, VolumeAttachment, now
from .models.migrations import EVACUATION
from .moves import follow_closed_targets, start_move
from .scheduler import is_up
from .shelving import abandon_shelving
from .volume_attachments import replace_attachments


def check_fenced(source: Host, settings) -> None:
    """BadRequest while the host is up, Conflict while it is only silent: that is no proof that its guests are off."""
    if source.forced_down:
        return
    if is_up(source.observed_at, False, now(), settings.worker.sweep_s, source.failures):
        raise BadRequest(f"Compute service of {source.name} is still in use.")
    raise Conflict(
        f"Compute service of {source.name} is down, but its guests may still run: make sure that it is off, then say "
        f"so (openstack compute service set --down {source.name} nova-compute, or kumo host fence {source.name})."
    )


def check_volumes(session: Session, server: Server) -> None:
    """Conflict where a storage host that must close the server's targets is gone itself."""
    stores = (
        select(Host)
        .join(Volume, Volume.host_id == Host.id)
        .join(VolumeAttachment, VolumeAttachment.volume_id == Volume.id)
        .where(VolumeAttachment.server_id == server.id)
    )
    for host in session.scalars(stores).unique():
        if host.forced_down:
            raise Conflict(f"Instance {server.id} has a volume on storage host {host.name}, which is down.")


def start_evacuation(
    session: Session,
    settings,
    server: Server,
    dest: str,
    *,
    user_id: str,
    project_id: str,
    request_id: str | None = None,
) -> Migration:
    """The move's row, new targets for its volumes, and where there are none the next step at once."""
    # The host that was to make an image of its disk is gone: a server that was not shelved yet is evacuated.
    abandon_shelving(session, server, "the server is evacuated", request_id)
    migration = start_move(
        session, settings, server, EVACUATION, dest, user_id=user_id, project_id=project_id, request_id=request_id
    )
    replace_attachments(session, server.id, request_id)
    session.flush()
    follow_closed_targets(session, settings, request_id)
    return migration
