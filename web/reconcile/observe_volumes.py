"""What a storage host's run saw of volumes, snapshots and exports, into rows: the only writer of these columns.

Next room: `observe.py`, which calls it within the run's own transaction.
"""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from ..models import Host, Server, Snapshot, Volume, VolumeAttachment, now, touch
from ..reimages import store_reimage
from ..volume_attachments import refresh_snapshot, refresh_volume
from ..volume_images import touch_users

TRIES = 4  # of one object, before its fault is the user's to see
MAX_BACKOFF_S = 60


def store_volumes(session: Session, host: Host, document: dict, result: dict) -> float | None:
    """Store what was seen; seconds until the host is wanted again (0: at once), None where that is as ever."""
    observed, outcomes = result["observed"], result["objects"].get("volumes", {})
    waits: list[float] = []
    for key, model in (("snapshots", Snapshot), ("volumes", Volume)):
        wanted = {row["id"]: row for row in document.get(key, [])}
        for row in session.scalars(select(model).where(model.id.in_(wanted))):
            outcome = outcomes.get(row.id, {"ok": True, "error": None})
            seen = observed.get(key, {}).get(row.id)
            _store(session, host, row, wanted[row.id], seen, outcome)
            if wanted[row.id].get("reimage") and row.deleted_at is None:
                order = wanted[row.id]["reimage"]
                store_reimage(session, row, order, seen, observed.get("images", {}), outcome["ok"])
                refresh_volume(session, row)
            if row.observed_failures:
                waits.append(min(2 ** (row.observed_failures - 1), MAX_BACKOFF_S))
    if _store_exports(session, host, document, result):
        waits.append(0)
    return min(waits) if waits else None


def _store(session: Session, host: Host, row, wanted: dict, seen: dict | None, outcome: dict) -> None:
    before = row.status
    row.observed_at = host.observed_at
    row.observed_error = outcome["error"]
    row.observed_failures = 0 if outcome["ok"] else row.observed_failures + 1
    if wanted["wanted"] == "absent":
        if seen is None and outcome["ok"]:
            row.gone_at, row.observed_state = now(), None
    elif seen is not None:
        row.observed_state, row.observed_progress = seen["state"], seen["progress"]
        if row.observed_size_gb != seen["size_gb"]:
            row.observed_size_gb = seen["size_gb"]
            _touch_guests(session, row)
        if seen["state"] == "available" and outcome["ok"]:
            row.built_at = row.built_at or now()
            row.fault_message = None
    if row.observed_failures >= TRIES:
        row.fault_message = outcome["error"] or "the host gave no reason"
        if isinstance(row, Volume) and row.is_reimaged:
            _touch_guests(session, row)  # it is their fault, too
    if isinstance(row, Volume):
        refresh_volume(session, row)
    else:
        refresh_snapshot(row)
    if row.status != before:
        row.updated_at = now()
        touch(session, host.id)  # what waited for it (a snapshot, a copy, an export) may be in the next document
        if isinstance(row, Snapshot):
            touch_users(session, row.volume_id)


def _store_exports(session: Session, host: Host, document: dict, result: dict) -> bool:
    """Whether something changed that this host's next document depends on."""
    if "exports" not in result["observed"]:
        return False
    exports, outcomes = result["observed"]["exports"], result["objects"].get("exports", {})
    asked = {export["id"] for volume in document.get("volumes", []) for export in volume.get("exports") or []}
    rows = session.execute(
        select(VolumeAttachment, Volume).join(Volume, Volume.id == VolumeAttachment.volume_id).where(
            Volume.host_id == host.id
        )
    ).all()  # fmt: skip
    changed = False
    for attachment, volume in rows:
        export = exports.get(attachment.id)
        attachment.observed_error = outcomes.get(attachment.id, {}).get("error")
        if export is not None and export != attachment.observed_export:
            attachment.observed_export = export
            if not attachment.observed_attached:  # by this very run, where host and guest are one machine's
                _touch_guest_host(session, attachment)
        ended = attachment.deleted_at is not None and not attachment.observed_attached
        if export is not None or attachment.id in asked:
            continue
        if ended:
            _end(session, attachment, volume)
            changed = True
        elif not attachment.observed_attached:
            attachment.observed_export = None  # of a shelved server: it is reserved, and open to nobody
    return changed


def _touch_guests(session: Session, row) -> None:
    """A volume is larger: the hosts of the guests that use it tell them."""
    for attachment in session.scalars(select(VolumeAttachment).where(VolumeAttachment.volume_id == row.id)):
        _touch_guest_host(session, attachment)


def _touch_guest_host(session: Session, attachment: VolumeAttachment) -> None:
    if attachment.server_id is not None:
        touch(session, session.scalar(select(Server.host_id).where(Server.id == attachment.server_id)))


def _end(session: Session, attachment: VolumeAttachment, volume: Volume) -> None:
    """Nothing is left of the attachment on any host."""
    session.delete(attachment)
    session.flush()
    if attachment.replaced:
        _touch_guest_host(session, attachment)  # what waited for its target to be closed may run
    volume.updated_at = now()
    refresh_volume(session, volume)
