"""What on hosts differs from what was asked: each host's own check mode, as its next run would begin; changes nothing.

For `kumo drift` and `kumo verify`, for the admin API, and for requests that are only tried. Next room:
`verification.py`, which holds what was seen against rows.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import select
from sqlalchemy.orm import Session

from .desired import build_document, read_rows
from .errors import NotFound
from .models import Host

Pair = tuple[Host, dict]  # a host and its document


def read_documents(session: Session, settings, names: list[str]) -> list[Pair]:
    """The hosts of these names (none: all that are not fenced) with their documents.

    NotFound where one is unknown, with those that are known.
    """
    known = {host.name: host for host in session.scalars(select(Host).order_by(Host.name))}
    for name in names:
        if name not in known:
            raise NotFound(f"no host {name!r}; known: {', '.join(known) or 'none'}")
    chosen = [known[name] for name in names] or [host for host in known.values() if not host.forced_down]
    return [(host, build_document(read_rows(session, host), settings, host.fence)) for host in chosen]


def look_at_hosts(settings, pairs: list[Pair], tell: Callable[[int], None] = lambda number: None) -> list:
    """What each host's check mode says of its document (`reconcile.run.Outcome`), in their order, side by side.

    ``tell`` is called with the number of hosts looked at so far.
    """
    from .reconcile import run  # with ansible_runner, which an API process that looks at no host does without

    def look(pair: Pair):
        host, document = pair
        return run.run_host(settings, host.name, dict(host.connection), document, check=True)

    looks = []
    with ThreadPoolExecutor(max(1, min(len(pairs), settings.worker.parallel_runs))) as pool:
        for number, one in enumerate(pool.map(look, pairs), 1):
            looks.append(one)
            tell(number)
    return looks


def build_drift(host: Host, look) -> dict:
    """{name, actions: [{section, object_id, verb}], diff, error} of one host."""
    return {
        "name": host.name,
        "actions": look.result.get("actions", []),
        "diff": look.result.get("diff", []),
        "error": look.error,
    }
