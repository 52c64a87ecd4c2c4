"""How a migration goes on, and what users see of it and of its server: functions of what both hosts were seen to do.

Pure: no session, no clock. The phases, and what each host's document says in each of them, are in
docs/moving-guests.md. Source of the words users see: Compute API reference, "Server migrations" and "Migrations".
"""

from __future__ import annotations

LIVE, COLD, RESIZE, EVACUATION = "live-migration", "migration", "resize", "evacuation"
UNDER_WAY = ("preparing", "sending")
STATUS = {
    "preparing": {True: "preparing", False: "migrating"},
    "sending": {True: "running", False: "migrating"},
    "resized": {False: "finished"},
}
FINAL = {"completed": "completed", "failed": "error", "cancelled": "cancelled"}


def compute_status(migration) -> str:
    """The status the API shows: queued, preparing, running, migrating, finished, completed, confirmed and so on."""
    if migration.phase in STATUS:
        return STATUS[migration.phase][migration.kind == LIVE]
    return FINAL.get(migration.outcome, migration.outcome or "error")


def compute_move(migration) -> str | None:
    """What the migration makes of its server (status.py): live, resize, verify, revert, evacuate or nothing."""
    if migration.kind == EVACUATION:
        return "evacuate" if migration.outcome is None else None
    if migration.phase in UNDER_WAY:
        return "live" if migration.kind == LIVE else "resize"
    if migration.phase == "resized":
        return "verify"
    if migration.phase == "undoing" and not is_released(migration):
        return "live" if migration.kind == LIVE else "revert"
    return None


def is_released(migration) -> bool:
    """Whether the server may be worked on although the other host is still being cleaned."""
    if migration.phase == "undoing":
        # Its guest never stopped running at the source, so it runs nowhere else.
        return migration.kind == LIVE and bool(migration.observed_source.get("running"))
    return migration.phase in ("cleaning", "ended")


def is_same_host(migration) -> bool:
    return migration.source_host_id == migration.dest_host_id


def choose_next(migration, deleted: bool) -> tuple[str, str | None, str | None] | None:
    """(phase, outcome, error) that what was seen leads to; None while the phase goes on.

    ``deleted``: the server's tombstone was set. ``observed_*`` carry ``at``, the number of the look.
    """
    source, dest = migration.observed_source, migration.observed_dest
    if migration.phase in UNDER_WAY:
        if migration.kind == LIVE:
            return _follow_live(migration, source, dest, deleted)
        return _follow_cold(migration, source, dest, deleted)
    if migration.phase == "resized" and deleted:
        return "cleaning", "confirmed", None
    if migration.phase == "cleaning" and _is_clean(migration, source):
        return "ended", migration.outcome, migration.error
    if migration.phase == "undoing" and _is_clean(migration, dest):
        return "ended", migration.outcome, migration.error
    return None


def _is_clean(migration, side: dict) -> bool:
    return side.get("state") == "gone" and side.get("phase") == migration.phase


def _follow_live(migration, source: dict, dest: dict, deleted: bool):
    if migration.phase == "preparing":
        if deleted or migration.abort_wanted:
            return "undoing", "cancelled", None
        if dest.get("state") == "failed":
            return "undoing", "failed", dest.get("error")
        return ("sending", None, None) if dest.get("state") == "ready" else None
    if deleted:
        return "undoing", "cancelled", None
    if dest.get("state") == "arrived" and not source.get("running"):
        return "cleaning", "completed", None
    if source.get("state") != "failed":
        return None
    # It runs here, or it was looked for there since and does not run there.
    if source.get("running") or dest.get("at", 0) > source.get("at", 0):
        return "undoing", "cancelled" if migration.abort_wanted else "failed", source.get("error")
    return None


def _follow_cold(migration, source: dict, dest: dict, deleted: bool):
    if deleted:
        return "undoing", "cancelled", None
    for side in (source, dest):
        if side.get("state") == "failed":
            return "undoing", "failed", side.get("error")
    if migration.phase == "preparing":
        if is_same_host(migration):
            return ("resized", None, None) if source.get("state") == "kept" else None
        return ("sending", None, None) if source.get("state") == "offered" else None
    return ("resized", None, None) if dest.get("state") == "received" else None
