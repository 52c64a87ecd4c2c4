"""All migrations of all servers, also past ones: of hosts that break or fill, and of servers that do not fit.

Source: Compute API reference, "Migrations (os-migrations)". Read only. Next room: `server_migrations.py`.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

from sqlalchemy import or_, select

from ...errors import BadRequest, Forbidden
from ...fields import FALSE, TRUE, field, since
from ...http import Context
from ...models import Host, Migration
from ...models.migrations import KINDS
from ...paging import Page, read_limit
from ...policy import ADMIN, MANAGER, rule
from ...routes import Route
from ...versions import parse_version
from .server_filters import parse_time, refuse
from .server_migrations import build_ends, is_in_progress, read_host_rows
from .server_views import build_links, show_fine_time

VIEW_FIELDS = {
    "migration_type": field({}, since("2.23")),
    "links": field({}, since("2.23")),
    "uuid": field({}, since("2.59")),
    "user_id": field({}, since("2.80")),
    "project_id": field({}, since("2.80")),
}


def _named(*columns) -> Callable:
    return lambda value: or_(*(column.in_(select(Host.id).where(Host.name == value)) for column in columns))


def _is_kind(value: str):
    if value not in KINDS:
        raise refuse("migration_type", value, f"It is none of {', '.join(KINDS)}.")
    return Migration.kind == value


def _is_hidden(value: str):
    if value not in TRUE and value not in FALSE:
        raise refuse("hidden", value, "It is no boolean.")
    return Migration.id.is_(None) if value in TRUE else Migration.id.is_not(None)


# parameter: (condition of its value, the version it came with)
FILTERS: dict[str, tuple[Callable, str]] = {
    "host": (_named(Migration.source_host_id, Migration.dest_host_id), "2.1"),
    "source_compute": (_named(Migration.source_host_id), "2.1"),
    "instance_uuid": (lambda value: Migration.server_id == value, "2.1"),
    "status": (lambda value: Migration.status == value, "2.1"),
    "migration_type": (_is_kind, "2.1"),
    "hidden": (_is_hidden, "2.1"),
    "changes-since": (lambda value: Migration.updated_at >= parse_time("changes-since", value), "2.59"),
    "changes-before": (lambda value: Migration.updated_at <= parse_time("changes-before", value), "2.66"),
    "user_id": (lambda value: Migration.user_id == value, "2.80"),
    "project_id": (lambda value: Migration.project_id == value, "2.80"),
}
PAGING = {"limit", "marker"}
NAMES_HOSTS = ("host", "source_compute")

LIST = rule("compute:migrations:index", MANAGER)
ALL_PROJECTS = rule("compute:migrations:index:all_projects", ADMIN)
HOSTS = rule("compute:migrations:index:host", ADMIN)


def _build_scope(ctx: Context) -> list:
    """The conditions of who asks: the project's own moves, and no word of hosts, but for those who may see all."""
    if any(ctx.query.get(name) for name in NAMES_HOSTS) and not ctx.allows(HOSTS):
        raise Forbidden(f"Policy doesn't allow {HOSTS} to be performed.")
    if ctx.allows(ALL_PROJECTS):
        return []
    if ctx.version >= (2, 80) and ctx.query.get("project_id", ctx.project_id) != ctx.project_id:
        raise Forbidden(f"Policy doesn't allow {ALL_PROJECTS} to be performed.")
    return [Migration.project_id == ctx.project_id]


def index(ctx: Context) -> Page | list[tuple[Migration, dict]]:
    """The newest first; in pages, by their UUIDs, from 2.59 on."""
    query, version = ctx.query, ctx.version
    scope = _build_scope(ctx)
    conditions = [*scope]
    for name in query:
        build, first = FILTERS.get(name, (None, "2.59" if name in PAGING else "999.0"))
        if version < parse_version(first):
            if version >= (2, 59):
                raise BadRequest(f"Invalid input for query parameter {name}: Additional properties are not allowed.")
            continue
        if build is not None:
            conditions.append(build(query[name]))
    if version >= (2, 66) and query.get("changes-since") and query.get("changes-before"):
        span = [parse_time(name, query[name]) for name in ("changes-since", "changes-before")]
        if span[0] > span[1]:
            raise BadRequest("The value of changes-since must be less than or equal to changes-before.")
    statement = select(Migration).where(*conditions).order_by(Migration.id.desc())
    hosts = read_host_rows(ctx)
    if version < (2, 59):
        return [(row, hosts) for row in ctx.session.scalars(statement)]
    if query.get("marker"):
        at = ctx.session.scalar(select(Migration.id).where(Migration.uuid == query["marker"], *scope))
        if at is None:
            raise BadRequest(f"Marker {query['marker'][:100]} could not be found.")
        statement = statement.where(Migration.id < at)
    limit = read_limit(query, ctx.settings.api.max_limit)
    rows = ctx.session.scalars(statement.limit(limit + 1)).all()
    more = len(rows) > limit > 0
    return Page([(row, hosts) for row in rows[:limit]], rows[limit - 1].uuid if more else None)


def build_flavor_number(flavor_id: str) -> int:
    """The number that the API wants of a flavor: its id where that is one, else one made of it."""
    return int(flavor_id) if flavor_id.isdigit() and len(flavor_id) < 10 else zlib.crc32(flavor_id.encode()) >> 1


def view(ctx: Context, shown: tuple[Migration, dict]) -> dict:
    row, hosts = shown
    view = {
        "id": row.id,
        "uuid": row.uuid,
        "instance_uuid": row.server_id,
        "status": row.status,
        "migration_type": row.kind,
        "old_instance_type_id": build_flavor_number(row.old_flavor_id),
        "new_instance_type_id": build_flavor_number(row.new_flavor_id),
        "created_at": show_fine_time(row.created_at),
        "updated_at": show_fine_time(row.updated_at),
        "user_id": row.user_id,
        "project_id": row.project_id,
        **build_ends(row, hosts, ctx.allows(HOSTS)),
    }
    if is_in_progress(row):
        view["links"] = build_links(ctx, f"servers/{row.server_id}/migrations", str(row.id))
    return view


ROUTES = [
    Route("GET", "/os-migrations", LIST, None, index, view, reply_key="migrations", view_fields=VIEW_FIELDS),
]
