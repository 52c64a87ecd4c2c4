"""`kumo run …` and `kumo logs …`: from a request to its run, from a fault to its cause."""

from __future__ import annotations

import sys
import time

from sqlalchemy import select

from ..dispatch import nudge
from ..models import Database, Host, HostRequest, Migration, RequestLog, Run, Server
from .tables import show_table, show_time


def list_runs(args, settings) -> int:
    with Database(settings.database.url).read() as session:
        statement = select(Run, Host.name).join(Host, Host.id == Run.host_id).order_by(Run.started_at.desc())
        if args.host:
            statement = statement.where(Host.name == args.host)
        rows = [
            (
                run.id,
                name,
                run.generation,
                run.state,
                show_time(run.started_at),
                _seconds(run),
                len(run.actions),
                run.error,
            )
            for run, name in session.execute(statement.limit(args.limit))
        ]
    print(show_table(("RUN", "HOST", "GENERATION", "STATE", "STARTED", "SECONDS", "ACTIONS", "ERROR"), rows))
    return 0


def _seconds(run: Run) -> str | None:
    return f"{(run.finished_at - run.started_at).total_seconds():.2f}" if run.finished_at else None


def _show(session, run: Run) -> None:
    host = session.get(Host, run.host_id)
    print(f"run {run.id}  host {host.name}  generation {run.generation}  {run.state}")
    print(f"  started {show_time(run.started_at)}  seconds {_seconds(run)}  worker {run.worker}")
    if run.error:
        print(f"  error: {run.error}")
    for row in session.scalars(select(HostRequest).where(HostRequest.run_id == run.id).order_by(HostRequest.id)):
        log = session.scalar(select(RequestLog).where(RequestLog.request_id == row.request_id))
        print(f"  request {row.request_id}" + (f"  {log.method} {log.path} {log.status}" if log else ""))
    for task in run.tasks:
        print(f"  task {task['name']}: {task['state']}, {task['seconds'] or 0:.2f} s")
    for action in run.actions:
        print(f"  action {action['section']} {action['object_id']} {action['verb']}")
    for section, results in run.results.items():
        for object_id, one in results.items():
            if not one["ok"]:
                print(f"  failed {section} {object_id}: {one['error']}")


def show_run(args, settings) -> int:
    with Database(settings.database.url).read() as session:
        run = _find_run(session, args.run)
        if run is None:
            return 1
        _show(session, run)
    return 0


def _find_run(session, begin: str) -> Run | None:
    """The one run whose id begins so; None, and said why, where that is not one."""
    found = session.scalars(select(Run).where(Run.id.startswith(begin, autoescape=True)).limit(2)).all()
    if len(found) != 1:
        print(f"kumo: {'more than one run begins' if found else 'no run begins'} with {begin!r}", file=sys.stderr)
        return None
    return found[0]


def cancel_run(args, settings) -> int:
    """Have a run ended by its worker, with what it started here and on the host; wait until it has ended."""
    database = Database(settings.database.url)
    with database.write.begin() as session:
        run = _find_run(session, args.run)
        if run is None:
            return 1
        if run.state != "running":
            print(f"kumo: run {run.id} is not under way: it is {run.state}", file=sys.stderr)
            return 1
        run.cancel_wanted, run_id = True, run.id
    nudge(settings)
    deadline = time.monotonic() + args.wait
    while True:
        with database.read() as session:
            state = session.scalar(select(Run.state).where(Run.id == run_id))
        if state != "running":
            print(f"run {run_id}: {state}; its host is due again by itself, for what was wanted is still wanted")
            return 0
        if time.monotonic() >= deadline:
            print(
                f"kumo: run {run_id} has not ended within {args.wait} s; is its worker alive? `kumo status`",
                file=sys.stderr,
            )
            return 1
        time.sleep(0.2)


def list_errors(args, settings) -> int:
    """Newest first: requests answered with an error, failed runs, what runs could not bring about, faults, moves."""
    found: list[tuple] = []
    with Database(settings.database.url).read() as session:
        for log in session.scalars(
            select(RequestLog).where(RequestLog.status >= 400).order_by(RequestLog.id.desc()).limit(args.limit)
        ):
            found.append(
                (log.created_at, "request", log.request_id, f"{log.method} {log.path} {log.status}: {log.error}")
            )
        for run in session.scalars(select(Run).order_by(Run.started_at.desc()).limit(args.limit * 5)):
            if run.error:
                found.append((run.started_at, "run", run.id, run.error))
            for section, results in run.results.items():
                for object_id, one in results.items():
                    if not one["ok"]:
                        found.append((run.started_at, "run", run.id, f"{section} {object_id}: {one['error']}"))
        for server in session.scalars(
            select(Server)
            .where(Server.fault_message.is_not(None), Server.gone_at.is_(None))
            .order_by(Server.fault_at.desc())
            .limit(args.limit)
        ):
            found.append((server.fault_at, "server", server.id, server.fault_message))
        failed = select(Migration).where(Migration.error.is_not(None)).order_by(Migration.id.desc()).limit(args.limit)
        for move in session.scalars(failed):
            found.append((move.updated_at, "move", move.uuid, f"{move.kind} of {move.server_id}: {move.error}"))
    found.sort(key=lambda row: row[0], reverse=True)
    rows = [(show_time(at), kind, name, message) for at, kind, name, message in found[: args.limit]]
    print(show_table(("AT", "WHAT", "ID", "ERROR"), rows))
    return 0


def show_request(args, settings) -> int:
    with Database(settings.database.url).read() as session:
        logs = session.scalars(select(RequestLog).where(RequestLog.request_id == args.request_id)).all()
        asked = session.scalars(select(HostRequest).where(HostRequest.request_id == args.request_id)).all()
        if not logs and not asked:
            print(
                f"kumo: nothing is recorded of {args.request_id} (reads are not, and old ones are pruned)",
                file=sys.stderr,
            )
            return 1
        for log in logs:
            print(f"{show_time(log.created_at)}  {log.service}  {log.method} {log.path}  {log.status}")
            print(f"  user {log.user_id}  project {log.project_id}" + (f"\n  error: {log.error}" if log.error else ""))
        for row in asked:
            if row.run_id is None:
                host = session.get(Host, row.host_id)
                print(f"waits for host {host.name} (generation {row.generation}, seen {host.observed_generation})")
        for run_id in dict.fromkeys(row.run_id for row in asked if row.run_id):
            run = session.get(Run, run_id)
            if run is not None:
                _show(session, run)
    return 0
