"""`Kumo-Dry-Run: true`: a changing request is tried and taken back; what it would do on hosts comes from the hosts.

The request runs whole, with all its checks and quotas, in a transaction that is rolled back. Before that the documents
of the hosts that it touches are built from the rows as they would be; then each host's next run is made in Ansible's
check mode. Answered is what would have been answered, and, to those who may see hosts, each host's actions and diff.
They are the whole of that host's next run, other requests' that wait for it included. Next rooms: `http.py`,
`reconcile/run.py`.
"""

from __future__ import annotations

import json

from sqlalchemy import select

from .desired import build_document, read_rows
from .drift import build_drift, look_at_hosts
from .errors import BadRequest, Conflict
from .models import Host
from .policy import ADMIN, rule
from .routes import Reply

HEADER = "Kumo-Dry-Run"
SEE_HOSTS = rule("kumo:dry_run:hosts", ADMIN)
MOST_HOSTS = 16


class Tried(Exception):
    """Ends the transaction of a request that was only tried; ``answer`` and ``documents`` are what it would lead to."""

    def __init__(self, answer: dict, documents: list[tuple[Host, dict]]):
        super().__init__("tried")
        self.answer, self.documents = answer, documents


def is_wanted(headers) -> bool:
    """Whether the request is only to be tried; BadRequest where the header is neither true nor false."""
    given = headers.get(HEADER, "false").strip().lower()
    if given not in ("true", "false"):
        raise BadRequest(f"Invalid input in header {HEADER}: {given[:40]!r} is neither true nor false")
    return given == "true"


def build_tried(context, response) -> Tried:
    """What the request that has just run in ``context.session`` would lead to; Conflict where that is too much."""
    session = context.session
    touched = session.info.get("touched_hosts", {})
    if len(touched) > MOST_HOSTS:
        raise Conflict(f"This request changes {len(touched)} hosts; more than {MOST_HOSTS} are not tried.")
    session.expire_all()
    hosts = session.scalars(select(Host).where(Host.id.in_(list(touched))).order_by(Host.name)).all()
    # A document of one fence more than the host's: as the next run's.
    documents = [
        (host, build_document(read_rows(session, host), context.settings, host.fence + 1))
        for host in hosts
        if context.allows(SEE_HOSTS)
    ]
    text = response.get_data(as_text=True)
    answer = {"status": response.status_code, "body": json.loads(text) if text else None}
    if context.allows(SEE_HOSTS):
        for host in hosts:
            session.expunge(host)
    return Tried(answer, documents)


def build_reply(settings, tried: Tried) -> Reply:
    """What is answered: {dry_run: {status, body, hosts: [{name, actions, diff, error}]}}."""
    looks = look_at_hosts(settings, tried.documents)
    hosts = [build_drift(host, look) for (host, _), look in zip(tried.documents, looks, strict=True)]
    return Reply({"dry_run": {**tried.answer, "hosts": hosts}})
