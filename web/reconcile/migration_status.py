"""How a migration goes on, and what users see of it and of its server: functions of what both hosts were seen to do.

Pure: no session, no clock. The phases, and what each host's document says in each of them, are in
docs/moving-guests.md. Source of the words users see: Compute API reference, "Server migrations" and "Migrations".
"""

from __future__ import annotations

from ..models.migrations import EVACUATION, LIVE, UNDER_WAY

STATUS = {
    "preparing": {LIVE: "preparing", EVACUATION: "accepted"},
    "sending": {LIVE: "running", EVACUATION: "pre-migrating"},
    "resized": {},
}
STATUS_ELSE = {"preparing": "migrating", "sending": "migrating", "resized": "finished"}
FINAL = {"completed": "completed", "failed": "error", "cancelled": "cancelled"}


def compute_status(migration) -> str:
    """The status the API shows: queued, preparing, running, migrating, finished, completed, confirmed and so on."""
    if migration.phase in STATUS:
        return STATUS[migration.phase].get(migration.kind, STATUS_ELSE[migration.phase])
    if migration.kind == EVACUATION and (migration.phase, migration.outcome) == ("cleaning", "completed"):
        return "done"  # the guest is there; what the dead host still has of it is not removed yet
    return FINAL.get(migration.outcome, migration.outcome or "error")


def compute_move(migration) -> str | None:
    """What the migration makes of its server (status.py): live, resize, verify, revert, evacuate or nothing."""
    if migration.kind == EVACUATION:
        return "evacuate" if migration.phase in UNDER_WAY else None
    if migration.phase in UNDER_WAY:
        return "live" if migration.kind == LIVE else "resize"
    if migration.phase == "resized":
        return "verify"
    if migration.phase == "undoing" and not is_released(migration):
        return "live" if migration.kind == LIVE else "revert"
    return None


def is_released(migration) -> bool:
    """Whether the server may be worked on although the other host is still being cleaned."""
    if migration.phase != "undoing":
        return migration.phase in ("cleaning", "ended")
    if is_same_host(migration):
        return False
    if migration.observed_dest.get("fenced"):
        return True
    if migration.kind == LIVE:
        # Its guest never stopped running at the source, so it runs nowhere else; or it was never sent.
        source = migration.observed_source
        never_sent = not (source.get("sent") or source.get("fenced") or "state" in source)
        return bool(source.get("running")) or never_sent
    # The destination starts a cold guest in `resized`, not before: nothing of it runs there unless that was reverted.
    return migration.outcome != "reverted"


def is_same_host(migration) -> bool:
    return migration.source_host_id == migration.dest_host_id


def is_cleaned(migration, host_id: str) -> bool:
    """Whether a host only has to be rid of what a move of a guest that is well elsewhere has left there."""
    if is_same_host(migration) or not is_released(migration):
        return False
    left = {"cleaning": migration.source_host_id, "undoing": migration.dest_host_id}
    return left.get(migration.phase) == host_id


def choose_home(migration) -> str:
    """source or dest: whose the server is, with the old or the new flavor."""
    if migration.phase in ("resized", "cleaning") or (migration.kind, migration.phase) == (EVACUATION, "sending"):
        return "dest"
    return "source"


def choose_next(migration, deleted: bool) -> tuple[str, str | None, str | None] | None:
    """(phase, outcome, error) that what was seen leads to; None while the phase goes on.

    ``deleted``: the server's tombstone was set. Of ``observed_*``, ``at`` is a generation of the destination's
    document: of its look, and the last one that did not know of the source's.
    """
    source, dest = migration.observed_source, migration.observed_dest
    if migration.kind == EVACUATION:
        return _follow_evacuation(migration, source, dest, deleted)
    if migration.phase in UNDER_WAY:
        if migration.kind == LIVE:
            return _follow_live(migration, source, dest, deleted)
        return _follow_cold(migration, source, dest, deleted)
    if migration.phase == "resized" and deleted:
        return "cleaning", "confirmed", None
    if migration.phase == "cleaning" and _is_clean(migration, source):
        return "ended", migration.outcome, migration.error
    if migration.phase == "undoing" and _is_clean(migration, dest) and not (deleted and _may_arrive(migration)):
        return "ended", migration.outcome, migration.error
    return None


def _is_clean(migration, side: dict) -> bool:
    return side.get("state") == "gone" and side.get("phase") == migration.phase


def _may_arrive(migration) -> bool:
    """Whether a guest that is deleted on its way may still come to where it was seen gone."""
    source, dest = migration.observed_source, migration.observed_dest
    if migration.kind != LIVE or source.get("fenced"):
        return False
    return source.get("state") != "gone" or dest.get("at", 0) <= source.get("at", 0)


def _follow_live(migration, source: dict, dest: dict, deleted: bool):
    if migration.phase == "preparing":
        if deleted or migration.abort_wanted:
            return "undoing", "cancelled", migration.error
        for name, side in (("source", source), ("destination", dest)):
            if side.get("fenced"):
                return "undoing", "failed", f"the {name} was fenced"
        if dest.get("state") == "failed":
            return "undoing", "failed", dest.get("error")
        return ("sending", None, None) if dest.get("state") == "ready" else None
    if deleted:
        return "undoing", "cancelled", None
    here = source.get("running") and not source.get("fenced")
    if dest.get("state") == "arrived" and not here:
        return "cleaning", "completed", None
    if source.get("state") != "failed" and not source.get("fenced"):
        return None
    # It runs here, or it was looked for there since and does not run there.
    if here or dest.get("fenced") or dest.get("at", 0) > source.get("at", 0):
        error = migration.error or source.get("error") or ("the source was fenced" if source.get("fenced") else None)
        return "undoing", "cancelled" if migration.abort_wanted else "failed", error
    return None


def _follow_cold(migration, source: dict, dest: dict, deleted: bool):
    if deleted or migration.abort_wanted:
        return "undoing", "cancelled", None
    for name, side in (("source", source), ("destination", dest)):
        if side.get("state") == "failed":
            return "undoing", "failed", side.get("error")
        if side.get("fenced"):
            return "undoing", "failed", f"the {name} was fenced"
    if migration.phase == "preparing":
        if is_same_host(migration):
            return ("resized", None, None) if source.get("state") == "kept" else None
        return ("sending", None, None) if source.get("state") == "offered" else None
    return ("resized", None, None) if dest.get("state") == "received" else None


def _follow_evacuation(migration, source: dict, dest: dict, deleted: bool):
    if migration.phase == "preparing":
        if deleted:
            return "ended", "cancelled", None
        # No target of the dead host's credentials is open any more, and those for the new host are.
        return ("sending", None, None) if source.get("state") == "closed" else None
    if migration.phase == "sending":
        if deleted:
            return "cleaning", "cancelled", None
        return ("cleaning", "completed", None) if dest.get("state") == "rebuilt" else None
    if migration.phase == "cleaning" and _is_clean(migration, source):
        return "ended", migration.outcome, migration.error
    return None
