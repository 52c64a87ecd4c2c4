"""What a run saw, into rows: the only writer of observed columns.

Statuses are not decided here but computed by `status.py` from what is stored. One transaction per
run; a worker that lost its lease stores nothing. Next room: `loop.py`.
"""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session, selectinload

from ..allocation import end_port_use
from ..deletions import reclaim_servers
from ..models import (
    ConsoleLog,
    ConsoleToken,
    FloatingIP,
    Host,
    HostRequest,
    Migration,
    Port,
    Router,
    Run,
    Server,
    ServerAction,
    finish_actions,
    now,
    touch,
)
from ..moves import follow_closed_targets
from ..reimages import follow_reimages
from ..router_legs import sync_router_legs
from ..shelving import OFF, fail_shelving, finish_unshelving, follow_shelving, mark_shelved, store_offloaded
from ..volume_attachments import end_attachments
from ..volume_images import follow_volume_images
from .faults import store_fault
from .observe_attachments import store_attachments
from .observe_interfaces import store_detached
from .observe_migrations import (
    apply_move_deadlines,
    is_gone_elsewhere,
    read_other_hosts,
    store_moves,
)
from .observe_questions import apply_password_deadlines, store_answers, store_posted
from .observe_server_images import apply_image_deadlines, store_server_images
from .observe_volumes import store_volumes
from .run import Outcome
from .status import MOVING, has_converged, refresh_status

PENDING_S = 1
MAX_BACKOFF_S = 60
CANCELLED_S = 10  # before a host whose run was cancelled has its next one
TRIES = 4  # of one object, before its fault is the user's to see


def store_outcome(session: Session, settings, run: Run, document: dict, outcome: Outcome) -> bool:
    """Store a finished run; False, and nothing stored, where its lease is no longer held."""
    held = _hold_hosts(session, run.host_id)
    host = session.get(Host, run.host_id)
    if host is None or host.fence != run.fence or host.lease_owner != run.worker:
        run.state, run.error, run.finished_at = "lost", "another worker had taken the host's lease", now()
        return False
    run.finished_at = now()
    run.state = "succeeded" if outcome.ok else "cancelled" if outcome.cancelled else "failed"
    run.error = outcome.error
    run.tasks = outcome.tasks
    run.actions = outcome.result.get("actions", [])
    run.results = outcome.result.get("objects", {})
    run.changed = bool(outcome.result.get("changed"))
    host.lease_owner = host.lease_expires_at = None
    if outcome.ok:
        retry_s = _store_observed(session, settings, host, held, document, outcome.result)
        host.failures, host.error = 0, None
    elif outcome.cancelled:
        retry_s = CANCELLED_S  # somebody wanted that: it is no failure of the host
    else:
        host.failures += 1
        host.error = outcome.error
        retry_s = min(2 ** min(host.failures - 1, 10), MAX_BACKOFF_S)
    _apply_deadlines(session, settings, host, document)
    apply_move_deadlines(session, settings, host, held)
    apply_image_deadlines(session, settings, host)
    shelved_s = follow_shelving(session, settings, host)
    apply_password_deadlines(session, settings, host)
    reclaim_s = reclaim_servers(session, settings, host)
    retry_s = min(one for one in (retry_s, shelved_s, reclaim_s) if one is not None)
    session.flush()
    session.refresh(host, ["generation"])
    # Else a request came in meanwhile, or what was just seen has changed the document: the host is due at once.
    if host.generation == run.generation:
        host.next_run_at = now() + timedelta(seconds=retry_s)
    return True


def _hold_hosts(session: Session, host_id: str) -> set[str]:
    """Hold the host's row and those of the hosts it shares moves with, in one order for all: ids of what is held."""
    ids = read_other_hosts(session, host_id)
    session.scalars(
        select(Host)
        .where(Host.id.in_(ids))
        .order_by(Host.id)
        .with_for_update()
        .execution_options(populate_existing=True)
    ).all()
    return ids


def _store_observed(session: Session, settings, host: Host, held: set[str], document: dict, result: dict) -> float:
    """Store what was seen; seconds until the host wants to be looked at again."""
    observed = result["observed"]
    host.observed_generation = document["generation"]
    host.observed_at = now()
    host.observed_pending = bool(result.get("pending"))
    host.observed = {key: observed[key] for key in ("host", "orphans", "tasks", "image_cache") if key in observed}
    retry_s: float = PENDING_S if host.observed_pending else settings.worker.sweep_s
    failures = [retry_s]
    rows = {
        server.id: server
        for server in session.scalars(select(Server).where(Server.id.in_([s["id"] for s in document["servers"]])))
    }
    leaving = [server["id"] for server in document["servers"] if server["wanted"] == "absent"]
    left = set(session.scalars(select(Port.network_id).where(Port.device_id.in_(leaving)))) if leaving else set()
    open_actions = select(ServerAction.server_id).where(
        ServerAction.server_id.in_(list(rows)), ServerAction.finished_at.is_(None)
    )
    busy = set(session.scalars(open_actions))
    for wanted in document["servers"]:
        server = rows.get(wanted["id"])
        if server is None or server.host_id != host.id:
            continue  # what another host has of it is its move's, see observe_migrations.py
        outcome = result["objects"].get("servers", {}).get(server.id, {"ok": True, "error": None})
        seen = observed.get("servers", {}).get(server.id)
        _store_server(session, host, server, wanted, seen, outcome, server.id in busy)
        if server.observed_failures:
            failures.append(min(2 ** (server.observed_failures - 1), MAX_BACKOFF_S))
        if server.gone_at is not None and server.observed_at == host.observed_at:
            failures.append(0)  # what it used (bridges, chains) can go in the next run
    store_posted(session, rows, observed)
    if left:
        sync_router_legs(session, settings, left)
    store_detached(session, settings, host, document, result)
    _store_network(session, host, observed)
    store_attachments(session, host, document, result)
    volumes_wait_s = store_volumes(session, host, document, result)
    if volumes_wait_s is not None:
        failures.append(volumes_wait_s)
    moves_wait_s = store_moves(session, settings, host, held, document, result)
    if moves_wait_s is not None:
        failures.append(moves_wait_s)
    follow_closed_targets(session, settings)
    store_server_images(session, host, result)
    follow_volume_images(session, settings, host)
    follow_reimages(session, host, document, result)
    _store_gone_elsewhere(session, host, document)
    return min(failures)


def _store_server(
    session: Session, host: Host, server: Server, wanted: dict, seen: dict | None, outcome: dict, busy: bool
) -> None:
    """One server's observed columns, from what the run wanted of it, saw of it and could not do.

    ``busy``: something that was asked of it has not ended yet.
    """
    before = (server.status, server.task_state, server.power_state)
    _store_seen(session, host, server, wanted, seen, outcome, busy)
    refresh_status(server)
    if before != (server.status, server.task_state, server.power_state):
        server.updated_at = now()


def _store_seen(
    session: Session, host: Host, server: Server, wanted: dict, seen: dict | None, outcome: dict, busy: bool
) -> None:
    server.observed_at = host.observed_at
    server.observed_error = outcome["error"]
    server.observed_failures = 0 if outcome["ok"] else server.observed_failures + 1
    if wanted["wanted"] == "absent":
        if seen is None and outcome["ok"]:
            server.observed_state = server.observed_reason = None
            if server.deleted_at is not None and is_gone_elsewhere(session, server):
                _store_gone(session, server)
            elif server.deleted_at is None and server.shelve == "offloaded" and server.shelved_at is not None:
                store_offloaded(session, server)
        elif server.observed_failures == TRIES:
            fail_shelving(session, server, outcome["error"] or "the host gave no reason")
        return
    server.observed_state = seen["state"] if seen else None
    server.observed_reason = seen.get("reason") if seen else None
    server.observed_consoles = {}
    if seen:
        server.observed_rescue = seen.get("rescue")
        server.observed_reboot_done = max(server.observed_reboot_done, seen.get("reboot_done", 0))
        server.observed_rebuild_done = max(server.observed_rebuild_done, seen.get("rebuild_done", 0))
        server.observed_start_done = max(server.observed_start_done, seen.get("start_done", 0))
        server.observed_consoles = {"host": host.id, **(seen.get("consoles") or {})}
        if seen.get("console"):
            _store_console(session, server, seen["console"])
        store_answers(session, server, seen)
    if _was_shut_down_inside(server, wanted, seen):
        server.power = "off"
        server.operation = None
    if server.move in MOVING:
        return  # what it is to come to is its move's, and so is what goes wrong
    if outcome["ok"] and wanted["power"] == "off" and server.observed_state in OFF:
        mark_shelved(session, server)
    if has_converged(server) and outcome["ok"]:
        server.built_at = server.built_at or now()
        if not server.fault_kept:
            server.fault_code = server.fault_message = server.fault_details = server.fault_at = None
        server.operation = server.operation_deadline = None
        if busy:
            finish_actions(session, server.id, None)
        if server.shelve is None and server.shelved_at is not None:
            finish_unshelving(session, server)
    elif server.observed_failures >= TRIES:
        store_fault(session, server, server.observed_error or "the host gave no reason")


def _was_shut_down_inside(server: Server, wanted: dict, seen: dict | None) -> bool:
    """Whether the guest's owner shut it down from inside: a wish like any other, unless something newer was asked."""
    asked_meanwhile = server.power != wanted["power"] or server.start_wanted != wanted["start"]["wanted"]
    return (
        seen is not None
        and wanted["power"] != "off"
        and seen["state"] == "shutoff"
        and seen.get("reason") == "shutdown"
        and not seen.get("stop_pending")
        and not asked_meanwhile
        and server.built_at is not None
        and server.reboot_wanted <= server.observed_reboot_done
        and server.rescue_image_id == seen.get("rescue")
        and server.shelve is None
    )


def _store_gone(session: Session, server: Server) -> None:
    """The guest was seen gone: its ports and addresses are free, the tombstone is final."""
    server.observed_state = server.observed_reason = None
    server.gone_at = now()
    server.observed_posted_password = None
    server.operation = server.operation_deadline = None
    finish_actions(session, server.id, None)
    ports = session.scalars(
        select(Port).where(Port.device_id == server.id).options(selectinload(Port.addresses))
    ).unique()
    for port in list(ports):
        end_port_use(session, port)
    end_attachments(session, server.id)
    session.execute(delete(ConsoleToken).where(ConsoleToken.server_id == server.id))
    touch(session, server.host_id)


def _store_gone_elsewhere(session: Session, host: Host, document: dict) -> None:
    """Deleted guests that only this host still had a part of: their own host was seen without them before."""
    absent = [server["id"] for server in document["servers"] if server["wanted"] == "absent"]
    waiting = select(Server).where(
        Server.id.in_(absent), Server.host_id != host.id, Server.deleted_at.is_not(None), Server.gone_at.is_(None)
    )
    for server in session.scalars(waiting).all():
        own = [
            one.observed_source if one.source_host_id == server.host_id else one.observed_dest
            for one in session.scalars(select(Migration).where(Migration.server_id == server.id))
            if server.host_id in (one.source_host_id, one.dest_host_id)
        ]
        if own and own[-1].get("state") == "gone" and is_gone_elsewhere(session, server):
            _store_gone(session, server)
            refresh_status(server)


def _store_console(session: Session, server: Server, console: dict) -> None:
    log = session.get(ConsoleLog, server.id)
    if log is None:
        log = ConsoleLog(server_id=server.id, number=0, text="")
        session.add(log)
    log.number, log.text, log.read_at = console["seq"], console["text"].replace("\x00", ""), now()
    server.observed_console_done = max(server.observed_console_done, console["seq"])


def _store_network(session: Session, host: Host, observed: dict) -> None:
    for key, model in (("ports", Port), ("routers", Router), ("floating_ips", FloatingIP)):
        # A port that moves is on two hosts; it is as the one has it that it is bound to.
        own = (Port.host_id == host.id,) if model is Port else ()
        states: dict[str, list[str]] = {}
        for object_id, seen in observed.get(key, {}).items():
            states.setdefault(seen["state"], []).append(object_id)
        for state, ids in states.items():
            session.execute(
                update(model)
                .where(model.id.in_(ids), model.observed_state.is_distinct_from(state), *own)
                .values(observed_state=state, updated_at=model.updated_at)
                .execution_options(synchronize_session=False)
            )


def _apply_deadlines(session: Session, settings, host: Host, document: dict) -> None:
    """Operations past their deadline become faults, with the host's own words."""
    late = session.scalars(
        select(Server).where(Server.host_id == host.id, Server.gone_at.is_(None), Server.operation_deadline < now())
    )
    for server in late:
        reason = server.observed_error or host.error or "the host did not get to it in time"
        store_fault(session, server, f"{server.operation} took longer than its deadline: {reason}")
        refresh_status(server)


def mark_requests(session: Session, run: Run) -> None:
    """The requests that this run carries."""
    session.execute(
        update(HostRequest)
        .where(
            HostRequest.host_id == run.host_id,
            HostRequest.generation <= run.generation,
            HostRequest.run_id.is_(None),
        )
        .values(run_id=run.id)
    )
