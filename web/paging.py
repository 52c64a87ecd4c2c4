"""Pages of a list: limit, marker, sort keys, by keyset (no offset), on SQLite and PostgreSQL alike.

Source: the API SIG's pagination guideline and each service's reference.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlencode

from sqlalchemy import Select, and_, asc, desc, or_, select
from sqlalchemy.orm import Session

from .errors import BadRequest


@dataclass
class Page:
    """One page: the rows, and the marker of the next one where there is one."""

    rows: list
    next_marker: str | None = None


def read_limit(query, maximum: int, default: int | None = None) -> int:
    """The page's length that the query asks for, at most ``maximum``; BadRequest where it is no whole number >= 0."""
    given = query.get("limit")
    if given in (None, ""):
        return default if default is not None else maximum
    try:
        limit = int(given)
    except ValueError:
        raise BadRequest(f"Invalid input for query parameter limit. Value: {given!r}. It is no whole number.") from None
    if limit < 0:
        raise BadRequest(f"Invalid input for query parameter limit. Value: {given}. It must not be negative.")
    return min(limit, maximum)


def parse_sort(query, columns: dict, default: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """[(key, "asc" | "desc")] from sort_key/sort_dir (repeated) or sort=key:dir,…; BadRequest names what is unknown."""
    pairs: list[tuple[str, str]] = []
    if query.get("sort"):
        for part in query["sort"].split(","):
            key, _, direction = part.partition(":")
            pairs.append((key.strip(), direction.strip() or "asc"))
    else:
        keys, directions = query.getlist("sort_key"), query.getlist("sort_dir")
        for index, key in enumerate(keys):
            pairs.append((key, directions[index] if index < len(directions) else (directions or ["asc"])[-1]))
        if not keys and directions:
            pairs = [(key, directions[0]) for key, _ in default]
    for key, direction in pairs:
        if key not in columns:
            raise BadRequest(
                f"Invalid input for query parameter sort_key. Value: {key!r}. Known: {', '.join(columns)}."
            )
        if direction not in ("asc", "desc"):
            raise BadRequest(f"Invalid input for query parameter sort_dir. Value: {direction!r}. asc or desc.")
    return pairs or default


def read_page(
    session: Session,
    statement: Select,
    query,
    columns: dict,
    identity,
    default: list[tuple[str, str]],
    maximum: int,
    default_limit: int | None = None,
    within=None,
    offsets: bool = False,
) -> Page:
    """The page of ``statement`` (a select of one model) that ``query`` asks for.

    ``columns`` maps sort keys to columns, ``identity`` is the column that markers name, unique among rows that
    are ``within`` (a condition; None: among all). A marker that names no row of the list is a BadRequest. With
    ``offsets`` the query may also say how many rows to leave out (`offset`), as the volume service's does.
    """
    limit = read_limit(query, maximum, default_limit)
    pairs = parse_sort(query, columns, default)
    order = [(columns[key], direction) for key, direction in pairs]
    if all(column is not identity for column, _ in order):
        order.append((identity, order[-1][1] if order else "asc"))
    marker = query.get("marker")
    if marker:
        named = select(*[column for column, _ in order]).where(identity == marker)
        at = session.execute(named if within is None else named.where(within)).first()
        if at is None:
            raise BadRequest(f"marker [{marker}] not found")
        statement = statement.where(_after(order, tuple(at)))
    for column, direction in order:
        statement = statement.order_by(asc(column.is_(None)), asc(column) if direction == "asc" else desc(column))
    if offsets:
        statement = statement.offset(_read_offset(query))
    rows = list(session.execute(statement.limit(limit + 1)).unique().scalars())
    more = len(rows) > limit
    rows = rows[:limit]
    return Page(rows, getattr(rows[-1], identity.key) if more and rows else None)


def _read_offset(query) -> int:
    text = query.get("offset") or "0"
    if not text.isdecimal() or len(text) > 9:
        raise BadRequest(f"Invalid input for query parameter offset. Value: {text[:200]}. It is no whole number.")
    return int(text)


def _after(order, values):
    """Rows that come behind the marker's; empty values come last."""
    branches, equal = [], []
    for (column, direction), value in zip(order, values, strict=True):
        if value is not None:
            behind = column > value if direction == "asc" else column < value
            branches.append(and_(*equal, or_(behind, column.is_(None))))
            equal.append(column == value)
        else:
            equal.append(column.is_(None))
    return or_(*branches)


def build_next_link(base: str, query, marker: str) -> str:
    """The URL of the next page: the same query from the marker on."""
    pairs = [(key, value) for key in query for value in query.getlist(key) if key not in ("marker", "offset")]
    return f"{base}?{urlencode([*pairs, ('marker', marker)])}"
