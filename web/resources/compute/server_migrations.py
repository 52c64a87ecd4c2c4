"""A server's live migrations that go on: how far they are, to abort them, or to force them to an end.

Source: Compute API reference, "Server migrations (servers, migrations)". All kinds, also past ones, are in
`migrations.py`. Next room: `server_moves.py`, which begins them.
"""

from __future__ import annotations

from sqlalchemy import select

from ...errors import BadRequest, Conflict, NotFound
from ...fields import field, since
from ...http import Context
from ...models import Host, Migration, Server, now, touch
from ...models.migrations import LIVE
from ...moves import follow
from ...policy import ADMIN, MANAGER, rule
from ...routes import Route
from .server_rows import find_server, find_server_to_change, record_action
from .server_views import show_fine_time

VIEW_FIELDS = {
    "uuid": field({}, since("2.59")),
    "user_id": field({}, since("2.80")),
    "project_id": field({}, since("2.80")),
}
IN_PROGRESS = ("preparing", "running")
SIZES = ("memory", "disk")


def is_in_progress(migration: Migration) -> bool:
    """Whether the API shows it beneath its server: a live migration on its way."""
    return migration.kind == LIVE and migration.status in IN_PROGRESS


def read_host_rows(ctx: Context) -> dict[str, Host]:
    """Every host by its id."""
    return {host.id: host for host in ctx.session.scalars(select(Host))}


def build_ends(migration: Migration, hosts: dict[str | None, Host], told: bool) -> dict:
    """Where it comes from and where it goes to, as every view of a migration says it; null unless ``told``."""
    hosts = hosts if told else {}
    source, dest = hosts.get(migration.source_host_id), hosts.get(migration.dest_host_id)
    return {
        "source_compute": source.name if source else None,
        "source_node": source.name if source else None,
        "dest_compute": dest.name if dest else None,
        "dest_node": dest.name if dest else None,
        "dest_host": (dest.settings or {}).get("tunnel_address") if dest else None,
    }


def index(ctx: Context, server_id: str) -> list[tuple[Migration, dict]]:
    server = find_server(ctx, server_id)
    hosts = read_host_rows(ctx)
    rows = ctx.session.scalars(select(Migration).where(Migration.server_id == server.id).order_by(Migration.id))
    return [(row, hosts) for row in rows if is_in_progress(row)]


def _find(ctx: Context, server: Server, migration_id: str) -> Migration | None:
    if not migration_id.isdigit() or len(migration_id) > 9:
        return None
    statement = select(Migration).where(Migration.id == int(migration_id), Migration.server_id == server.id)
    return ctx.session.scalar(statement.execution_options(populate_existing=True))


def show(ctx: Context, server_id: str, migration_id: str) -> tuple[Migration, dict]:
    server = find_server(ctx, server_id)
    row = _find(ctx, server, migration_id)
    if row is None:
        raise NotFound(f"In-progress live migration {migration_id[:50]} is not found for server {server.id}.")
    if row.kind != LIVE:
        raise NotFound(f"Migration {migration_id} for server {server.id} is not live-migration.")
    if not is_in_progress(row):
        raise NotFound(f"Live migration {migration_id} for server {server.id} is not in progress.")
    return row, read_host_rows(ctx)


def _find_to_change(ctx: Context, server_id: str, verb: str) -> Server:
    server = find_server_to_change(ctx, server_id, None)
    if server.task_state != "migrating":
        raise Conflict(f"Cannot '{verb}' instance {server.id} while it is in task_state {server.task_state}")
    return server


def _refuse_state(row: Migration, verb: str) -> BadRequest:
    return BadRequest(
        f"Migration {row.id} state of instance {row.server_id} is {row.status}. "
        f"Cannot {verb} while the migration is in this state."
    )


def delete(ctx: Context, server_id: str, migration_id: str) -> None:
    """It is called off: the guest stays where it runs. Before it is sent, from 2.65 on."""
    server = _find_to_change(ctx, server_id, "abort live migration")
    row = _find(ctx, server, migration_id)
    if row is None:
        raise NotFound(f"Migration {migration_id[:50]} not found for instance {server.id}")
    if not is_in_progress(row):
        raise _refuse_state(row, "abort live migration")
    if row.status == "preparing" and ctx.version < (2, 65):
        raise _refuse_state(row, "abort live migration")
    row.abort_wanted, row.updated_at = True, now()
    record_action(ctx, server, "live_migration_cancel", finished=True)
    if not follow(ctx.session, ctx.settings, row, server, ctx.request_id):
        touch(ctx.session, row.source_host_id, ctx.request_id)


def force_complete(ctx: Context, server_id: str, migration_id: str) -> None:
    """It is brought to its end at the price of a longer pause of the guest."""
    server = _find_to_change(ctx, server_id, "force_complete")
    row = _find(ctx, server, migration_id)
    if row is None:
        raise BadRequest(f"Migration {migration_id[:50]} not found for instance {server.id}")
    if row.status != "running" or row.kind != LIVE:
        raise _refuse_state(row, "force complete")
    row.force_wanted, row.updated_at = True, now()
    record_action(ctx, server, "live_migration_force_complete", finished=True)
    touch(ctx.session, row.source_host_id, ctx.request_id)


def view(ctx: Context, shown: tuple[Migration, dict]) -> dict:
    row, hosts = shown
    progress = row.observed_source.get("progress") or {}
    sizes = {
        f"{what}_{part}_bytes": progress.get(f"{what}_{part}", 0)
        for what in SIZES
        for part in ("total", "processed", "remaining")
    }
    return {
        "id": row.id,
        "uuid": row.uuid,
        "server_uuid": row.server_id,
        "status": row.status,
        "created_at": show_fine_time(row.created_at),
        "updated_at": show_fine_time(row.updated_at),
        "user_id": row.user_id,
        "project_id": row.project_id,
        **build_ends(row, hosts, ctx.allows(HOSTS)),
        **sizes,
    }


LIST = rule("compute:server_migrations:index", MANAGER)
HOSTS = rule("compute:server_migrations:index:host", ADMIN)
SHOW = rule("compute:server_migrations:show", ADMIN)
PATH = "/servers/{server_id}/migrations"
ONE = PATH + "/{migration_id}"
ROUTES = [
    Route("GET", PATH, LIST, None, index, view, reply_key="migrations", view_fields=VIEW_FIELDS, since="2.23"),
    Route("GET", ONE, SHOW, None, show, view, reply_key="migration", view_fields=VIEW_FIELDS, since="2.23"),
    Route("DELETE", ONE, rule("compute:server_migrations:delete", MANAGER), None, delete, None, 202, since="2.24"),
    Route(
        "POST",
        ONE + "/action",
        rule("compute:server_migrations:force_complete", MANAGER),
        None,
        force_complete,
        None,
        202,
        action="force_complete",
        since="2.22",
    ),
]
