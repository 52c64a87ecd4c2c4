"""`kumo drift`: what on hosts differs from what was asked, all hosts side by side.

By each host's own check mode, as its next run would begin. Changes nothing; the worker's timer repairs what differs.
Next room: `hosts.py`, whose `kumo plan` shows one host's play itself.
"""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import select

from ..desired import build_document, read_rows
from ..models import Database, Host
from ..reconcile.run import Outcome, run_host
from .tables import show_table

DIFFERS = 3


def read_hosts(settings, names: list[str]) -> list[tuple[Host, dict]] | None:
    """The hosts of these names (none: all that are not fenced) with their documents; None where one is unknown."""
    with Database(settings.database.url).read() as session:
        known = {host.name: host for host in session.scalars(select(Host).order_by(Host.name))}
        wrong = [name for name in names if name not in known]
        if wrong:
            print(f"kumo: no host {wrong[0]!r}; known: {', '.join(known) or 'none'}", file=sys.stderr)
            return None
        chosen = [known[name] for name in names] or [host for host in known.values() if not host.forced_down]
        return [(host, build_document(read_rows(session, host), settings, host.fence)) for host in chosen]


def look_at_hosts(settings, pairs: list[tuple[Host, dict]]) -> list[Outcome]:
    """What each host's check mode says of its document, in their order; side by side, told on a terminal."""
    looks = []
    with ThreadPoolExecutor(settings.worker.parallel_runs) as pool:
        asked = [
            pool.submit(run_host, settings, host.name, dict(host.connection), document, check=True)
            for host, document in pairs
        ]
        for number, one in enumerate(asked, 1):
            looks.append(one.result())
            if sys.stderr.isatty():
                print(f"\r{number} of {len(pairs)} hosts looked at", end="", file=sys.stderr, flush=True)
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    return looks


def show_drift(args, settings) -> int:
    """A line for each difference, or that there is none."""
    pairs = read_hosts(settings, args.hosts)
    if pairs is None:
        return 1
    found = [
        {
            "host": host.name,
            "actions": look.result.get("actions", []),
            "diff": look.result.get("diff", []),
            "error": look.error,
        }
        for (host, _), look in zip(pairs, look_at_hosts(settings, pairs), strict=True)
    ]
    if args.json:
        print(json.dumps(found, indent=2))
    else:
        _print(found, args.diff)
    if any(one["error"] for one in found):
        return 1
    return DIFFERS if any(one["actions"] for one in found) else 0


def _print(found: list[dict], with_diff: bool) -> None:
    rows = [
        (one["host"], action["section"], action["object_id"], action["verb"].replace("_", " "))
        for one in found
        for action in one["actions"]
    ]
    if rows:
        print(show_table(("HOST", "SECTION", "OBJECT", "WOULD BE"), rows))
    for one in found:
        if one["error"]:
            print(f"kumo: {one['host']} could not be looked at: {one['error']}", file=sys.stderr)
        elif not one["actions"]:
            print(f"{one['host']}: nothing differs")
    for one in found if with_diff else ():
        for part in one["diff"]:
            print(f"--- {one['host']}: {part.get('before_header', '')}, as it is")
            print(part["before"], end="")
            print(f"+++ {one['host']}: {part.get('after_header', '')}, as asked")
            print(part["after"], end="")
