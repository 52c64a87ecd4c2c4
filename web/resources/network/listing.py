"""Lists of the Network API: filters on any attribute, sorting, pages in both directions, chosen fields.

A resource gives its columns by their names in the API; a filter is made of each by its type. Repeated
values are alternatives, an empty one is an attribute without value. An unknown filter is a 400: the
``filter-validation`` extension is advertised. Source: Network API reference, "Filtering and Column
Selection". Next room: the resources.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from ...errors import BadRequest
from ...fields import FALSE, TRUE
from ...http import Context
from ...paging import Page, read_page
from .rows import select_visible

NOT_FILTERS = ("fields", "limit", "marker", "page_reverse", "sort_key", "sort_dir")
Filter = Callable[[Session, list], object]


def _wrong(name: str, value: str, reason: str) -> BadRequest:
    return BadRequest(f"Invalid input for {name}. Reason: {value[:100]!r} {reason}.", kind="InvalidInput")


def parse_bool(name: str, value: str) -> bool:
    """The truth a query parameter says; BadRequest naming it where it says none."""
    if value not in TRUE and value not in FALSE:
        raise _wrong(name, value, "is no boolean")
    return value in TRUE


def parse_whole(name: str, value: str) -> int:
    """The whole number of a query parameter; BadRequest naming it where it is none."""
    if not value.lstrip("-").isdecimal() or len(value) > 18:
        raise _wrong(name, value, "is no whole number")
    return int(value)


def build_filter(name: str, column) -> Filter:
    """Rows whose column has one of the values."""
    kind = column.type.python_type

    def criterion(session: Session, values: list[str]):
        if kind is bool:
            return column.in_([parse_bool(name, value) for value in values])
        if kind is int:
            return column.in_([parse_whole(name, value) for value in values if value])
        matched = column.in_(values)
        return or_(matched, column.is_(None)) if "" in values else matched

    return criterion


def build_filters(model, columns: dict, **more: Filter) -> dict[str, Filter]:
    """The filters of a list by parameter: each column's, tags, changed_since, and ``more``."""
    filters = {name: build_filter(name, column) for name, column in columns.items() if not name.endswith("_at")}
    filters["tenant_id"] = filters["project_id"]
    filters["changed_since"] = lambda session, values: model.updated_at >= _parse_time(values[0])
    filters["tags"] = lambda session, values: model.id.in_(_tagged(session, model, values, all, False))
    filters["tags-any"] = lambda session, values: model.id.in_(_tagged(session, model, values, any, False))
    filters["not-tags"] = lambda session, values: model.id.in_(_tagged(session, model, values, all, True))
    filters["not-tags-any"] = lambda session, values: model.id.in_(_tagged(session, model, values, any, True))
    return {**filters, **more}


def build_columns(model, *names: str, named: bool = True) -> dict:
    """{name in the API: column} of the attributes all objects have and of ``names``; ``named``: they have a name."""
    common = ("id", "description", "project_id", "revision_number", "created_at", "updated_at")
    return {name: getattr(model, name) for name in (*common, *(("name",) if named else ()), *names)}


def _parse_time(value: str) -> datetime:
    try:
        parsed = datetime.fromisoformat(value)
    except ValueError:
        raise _wrong("changed_since", value, "is no ISO 8601 time") from None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def _tagged(session: Session, model, values: list[str], quantity, negated: bool) -> list[str]:
    wanted = [tag for value in values for tag in value.split(",")]
    rows = session.execute(select(model.id, model.tags))
    return [row.id for row in rows if quantity(tag in row.tags for tag in wanted) is not negated]


def read_list(ctx: Context, model, columns: dict, filters: dict[str, Filter], options=(), statement=None) -> Page:
    """The page of the caller's rows of ``model`` that the query asks for.

    ``columns`` are what it may be sorted by, ``filters`` what it may be filtered by, ``options`` loader
    options. BadRequest names a parameter that is unknown or wrong.
    """
    statement = select_visible(ctx, model) if statement is None else statement
    for name in ctx.query:
        if name in NOT_FILTERS:
            continue
        if name not in filters:
            raise BadRequest(f"['{name[:100]}'] is invalid attribute for filtering", kind="HTTPBadRequest")
        statement = statement.where(filters[name](ctx.session, ctx.query.getlist(name)))
    query, reverse = ctx.query, ctx.query.get("page_reverse")
    if reverse is not None and parse_bool("page_reverse", reverse):
        query = ctx.query.copy()
        keys = query.getlist("sort_key") or ["created_at"]
        given = query.getlist("sort_dir")
        directions = [given[index] if index < len(given) else (given or ["asc"])[-1] for index in range(len(keys))]
        query.setlist("sort_key", keys)
        query.setlist("sort_dir", [{"asc": "desc", "desc": "asc"}.get(one, one) for one in directions])
    page = read_page(
        ctx.session,
        statement.options(*options),
        query,
        columns=columns,
        identity=model.id,
        default=[("created_at", "asc")],
        maximum=ctx.settings.api.max_limit,
    )
    return page if query is ctx.query else Page(page.rows[::-1])


def pick_fields(ctx: Context, view: dict) -> dict:
    """The view, or what ?fields= names of it."""
    wanted = [name for value in ctx.query.getlist("fields") for name in value.split(",") if name]
    return {name: item for name, item in view.items() if name in wanted} if wanted else view
