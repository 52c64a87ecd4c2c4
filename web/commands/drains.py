"""`kumo host drain|fence|unfence|evacuate`: a host emptied, while it runs or after it has died.

Prints the plan first, then what is left and what to do about it. Rows only: the worker moves the guests. Next room:
`web/draining.py`.
"""

from __future__ import annotations

import sys
import time

from sqlalchemy import select

from ..capacity import read_hosts
from ..dispatch import announce_due
from ..draining import Step, begin_drain, read_kept
from ..errors import Problem
from ..models import Database, Host, RequestLog, new_uuid, touch
from ..moves import fence_host as apply_fence
from .host_changes import fail
from .tables import show_table

PAUSE_S = 1.0
BAR = 30
WAYS = {"live-migration": "live", "migration": "cold", "evacuation": "anew", "moving": "on its way", "stays": "stays"}


def _find(session, name: str) -> Host | None:
    return session.scalar(select(Host).where(Host.name == name).execution_options(populate_existing=True))


def _unknown(session, name: str) -> int:
    known = ", ".join(session.scalars(select(Host.name).order_by(Host.name))) or "none"
    return fail(f"no host {name!r}; known: {known}")


def show_steps(steps: list[Step]) -> str:
    """The plan as a table."""
    rows = [(one.name, one.server_id, WAYS[one.way], one.dest, one.reason) for one in steps]
    return show_table(("GUEST", "ID", "WAY", "TO", "WHY"), rows)


def show_bar(done: int, total: int, moving: int, width: int = BAR) -> str:
    """A progress bar of guests."""
    filled = width * done // total if total else width
    return f"[{'#' * filled}{'-' * (width - filled)}] {done} of {total} gone, {moving} on their way"


class _Progress:
    """The bar on a terminal, rewritten in its line; elsewhere a line for each change."""

    def __init__(self, stream=None):
        self.stream, self.last = stream or sys.stdout, ""

    def show(self, text: str) -> None:
        if text != self.last:
            self.stream.write(f"\r{text}" if self.stream.isatty() else f"{text}\n")
            self.stream.flush()
            self.last = text

    def end(self) -> None:
        if self.last and self.stream.isatty():
            self.stream.write("\n")


def plan_steps(database: Database, settings, name: str, evacuating: bool) -> list[Step]:
    """What would be done: done, read, and rolled back. Problem where the host may not be evacuated."""
    with database.write() as session, session.begin() as transaction:
        host = _find(session, name)
        if not evacuating:
            host.enabled = False
            session.flush()
        steps = begin_drain(session, settings, host, f"req-{new_uuid()}", evacuating)
        transaction.rollback()
    return steps


def _begin(database: Database, settings, args, request_id: str, evacuating: bool, tried: set[str]) -> list[Step]:
    with database.write.begin() as session:
        read_hosts(session)
        host = _find(session, args.host)
        if not evacuating and host.enabled:
            host.enabled, host.disabled_reason = False, "drained by kumo host drain"
        return begin_drain(session, settings, host, request_id, evacuating, args.parallel, tried)


def _log(database: Database, args, request_id: str, verb: str) -> None:
    """The request, so that `kumo logs request` leads from it to the runs."""
    with database.write.begin() as session:
        session.add(
            RequestLog(
                request_id=request_id, service="kumo", method="CLI", path=f"kumo host {verb} {args.host}", status=0
            )
        )


def _empty_host(args, settings, evacuating: bool) -> int:
    verb = "evacuate" if evacuating else "drain"
    database = Database(settings.database.url)
    with database.read() as session:
        if _find(session, args.host) is None:
            return _unknown(session, args.host)
    try:
        steps = plan_steps(database, settings, args.host, evacuating)
    except Problem as problem:
        return fail(problem.message)
    print(show_steps(steps) if steps else f"host {args.host} has no guests")
    if args.plan:
        stay = sum(one.way == "stays" for one in steps)
        print(f"{len(steps) - stay} of {len(steps)} guests would go; nothing was changed")
        return 1 if stay else 0
    request_id, tried = f"req-{new_uuid()}", set()
    _log(database, args, request_id, verb)
    total, progress = len(steps), _Progress()
    deadline = time.monotonic() + args.timeout
    while True:
        steps = _begin(database, settings, args, request_id, evacuating, tried)
        tried |= {one.server_id for one in steps if one.way in ("live-migration", "migration", "evacuation", "moving")}
        announce_due(settings, database)
        moving = sum(one.way not in ("stays",) for one in steps)
        if not args.wait or not moving or time.monotonic() > deadline:
            break
        progress.show(show_bar(total - len(steps), max(total, len(steps)), moving))
        time.sleep(PAUSE_S)
    if args.wait:
        progress.show(show_bar(total - len(steps), max(total, len(steps)), moving))
        progress.end()
    return _report(database, args, verb, steps)


def _report(database: Database, args, verb: str, steps: list[Step]) -> int:
    """What is left, and what to do next."""
    staying = [one for one in steps if one.way == "stays"]
    moving = len(steps) - len(staying)
    with database.read() as session:
        kept = read_kept(session, _find(session, args.host))
    for one in staying:
        print(f"{one.name} ({one.server_id}) stays: {one.reason}")
    for server in kept:
        print(
            f"{server.name} ({server.id}) runs elsewhere; its old disk is kept here until its resize is confirmed: "
            f"openstack server resize confirm {server.id} (or revert)"
        )
    again = f"kumo host {verb} {args.host} --wait"
    if staying or kept:
        print(f"{len(staying)} guests stay on {args.host}, {moving} are on their way; see to these, then: {again}")
        return 1
    if moving:
        print(f"{moving} guests are on their way from {args.host}; to see them off: {again}")
        return 1 if args.wait else 0
    print(f"host {args.host} has no guests any more; new ones again: kumo host enable {args.host}")
    return 0


def drain_host(args, settings) -> int:
    """Empty a host that works."""
    return _empty_host(args, settings, evacuating=False)


def evacuate_host(args, settings) -> int:
    """Make the guests of a host that is off anew on others."""
    return _empty_host(args, settings, evacuating=True)


def fence_host(args, settings) -> int:
    """The host is off, the operator says."""
    if not args.it_is_off:
        return fail(
            f"make sure that {args.host} is off (cut its power) and say so with --it-is-off: a guest that still runs "
            "there and writes to what its successor writes to destroys it"
        )
    database = Database(settings.database.url)
    with database.write.begin() as session:
        read_hosts(session)
        host = _find(session, args.host)
        if host is None:
            return _unknown(session, args.host)
        news = apply_fence(session, settings, host, f"req-{new_uuid()}")
    announce_due(settings, database)
    print(f"host {args.host} is fenced{'' if news else ' already'}; next: kumo host evacuate {args.host}")
    return 0


def unfence_host(args, settings) -> int:
    """It may come back: what was evacuated from it is removed there first."""
    database = Database(settings.database.url)
    with database.write.begin() as session:
        host = _find(session, args.host)
        if host is None:
            return _unknown(session, args.host)
        news, host.forced_down = host.forced_down, False
        touch(session, host.id)
    announce_due(settings, database)
    print(f"host {args.host} is {'no longer' if news else 'not'} fenced")
    return 0
