"""What hosts answer to what users ask of guests once, into rows: figures, how a new password went; what guests post.

Called by `observe.py` within the run's own transaction. The password itself is forgotten with the answer, whatever
that is. Next rooms: `web/desired/questions.py`, `resources/compute/server_diagnostics.py`, `server_passwords.py`.
"""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from ..models import Host, Server, ServerDiagnostics, now, touch
from ..password_orders import end_password
from .status import refresh_status


def store_answers(session: Session, server: Server, seen: dict) -> None:
    """Store ``diagnostics`` and ``password`` of what a run saw of the server."""
    if seen.get("diagnostics"):
        _store_diagnostics(session, server, seen["diagnostics"])
    answer = seen.get("password")
    if answer and answer["seq"] >= server.password_wanted:
        end_password(session, server, answer["error"])


def store_posted(session: Session, rows: dict[str, Server], observed: dict) -> None:
    """Store the passwords that guests have posted, on whichever host: the first since the last clearing."""
    for server_id, posted in observed.get("posted_passwords", {}).items():
        server = rows.get(server_id)
        if server is None or server.observed_posted_password or posted["cleared"] != server.password_cleared:
            continue
        server.observed_posted_password = posted["text"]
        touch(session, server.host_id)


def _store_diagnostics(session: Session, server: Server, answer: dict) -> None:
    row = session.get(ServerDiagnostics, server.id)
    if row is None:
        row = ServerDiagnostics(server_id=server.id, number=0, figures={})
        session.add(row)
    row.number, row.figures, row.read_at = answer["seq"], answer["figures"] or {}, now()
    server.observed_diagnostics_done = max(server.observed_diagnostics_done, answer["seq"])


def apply_password_deadlines(session: Session, settings, host: Host) -> None:
    """Passwords that their host never came to set are not set any more, and not kept."""
    before = now() - timedelta(seconds=settings.worker.operation_timeout_s)
    late = select(Server).where(Server.host_id == host.id, Server.password_asked_at < before)
    for server in session.scalars(late):
        end_password(session, server, "the host did not get to it in time")
        refresh_status(server)
        touch(session, host.id)
