"""Moves of servers begun and brought from phase to phase, in the caller's transaction, for handlers and the loop alike.

`enter_phase` is the one place where a server gets another host or flavor: in the transaction in which that was seen.
Chooses nothing: which phase follows is `reconcile/migration_status.py`'s answer, which host `move_scheduler.py`'s.
Callers hold the rows of both hosts. Next rooms: `resources/compute/server_moves.py`, `reconcile/observe_migrations.py`.
"""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from .errors import Conflict
from .models import Host, Migration, Port, Server, VolumeAttachment, finish_actions, now
from .models.migrations import EVACUATION, LIVE, UNDER_WAY
from .models.networks import COMPUTE
from .models.reach import touch_hosts_and_networks
from .reconcile.migration_status import (
    choose_home,
    choose_next,
    compute_move,
    compute_status,
    is_released,
)
from .reconcile.status import refresh_status
from .router_legs import sync_router_legs
from .volume_attachments import replace_attachments


def read_open_of_server(session: Session, server_id: str) -> list[Migration]:
    """The server's migrations that have not ended, the oldest first."""
    statement = select(Migration).where(Migration.server_id == server_id, Migration.phase != "ended")
    return list(session.scalars(statement.order_by(Migration.id)))


def read_open_of_host(session: Session, host_id: str) -> list[Migration]:
    """The migrations that have not ended from or to the host, the oldest first."""
    concerned = or_(Migration.source_host_id == host_id, Migration.dest_host_id == host_id)
    statement = select(Migration).where(concerned, Migration.phase != "ended").order_by(Migration.id)
    return list(session.scalars(statement.execution_options(populate_existing=True)))


def start_move(
    session: Session,
    settings,
    server: Server,
    kind: str,
    dest_host_id: str | None,
    *,
    user_id: str,
    project_id: str,
    flavor_id: str | None = None,
    flavor: dict | None = None,
    error: str | None = None,
    unattended: bool = False,
    request_id: str | None = None,
) -> Migration:
    """A move of the server, to a host that was chosen for it; with ``error`` one that has failed before it began."""
    server.fault_code = server.fault_message = server.fault_details = server.fault_at = None
    server.fault_kept = False
    migration = Migration(
        server_id=server.id,
        project_id=project_id,
        user_id=user_id,
        kind=kind,
        source_host_id=server.host_id,
        dest_host_id=dest_host_id,
        old_flavor_id=server.flavor_id,
        old_flavor=dict(server.flavor),
        new_flavor_id=flavor_id or server.flavor_id,
        new_flavor=dict(flavor or server.flavor),
        phase="preparing",
        unattended=unattended,
        observed_source={},
        observed_dest={},
    )
    session.add(migration)
    session.flush()
    if error is not None:
        migration.phase, migration.outcome, migration.error = "ended", "failed", error
        migration.status, migration.updated_at = compute_status(migration), now()
        return migration
    enter_phase(session, settings, migration, server, "preparing", request_id=request_id)
    return migration


def enter_phase(
    session: Session,
    settings,
    migration: Migration,
    server: Server,
    phase: str,
    outcome: str | None = None,
    error: str | None = None,
    request_id: str | None = None,
) -> None:
    """The migration goes on: the server is where the phase has it, and every host concerned is told."""
    migration.phase, migration.outcome, migration.error = phase, outcome, error
    migration.status = compute_status(migration)
    migration.phase_at = migration.updated_at = now()
    ports = list(session.scalars(select(Port).where(Port.device_id == server.id)).unique())
    if phase != "ended":
        _place(session, migration, server, ports)
    if (migration.kind, phase) == (LIVE, "sending"):
        migration.observed_source = {**migration.observed_source, "sent": True}  # from here on it may be there
    _end_operations(session, settings, migration, server)
    session.flush()
    networks = {port.network_id for port in ports}
    try:
        sync_router_legs(session, settings, networks, request_id=request_id)
    except Conflict:
        if phase == "preparing":
            raise
        # A guest that is back without an address outside is better than one whose move stands still.
    hosts = {migration.source_host_id, migration.dest_host_id} - {None}
    touch_hosts_and_networks(session, hosts, networks, request_id)
    migration.source_generation = read_generation(session, migration.source_host_id)
    migration.dest_generation = read_generation(session, migration.dest_host_id)
    refresh_move(session, server)


def _place(session: Session, migration: Migration, server: Server, ports: list[Port]) -> None:
    home = choose_home(migration)
    is_dest = home == "dest"
    server.observed_failures = 0
    server.flavor_id = migration.new_flavor_id if is_dest else migration.old_flavor_id
    server.flavor = dict(migration.new_flavor if is_dest else migration.old_flavor)
    host_id = migration.dest_host_id if is_dest else migration.source_host_id
    if server.host_id == host_id:
        return
    server.host_id = host_id
    seen = migration.observed_dest if is_dest else migration.observed_source
    # What has come alive runs, or is about to: its last look there may be of the moment before it was let go on.
    runs = seen.get("running") or (migration.kind == LIVE and is_dest)
    up = "paused" if server.power == "paused" else "running"
    server.observed_state = up if runs else None if migration.kind == EVACUATION else "shutoff"
    server.observed_reason = server.observed_error = None
    zone = session.get(Host, host_id).zone
    for port in ports:
        port.host_id, port.device_owner, port.observed_state = host_id, COMPUTE + zone, None


def _end_operations(session: Session, settings, migration: Migration, server: Server) -> None:
    """What users asked for ends with some phases, and has a deadline in those that the server is brought up in."""
    server.updated_at = now()
    if migration.phase == "undoing" and migration.outcome != "reverted":
        finish_actions(session, server.id, "Error" if migration.outcome == "failed" else None)
    elif migration.phase == "cleaning" and migration.outcome == "completed":
        finish_actions(session, server.id, None)
    rebuilding = migration.kind == EVACUATION and migration.phase in UNDER_WAY
    brought_up = migration.phase == "resized" or migration.outcome == "reverted" or rebuilding
    if brought_up and server.deleted_at is None:
        server.operation = (
            "evacuate" if rebuilding else "resize" if migration.phase == "resized" else "revert of the resize"
        )
        server.operation_deadline = now() + timedelta(seconds=settings.worker.operation_timeout_s)


def refresh_move(session: Session, server: Server) -> None:
    """Compute what its migrations make of the server, and its status; store both."""
    session.flush()
    found = (compute_move(one) for one in reversed(read_open_of_server(session, server.id)))
    server.move = next((move for move in found if move is not None), None)
    refresh_status(server)


def follow(session: Session, settings, migration: Migration, server: Server, request_id: str | None = None) -> bool:
    """Enter the phase that what was seen leads to; whether there is one."""
    following = choose_next(migration, server.deleted_at is not None)
    if following is None:
        return False
    phase, outcome, error = following
    enter_phase(session, settings, migration, server, phase, outcome, error, request_id)
    return True


def follow_deletion(session: Session, settings, server: Server, request_id: str | None = None) -> None:
    """The server's tombstone was set: what moves it ends, and both hosts are told."""
    for migration in read_open_of_server(session, server.id):
        if not follow(session, settings, migration, server, request_id):
            hosts = {migration.source_host_id, migration.dest_host_id} - {None}
            touch_hosts_and_networks(session, hosts, (), request_id)


def follow_closed_targets(session: Session, settings, request_id: str | None = None) -> None:
    """Evacuations whose guests' volumes are open to the new host alone go on: nothing else writes to them any more."""
    waiting = select(Migration).where(Migration.kind == EVACUATION, Migration.phase == "preparing")
    for migration in session.scalars(waiting.order_by(Migration.id)).all():
        mine = VolumeAttachment.server_id == migration.server_id
        attachments = session.scalars(select(VolumeAttachment).where(mine)).all()
        if all(one.deleted_at is None and one.observed_export is not None for one in attachments):
            migration.observed_source = {**migration.observed_source, "state": "closed"}
            server = session.scalar(select(Server).where(Server.id == migration.server_id))
            follow(session, settings, migration, server, request_id)


def fence_host(session: Session, settings, host: Host, request_id: str | None = None) -> bool:
    """An admin says that the host is off: whatever run it is in is lost, and what is told to it later is newer.

    Whether that is news. Callers hold all hosts' rows.
    """
    if host.forced_down:
        return False
    host.forced_down = True
    host.fence += 1
    host.lease_owner = host.lease_expires_at = None
    session.flush()
    store_fencing(session, settings, host, request_id)
    return True


def store_fencing(session: Session, settings, host: Host, request_id: str | None = None) -> None:
    """An admin says that nothing runs on the host any more: what its moves waited for need not be waited for."""
    for migration in read_open_of_host(session, host.id):
        server = session.scalar(select(Server).where(Server.id == migration.server_id))
        if migration.source_host_id == host.id:
            migration.observed_source = {
                **migration.observed_source, "fenced": True, "at": read_generation(session, migration.dest_host_id),
            }  # fmt: skip
        if migration.dest_host_id == host.id:
            if _may_have_run_there(migration) and not migration.observed_dest.get("fenced"):
                replace_attachments(session, server.id, request_id)
            migration.observed_dest = {**migration.observed_dest, "fenced": True}
        if not follow(session, settings, migration, server, request_id):
            hosts = {migration.source_host_id, migration.dest_host_id}
            touch_hosts_and_networks(session, hosts, (), request_id)
        refresh_move(session, server)


def _may_have_run_there(migration: Migration) -> bool:
    """Whether a guest that is the source's may have been running at the destination."""
    if migration.phase == "undoing":
        return not is_released(migration) or migration.outcome == "reverted"
    return (migration.kind, migration.phase) == (LIVE, "sending") and not migration.observed_source.get("running")


def read_generation(session: Session, host_id: str | None) -> int:
    """The generation of the host's document as it is now."""
    return session.scalar(select(Host.generation).where(Host.id == host_id)) or 0
