"""Which volumes a hypervisor's run saw in its guests, into rows: the only writer of these columns.

A volume that is out of its guest is told to its storage host, which closes the target then. Next room:
`observe_volumes.py`.
"""

from __future__ import annotations

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from ..models import Host, Server, Volume, VolumeAttachment, now, touch
from ..volume_attachments import refresh_volume
from .status import MOVING

OFF = ("shutoff", "crashed")


def store_attachments(session: Session, host: Host, document: dict, result: dict) -> None:
    """Store for every server of the host which of its volumes are in the guest, and why one is not."""
    observed, outcomes = result["observed"].get("servers", {}), result["objects"].get("servers", {})
    wanted = {server["id"]: server for server in document["servers"] if server["wanted"] == "present"}
    if not wanted:
        return
    settled = or_(Server.move.is_(None), Server.move.not_in(MOVING))  # a guest that moves is not all here
    pairs = session.execute(
        select(VolumeAttachment, Volume)
        .join(Volume, Volume.id == VolumeAttachment.volume_id)
        .join(Server, Server.id == VolumeAttachment.server_id)
        .where(VolumeAttachment.server_id.in_(wanted), Server.host_id == host.id, settled)
    ).all()
    for attachment, volume in pairs:
        seen = observed.get(attachment.server_id) or {}
        attached = attachment.id in (seen.get("volumes") or [])
        if attachment.deleted_at is not None and wanted[attachment.server_id].get("held") and seen.get("state") in OFF:
            attached = False  # its definition may still have it; one that is held is not started with that
        if not attached and not outcomes.get(attachment.server_id, {"ok": True})["ok"] and attachment.observed_attached:
            continue  # nobody could look
        reason = (seen.get("volume_errors") or {}).get(attachment.id)
        _store(session, attachment, volume, attached, reason)


def _store(session: Session, attachment: VolumeAttachment, volume: Volume, attached: bool, reason: str | None) -> None:
    was = attachment.observed_attached
    attachment.observed_attached = attached
    if reason is not None or attached:
        attachment.observed_error = reason
    if attached and not was:
        attachment.attached_at = now()
    if was != attached or attachment.deleted_at is not None:
        volume.updated_at = now() if was != attached else volume.updated_at
        refresh_volume(session, volume)
        if not attached:
            touch(session, volume.host_id)
