"""The filters of the list of images: from the query to SQL.

Source: Image API reference, "List images". Next room: `images.py`.
"""

from __future__ import annotations

import csv
import json
from datetime import UTC, datetime

from sqlalchemy import Text, cast, func

from ...errors import BadRequest
from ...fields import FALSE, TRUE
from ...http import Context
from ...models import Image

PAGING = {"limit", "marker", "sort", "sort_key", "sort_dir"}
SPECIAL = {"visibility", "member_status", "tag", "os_hidden", "protected", "size_min", "size_max"}
LISTED = {
    "id": Image.id,
    "name": Image.name,
    "status": Image.status,
    "disk_format": Image.disk_format,
    "container_format": Image.container_format,
}
EQUAL = {
    "owner": Image.project_id,
    "checksum": Image.checksum,
    "os_hash_algo": Image.os_hash_algo,
    "os_hash_value": Image.os_hash_value,
}
NUMBERS = {"min_ram": Image.min_ram, "min_disk": Image.min_disk, "size": Image.size, "virtual_size": Image.virtual_size}
TIMES = {"created_at": Image.created_at, "updated_at": Image.updated_at}
COMPARE = {
    "gt": lambda column, value: column > value,
    "gte": lambda column, value: column >= value,
    "lt": lambda column, value: column < value,
    "lte": lambda column, value: column <= value,
    "eq": lambda column, value: column == value,
    "neq": lambda column, value: column != value,
}


def _refuse(name: str, value: str, why: str) -> BadRequest:
    return BadRequest(f"Invalid input for query parameter {name}. Value: {value!r}. {why}")


def read_choice(query, name: str, known: tuple[str, ...]) -> str | None:
    """A parameter that has one of these values; None where it is not given."""
    given = query.get(name)
    if given is not None and given not in known:
        raise _refuse(name, given, f"Known: {', '.join(known)}.")
    return given


def check_sort(query) -> None:
    """BadRequest where the two ways to sort are mixed, or directions are more than keys."""
    keys, directions = query.getlist("sort_key"), query.getlist("sort_dir")
    if query.get("sort") and (keys or directions):
        raise BadRequest("Old and new sorting syntax cannot be combined: sort, or sort_key and sort_dir.")
    if len(directions) > max(len(keys), 1):
        raise BadRequest(
            f"Number of sort dirs ({len(directions)}) does not match the number of sort keys ({len(keys)})"
        )


def read_flag(query, name: str) -> bool | None:
    """A true or false parameter; None where it is not given."""
    given = query.get(name)
    if given is None:
        return None
    if given in TRUE or given in FALSE:
        return given in TRUE
    raise _refuse(name, given, "true or false.")


def _read_number(name: str, value: str) -> int:
    if not value.isascii() or not value.isdigit() or len(value) > 18:
        raise _refuse(name, value, "It is no whole number.")
    return int(value)


def _read_time(name: str, value: str) -> datetime:
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise _refuse(name, value, "It is no ISO 8601 time.") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _holds_tag(ctx: Context, tag: str):
    find = func.instr if ctx.database.is_sqlite else func.strpos
    return find(cast(Image.tags, Text), json.dumps(tag)) > 0


def _holds_property(name: str, value: str):
    if '"' in name or "\\" in name:
        raise _refuse(name, value, "No property has such a name.")
    return Image.properties[name].as_string() == value


def apply_filters(ctx: Context, statement):
    """``statement`` with every filter of the query; BadRequest names the one that is malformed."""
    query = ctx.query
    hidden = read_flag(query, "os_hidden")
    statement = statement.where(Image.os_hidden == bool(hidden))
    if (protected := read_flag(query, "protected")) is not None:
        statement = statement.where(Image.protected == protected)
    for tag in query.getlist("tag"):
        statement = statement.where(_holds_tag(ctx, tag))
    for name, compare in (("size_min", COMPARE["gte"]), ("size_max", COMPARE["lte"])):
        if name in query:
            statement = statement.where(compare(Image.size, _read_number(name, query[name])))
    for name in query:
        value = query[name]
        if name in PAGING or name in SPECIAL:
            continue
        if name in LISTED:
            chosen = next(csv.reader([value[3:]]), []) if value.startswith("in:") else [value]
            statement = statement.where(LISTED[name].in_(chosen))
        elif name in EQUAL:
            statement = statement.where(EQUAL[name] == value)
        elif name in NUMBERS:
            statement = statement.where(NUMBERS[name] == _read_number(name, value))
        elif name in TIMES:
            kind, _, rest = value.partition(":")
            compare, rest = (COMPARE[kind], rest) if kind in COMPARE else (COMPARE["eq"], value)
            statement = statement.where(compare(TIMES[name], _read_time(name, rest)))
        else:
            statement = statement.where(_holds_property(name, value))
    return statement
