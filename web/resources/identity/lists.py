"""The shape that every list of the Identity API has, and the links in its answers.

Source: Identity API reference, "Filtering and pagination". Touches no row.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from urllib.parse import quote

from sqlalchemy import Select, Text, and_, cast, func, not_, or_

from ...errors import BadRequest
from ...fields import FALSE, TRUE, items, text
from ...http import Context
from ...models import Project
from ...paging import Page, build_next_link
from ...routes import Reply

TAG = {**text(255, 1), "pattern": r"^[^,/]*$"}
TAGS = items(TAG, 80, unique=True)


def build_link(ctx: Context, *parts: str) -> str:
    """The URL of an object: ``build_link(ctx, "projects", id)``."""
    return ctx.url("/" + "/".join(quote(part, safe="") for part in parts))


def build_list(ctx: Context, key: str, rows: Page | list, view: Callable | None = None) -> Reply:
    """{key: [...], links: {next, self, previous}}, with `KEY_links` where there is a next page."""
    found = rows.rows if isinstance(rows, Page) else rows
    base = ctx.settings.api.public_url + ctx.path
    body: dict = {
        key: [view(ctx, row) if view else row for row in found],
        "links": {"next": None, "self": base, "previous": None},
    }
    if isinstance(rows, Page) and rows.next_marker:
        link = build_next_link(base, ctx.query, rows.next_marker)
        body["links"]["next"] = link
        body["truncated"] = True
        body[f"{key}_links"] = [{"rel": "next", "href": link}]
    return Reply(body)


_WAYS = {  # what stands behind two underscores in a filter's name; nothing that gives % or _ a meaning
    "": lambda column, value: column == value,
    "contains": lambda column, value: func.replace(column, value, "") != column,
    "startswith": lambda column, value: func.substr(column, 1, len(value)) == value,
    "endswith": lambda column, value: func.substr(column, func.length(column) - len(value) + 1) == value,
    "icontains": lambda column, value: func.replace(func.lower(column), value.lower(), "") != func.lower(column),
    "istartswith": lambda column, value: func.lower(func.substr(column, 1, len(value))) == value.lower(),
    "iendswith": lambda column, value: (
        func.lower(func.substr(column, func.length(column) - len(value) + 1)) == value.lower()
    ),
}


def filter_texts(ctx: Context, statement: Select, columns: dict) -> Select:
    """The statement with the query's filters by these columns: `name`, `name__contains`, `name__istartswith` …"""
    for key in ctx.query:
        name, _, way = key.partition("__")
        if name in columns and way in _WAYS and (ctx.query[key] or not way):
            statement = statement.where(_WAYS[way](columns[name], ctx.query[key]))
    return statement


def filter_tags(ctx: Context, statement: Select, column=Project.tags) -> Select:
    """The statement with the query's filters by tags: all or any of them, or not all or none of them."""
    stored = cast(column, Text)
    for name, join, negated in (
        ("tags", and_, False),
        ("tags-any", or_, False),
        ("not-tags", and_, True),
        ("not-tags-any", or_, True),
    ):
        if ctx.query.get(name):
            # In JSON's text a tag with its quotes is that tag: within one, a quote has a backslash before it.
            found = join(*(func.replace(stored, json.dumps(tag), "") != stored for tag in ctx.query[name].split(",")))
            statement = statement.where(not_(found) if negated else found)
    return statement


def write_time(moment: datetime | None) -> str | None:
    """A moment as the Identity API writes it."""
    return None if moment is None else moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def write_bare_time(moment: datetime | None) -> str | None:
    """The same in UTC without saying so, as the reference tells when application credentials end."""
    return None if moment is None else moment.strftime("%Y-%m-%dT%H:%M:%S.%f")


def parse_time(given: str | None, name: str) -> datetime | None:
    """The moment that an ISO 8601 text means (UTC where it names no zone); BadRequest names the field."""
    if given is None:
        return None
    try:
        moment = datetime.fromisoformat(given)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise BadRequest(f"Invalid input for field/attribute {name}: it is no ISO 8601 time") from None


def read_flag(ctx: Context, name: str) -> bool | None:
    """A filter that is true or false; None where it is not given; bare (`?enabled`) means true."""
    given = ctx.query.get(name)
    if given is None:
        return None
    if given == "" or given in TRUE:
        return True
    if given in FALSE:
        return False
    raise BadRequest(f"Invalid input for query parameter {name}. Value: {given!r}. true or false.")
