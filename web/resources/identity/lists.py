"""The shape that every list of the Identity API has, and the links in its answers.

Source: Identity API reference, "Filtering and pagination". Touches no row.
"""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote

from ...errors import BadRequest
from ...fields import FALSE, TRUE
from ...http import Context
from ...paging import Page, build_next_link
from ...routes import Reply


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
