"""`kumo drift`: what on hosts differs from what was asked, all hosts side by side.

By each host's own check mode, as its next run would begin. Changes nothing; the worker's timer repairs what differs.
Next rooms: `../drift.py`; `hosts.py`, whose `kumo plan` shows one host's play itself.
"""

from __future__ import annotations

import json
import sys

from ..drift import Pair, build_drift, look_at_hosts, read_documents
from ..errors import NotFound
from ..models import Database
from .tables import show_table

DIFFERS = 3


def look(settings, names: list[str], **more) -> list[tuple[Pair, object]] | None:
    """The hosts of these names (none: all that are not fenced) and what each one's check mode says; None: unknown.

    ``more`` are further settings of their documents.
    """
    try:
        with Database(settings.database.url).read() as session:
            pairs = read_documents(session, settings, names)
    except NotFound as problem:
        print(f"kumo: {problem.message}", file=sys.stderr)
        return None

    for _, document in pairs:
        document["settings"].update(more)

    def tell(number: int) -> None:
        if sys.stderr.isatty():
            print(f"\r{number} of {len(pairs)} hosts looked at", end="", file=sys.stderr, flush=True)

    looks = look_at_hosts(settings, pairs, tell)
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    return list(zip(pairs, looks, strict=True))


def show_drift(args, settings) -> int:
    """A line for each difference, or that there is none."""
    looks = look(settings, args.hosts)
    if looks is None:
        return 1
    found = [build_drift(host, seen) for (host, _), seen in looks]
    if args.json:
        print(json.dumps(found, indent=2))
    else:
        _print(found, args.diff)
    if any(one["error"] for one in found):
        return 1
    return DIFFERS if any(one["actions"] for one in found) else 0


def _print(found: list[dict], with_diff: bool) -> None:
    rows = [
        (one["name"], action["section"], action["object_id"], action["verb"].replace("_", " "))
        for one in found
        for action in one["actions"]
    ]
    if rows:
        print(show_table(("HOST", "SECTION", "OBJECT", "WOULD BE"), rows))
    for one in found:
        if one["error"]:
            print(f"kumo: {one['name']} could not be looked at: {one['error']}", file=sys.stderr)
        elif not one["actions"]:
            print(f"{one['name']}: nothing differs")
    for one in found if with_diff else ():
        for part in one["diff"]:
            print(f"--- {one['name']}: {part.get('before_header', '')}, as it is")
            print(part["before"], end="")
            print(f"+++ {one['name']}: {part.get('after_header', '')}, as asked")
            print(part["after"], end="")
