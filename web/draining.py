"""A host emptied of its guests: which goes where by which way, what cannot go and why, and the moves begun.

`begin_drain` is the plan and the act alike: rolled back, it is what would be done. It never stops a guest: running ones
are live-migrated, stopped ones are moved and confirmed by themselves. Next rooms: `commands/drains.py`,
`move_scheduler.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from .capacity import read_hosts
from .errors import Conflict, Problem
from .evacuations import check_fenced, check_volumes, start_evacuation
from .models import Host, Migration, Server, ServerAction, now
from .models.migrations import COLD, EVACUATION, LIVE
from .move_scheduler import Wish, choose_destination
from .moves import start_move
from .reconcile.status import TASK_OF_MOVE, check_allowed
from .scheduler import NoValidHost, is_up

OPERATOR = "kumo"  # who asked, in the rows of moves and actions
ACTIONS = {LIVE: "live-migration", COLD: "migrate", EVACUATION: "evacuate"}


@dataclass(frozen=True)
class Step:
    """One guest of the host. ``way``: a kind of migration; moving: it is on its way; stays: ``reason`` says why."""

    server_id: str
    name: str
    way: str
    dest: str | None = None
    reason: str | None = None


def choose_way(server, evacuating: bool) -> tuple[str, str | None]:
    """(way, reason) of one guest, as `Step` has them. Pure."""
    if server.deleted_at is not None:
        return "moving", "it is being deleted"
    if server.move in TASK_OF_MOVE:
        return "moving", None
    if evacuating:
        return EVACUATION, None
    if server.move == "verify":
        return "stays", f"its resize is not confirmed: openstack server resize confirm {server.id} (or revert)"
    if server.task_state is not None:
        return "stays", f"it is busy ({server.task_state}): ask again when that is over"
    if server.vm_state == "shelved":
        return "stays", f"it is shelved: openstack server shelve --offload {server.id} takes it off this host"
    if server.vm_state == "active":
        return LIVE, None
    if server.vm_state == "stopped":
        return COLD, None
    return "stays", f"it is {server.status}: neither running nor stopped"


def read_guests(session: Session, host: Host) -> list[Server]:
    """The guests of the host that are not gone, by name."""
    statement = select(Server).where(Server.host_id == host.id, Server.gone_at.is_(None))
    return list(session.scalars(statement.order_by(Server.name, Server.id).execution_options(populate_existing=True)))


def read_kept(session: Session, host: Host) -> list[Server]:
    """Guests elsewhere whose old disk the host keeps until their resize is confirmed or reverted."""
    kept = select(Migration.server_id).where(
        Migration.source_host_id == host.id, Migration.dest_host_id != host.id, Migration.phase == "resized"
    )
    return list(session.scalars(select(Server).where(Server.id.in_(kept), Server.host_id != host.id)))


def begin_drain(
    session: Session,
    settings,
    host: Host,
    request_id: str,
    evacuating: bool = False,
    most: int = 0,
    tried: frozenset[str] | set[str] = frozenset(),
) -> list[Step]:
    """Begin the moves of the host's guests, at most ``most`` at a time (0: all) and none of ``tried`` again.

    One step for each guest of the host; one that waits for its turn says so.
    """
    names = {row.id: row.name for row in read_hosts(session)}
    if evacuating:
        check_fenced(host, settings)
    elif not is_up(host.observed_at, host.forced_down, now(), settings.worker.sweep_s, host.failures):
        raise Conflict(
            f"host {host.name} is down: nothing can be moved off it. Should it be off for good: "
            f"kumo host fence {host.name}"
        )
    steps, under_way = [], 0
    guests = [(server, *choose_way(server, evacuating)) for server in read_guests(session, host)]
    under_way = sum(way == "moving" for _, way, _ in guests)
    for server, way, reason in guests:
        dest = None
        if way in ACTIONS and server.id in tried:
            way, reason = "stays", _read_failure(session, server)
        elif way in ACTIONS and most and under_way >= most:
            way, reason = "stays", "it waits for others to have gone"
        elif way in ACTIONS:
            try:
                dest = names[_begin(session, settings, server, way, request_id)]
                under_way += 1
            except NoValidHost as refusal:
                way, reason = "stays", refusal.details.replace("\n", "; ")
            except Problem as problem:
                way, reason = "stays", problem.message
        elif way == "moving":
            dest = _read_dest(session, server, names)
        steps.append(Step(server.id, server.name, way, dest, reason))
    return steps


def _begin(session: Session, settings, server: Server, way: str, request_id: str) -> str:
    who = {"user_id": OPERATOR, "project_id": server.project_id, "request_id": request_id}
    if way == EVACUATION:
        check_allowed(server, "evacuate")
        check_volumes(session, server)
        dest = choose_destination(session, settings, server, Wish(over_network=False))
        session.add(ServerAction(server_id=server.id, action=ACTIONS[way], **who))
        start_evacuation(session, settings, server, dest, **who)
        return dest
    check_allowed(server, "live_migrate" if way == LIVE else "migrate")
    dest = choose_destination(session, settings, server, Wish(live=way == LIVE))
    session.add(ServerAction(server_id=server.id, action=ACTIONS[way], **who))
    start_move(session, settings, server, way, dest, unattended=way == COLD, **who)
    return dest


def _read_last(session: Session, server: Server) -> Migration | None:
    statement = select(Migration).where(Migration.server_id == server.id).order_by(Migration.id.desc())
    return session.scalars(statement.limit(1)).first()


def _read_dest(session: Session, server: Server, names: dict[str, str]) -> str | None:
    last = _read_last(session, server)
    return names.get(last.dest_host_id) if last is not None else None


def _read_failure(session: Session, server: Server) -> str:
    last = _read_last(session, server)
    return f"its move failed: {last.error}" if last is not None and last.error else "its move was called off"
