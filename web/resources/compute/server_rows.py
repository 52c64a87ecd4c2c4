"""Server rows as handlers need them: found, locked, checked, and marked as changed.

Every handler that changes a wanted column ends in `mark_changed`, the one place that stamps the row,
computes its status and tells its host. Next room: `web/reconcile/status.py`.
"""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import select

from ...capacity import read_hosts
from ...errors import Conflict, NotFound
from ...http import Context
from ...models import Host, Project, Server, ServerAction, now, touch
from ...moves import read_open_of_server
from ...policy import rule
from ...reconcile.status import check_allowed, refresh_status

UNLOCK_ANY = rule("compute:servers:locked:act", "role:admin")


def find_server(ctx: Context, server_id: str, gone: bool = False) -> Server:
    """The project's server (an admin's: any); NotFound where it is another's, or gone and not ``gone``."""
    row = ctx.session.scalar(select(Server).where(Server.id == server_id))
    if row is None or (row.gone_at is not None and not gone):
        raise NotFound(f"Instance {server_id} could not be found.")
    if row.project_id != ctx.token.project_id and not ctx.is_admin:
        raise NotFound(f"Instance {server_id} could not be found.")
    return row


def find_server_to_change(ctx: Context, server_id: str, action: str | None, name: str = "") -> Server:
    """The same, its row held until the transaction ends, and allowed to do ``action`` now.

    Conflict where the state forbids it, or where it is locked and the caller may not pass locks. The
    host's row is held first, as the loop does, so that the two never wait for each other.
    """
    row = find_server(ctx, server_id)
    if not ctx.database.is_sqlite:
        hosts = {row.host_id}
        for migration in read_open_of_server(ctx.session, row.id):
            hosts |= {migration.source_host_id, migration.dest_host_id}
        held = select(Host.id).where(Host.id.in_(hosts - {None})).order_by(Host.id).with_for_update()
        ctx.session.execute(held).all()
        ctx.session.refresh(row, with_for_update=True)
        if row.gone_at is not None:
            raise NotFound(f"Instance {server_id} could not be found.")
    check_unlocked(ctx, row)
    if action is not None:
        check_allowed(row, action)
    return row


def find_server_to_move(ctx: Context, server_id: str, action: str, quota: bool = False) -> Server:
    """As `find_server_to_change`, with all hosts held, as whoever places guests holds them; with ``quota`` first the
    project of the server."""
    row = find_server(ctx, server_id)
    if quota:
        ctx.session.execute(select(Project.id).where(Project.id == row.project_id).with_for_update())
    read_hosts(ctx.session)
    ctx.session.refresh(row, with_for_update=True)
    if row.gone_at is not None:
        raise NotFound(f"Instance {server_id} could not be found.")
    check_unlocked(ctx, row)
    check_allowed(row, action)
    return row


def check_unlocked(ctx: Context, server: Server) -> None:
    """Conflict where the server is locked and the caller may not pass locks."""
    if server.locked and not ctx.allows(UNLOCK_ANY):
        raise Conflict(f"Instance {server.id} is locked")


def check_placed(server: Server) -> None:
    """Conflict where no host was ever found for the server: one that is on none since it was shelved had one."""
    if server.host_id is None and server.offloaded_at is None:
        raise Conflict(f"Instance {server.id} is not ready: no host was found for it")


def record_action(ctx: Context, server: Server, action: str, finished: bool = False) -> None:
    """Who asked what of the server, by which request; ``finished`` where no host has a part in it."""
    at = now()
    ctx.session.add(
        ServerAction(
            server_id=server.id,
            action=action,
            request_id=ctx.request_id,
            user_id=ctx.token.user_id,
            project_id=ctx.token.project_id or "",
            started_at=at,
            finished_at=at if finished else None,
        )
    )


def begin_operation(ctx: Context, server: Server, operation: str) -> None:
    """An operation that the host must finish before its deadline; an old fault is forgotten."""
    server.operation = operation
    server.operation_deadline = now() + timedelta(seconds=ctx.settings.worker.operation_timeout_s)
    forget_fault(server)


def forget_fault(server: Server) -> None:
    """Nothing is wrong with the server any more, as far as anybody knows."""
    server.fault_code = server.fault_message = server.fault_details = server.fault_at = None
    server.fault_kept = False


def mark_changed(ctx: Context, server: Server, on_host: bool = True) -> None:
    """Stamp the row, compute its status, and with ``on_host`` tell its host."""
    server.updated_at = now()
    refresh_status(server)
    if on_host:
        touch(ctx.session, server.host_id, ctx.request_id)
