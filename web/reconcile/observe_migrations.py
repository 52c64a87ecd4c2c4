"""What a run saw of servers that move, into the rows of their migrations: the only writer of `observed_source` and
`observed_dest`, but for fencing (`web/moves.py`).

Each is one look at one host: {phase, at, state, error, progress, running, failures, address, port, name, fenced,
sent}. A look by a document that is older than the phase is not stored: it says nothing of it. What follows from both is
`migration_status.py`'s answer, entered by `web/moves.py` within the run's own transaction. Next room: `observe.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from ..models import Host, Migration, Server, ServerAction, new_uuid, now, touch
from ..models.migrations import EVACUATION, LIVE, UNDER_WAY
from ..moves import enter_phase, follow, read_generation, read_open_of_host, refresh_move
from .migration_status import is_same_host
from .status import has_converged

TRIES = 4  # of a host, with one server or as a whole, before a move has failed
MAX_BACKOFF_S = 60
OPERATOR = "kumo"  # who confirms where nobody does
REPORTED = ("state", "error", "progress", "address", "port", "name")
OF_THE_MOVE = ("incoming", "outgoing", "backup")
CLEANED = {"cleaning": "dropped", "undoing": "restored"}


def read_other_hosts(session: Session, host_id: str) -> set[str]:
    """The hosts that share moves with this one: whoever stores a look of one holds the rows of both."""
    concerned = or_(Migration.source_host_id == host_id, Migration.dest_host_id == host_id)
    pairs = session.execute(
        select(Migration.source_host_id, Migration.dest_host_id).where(concerned, Migration.phase != "ended")
    )
    return {one for pair in pairs for one in pair if one is not None} | {host_id}


def build_look(migration, side: str, wanted: dict, seen: dict | None, report: dict | None, outcome: dict) -> dict:
    """What one side was seen to have and to do. Pure.

    ``wanted`` is the document's server, ``seen`` and ``report`` are the host's of `observed.servers` and
    `observed.moves`, ``outcome`` its result.
    """
    before = migration.observed_source if side == "source" else migration.observed_dest
    look: dict = {"phase": migration.phase, "running": _runs(seen)}
    look |= {name: True for name in ("fenced", "sent") if before.get(name)}
    if wanted["wanted"] == "absent":
        gone = seen is None and outcome["ok"]
        return {**look, "state": "gone" if gone else "leaving", "error": outcome["error"]}
    part = next((name for name in OF_THE_MOVE if name in wanted), None)
    if report is not None and report.get("migration") == migration.uuid:
        look |= {name: report[name] for name in REPORTED if report.get(name) is not None}
    if part == "backup" and outcome["ok"] and look.get("state") == CLEANED.get(migration.phase, "") != "":
        look["state"] = "gone"
    if part is not None and not outcome["ok"]:
        look["failures"] = before.get("failures", 0) + 1 if before.get("phase") == migration.phase else 1
        look["error"] = outcome["error"]
        # What is sent may have arrived: that is called off, and what became of it is looked at.
        if look["failures"] >= TRIES and migration.phase in UNDER_WAY and not _is_on_its_way(migration):
            look["state"] = "failed"
    return look


def _runs(seen: dict | None) -> bool:
    """Whether the guest lives here. One that is paused for the sake of its migration may live there already."""
    if seen is None:
        return False
    return seen["state"] == "running" or (seen["state"] == "paused" and seen.get("reason") != "migration")


def _is_on_its_way(migration) -> bool:
    return migration.kind == LIVE and migration.phase == "sending"


def store_moves(session: Session, settings, host: Host, held: set[str], document: dict, result: dict) -> float | None:
    """Store what was seen of every move from or to the host; seconds until it wants to be looked at again."""
    waits: list[float] = []
    wanted = {server["id"]: server for server in document["servers"]}
    for migration in read_open_of_host(session, host.id):
        server_id = migration.server_id
        others = {migration.source_host_id, migration.dest_host_id} - {None}
        if server_id not in wanted or not others <= held:
            continue
        server = session.scalar(select(Server).where(Server.id == server_id))
        outcome = result["objects"].get("servers", {}).get(server_id, {"ok": True, "error": None})
        seen = result["observed"].get("servers", {}).get(server_id)
        report = result["observed"].get("moves", {}).get(server_id)
        for side in _read_sides(migration, host.id):
            if document["generation"] < getattr(migration, f"{side}_generation"):
                continue
            look = build_look(migration, side, wanted[server_id], seen, report, outcome)
            _store_look(session, migration, server, side, document["generation"], look, outcome)
            if look.get("failures"):
                waits.append(min(2 ** (look["failures"] - 1), MAX_BACKOFF_S))
        if not follow(session, settings, migration, server):
            refresh_move(session, server)
        confirmed_s = _compute_confirmed_s(settings, migration, server)
        if confirmed_s is not None and confirmed_s > 0:
            waits.append(confirmed_s)
        elif confirmed_s is not None:
            if not migration.unattended:
                session.add(_build_confirmation(server))
            enter_phase(session, settings, migration, server, "cleaning", "confirmed")
    return min(waits) if waits else None


def _compute_confirmed_s(settings, migration: Migration, server: Server) -> float | None:
    """Seconds until nobody is waited for any more who might confirm or revert; None where that is not the question."""
    if migration.phase != "resized" or server.vm_state != "resized":
        return None
    window_s = settings.compute.resize_confirm_window_s
    if migration.unattended or window_s <= 0:
        return 0 if migration.unattended else None
    return window_s - (now() - migration.phase_at).total_seconds()


def _build_confirmation(server: Server) -> ServerAction:
    """The loop's own words in the list of what was asked of the server."""
    return ServerAction(
        server_id=server.id, action="confirmResize", request_id=f"req-{new_uuid()}", user_id=OPERATOR,
        project_id=server.project_id,
    )  # fmt: skip


def _read_sides(migration, host_id: str) -> list[str]:
    sides = (("source", migration.source_host_id), ("dest", migration.dest_host_id))
    return [side for side, side_host in sides if side_host == host_id]


def _store_look(
    session: Session, migration: Migration, server: Server, side: str, generation: int, look: dict, outcome: dict
) -> None:
    before = dict(getattr(migration, f"observed_{side}"))
    same = all(before.get(name) == look.get(name) for name in ("phase", "state", "running"))
    if side == "dest":
        look["at"] = generation
    elif same and "at" in before:
        look["at"] = before["at"]
    else:
        # The destination's document as it is does not know of this yet; the next one does.
        look["at"] = read_generation(session, migration.dest_host_id)
    if migration.kind == EVACUATION:
        _mark_evacuated(migration, server, side, before, look, outcome)
    if not same or before.get("progress") != look.get("progress"):
        migration.phase_at = migration.updated_at = now()
    setattr(migration, f"observed_{side}", look)
    if _is_on_its_way(migration) and look.get("failures", 0) >= TRIES:
        _call_off(session, migration, look["error"])
    if not same and not is_same_host(migration):
        touch(session, migration.dest_host_id if side == "source" else migration.source_host_id)


def _mark_evacuated(migration, server, side: str, before: dict, look: dict, outcome: dict) -> None:
    if side == "source" and before.get("state") == "closed" and migration.phase == "preparing":
        look["state"] = "closed"
    if side == "dest" and migration.phase == "sending" and has_converged(server) and outcome["ok"]:
        look["state"] = "rebuilt"


def _call_off(session: Session, migration: Migration, error: str | None) -> None:
    """A live migration does not go on: it is aborted, and ends once it is seen where the guest is."""
    if not migration.abort_wanted:
        migration.abort_wanted, migration.error = True, error
        migration.updated_at = now()
        touch(session, migration.source_host_id)


def apply_move_deadlines(session: Session, settings, host: Host, held: set[str]) -> None:
    """Moves that did not go on for as long as an operation may take have failed, or are called off.

    One to a host that cannot be worked on, time after time, fails at once: its guest is well where it is.
    """
    late = now() - timedelta(seconds=settings.worker.operation_timeout_s)
    for migration in read_open_of_host(session, host.id):
        others = {migration.source_host_id, migration.dest_host_id} - {None}
        is_open = migration.kind != EVACUATION and migration.phase in UNDER_WAY
        silent = _is_silent_destination(migration, host)
        if not is_open or not others <= held or not (silent or migration.phase_at < late):
            continue
        if silent:
            error = f"host {host.name} cannot take it: {host.error}"
        else:
            error = f"{migration.phase} took longer than its deadline: {_find_reason(session, migration, host)}"
        if _is_on_its_way(migration):
            _call_off(session, migration, error)
            continue
        side = "dest" if silent or migration.kind == LIVE or migration.phase == "sending" else "source"
        look = {**getattr(migration, f"observed_{side}"), "state": "failed", "error": error}
        setattr(migration, f"observed_{side}", look)
        server = session.scalar(select(Server).where(Server.id == migration.server_id))
        follow(session, settings, migration, server)


def _is_silent_destination(migration, host: Host) -> bool:
    """Whether the guest is to come to a host on which run after run has failed. What is sent may have arrived."""
    silent = host.failures >= TRIES and host.id == migration.dest_host_id
    return silent and not is_same_host(migration) and not _is_on_its_way(migration)


def _find_reason(session: Session, migration: Migration, host: Host) -> str:
    sides: Iterable[tuple[str, dict]] = (
        (migration.source_host_id, migration.observed_source), (migration.dest_host_id, migration.observed_dest),
    )  # fmt: skip
    for host_id, look in sides:
        error = look.get("error") or session.get(Host, host_id).error
        if error:
            return error
    return "the hosts did not get to it in time"


def is_gone_elsewhere(session: Session, server: Server) -> bool:
    """Whether a deleted guest, seen gone from its own host, is on no other that can be reached."""
    for migration in session.scalars(
        select(Migration).where(Migration.server_id == server.id, Migration.phase != "ended")
    ):
        for host_id, look in (
            (migration.source_host_id, migration.observed_source), (migration.dest_host_id, migration.observed_dest),
        ):  # fmt: skip
            if host_id in (None, server.host_id) or look.get("state") == "gone" or look.get("fenced"):
                continue
            other = session.get(Host, host_id)
            if not other.forced_down and not other.failures:
                return False
    return True
