"""The end of an order for a new password in a guest, in the caller's transaction: it is kept nowhere any more.

Next rooms: `resources/compute/server_passwords.py`, which asks; `reconcile/observe_questions.py`, which is answered.
"""

from __future__ import annotations

from sqlalchemy import update
from sqlalchemy.orm import Session

from .models import Server, ServerAction, now
from .reconcile.status import CHANGE_PASSWORD, is_password_due


def end_password(session: Session, server: Server, error: str | None) -> None:
    """The password was set, or (``error`` says why) will not be; nothing happens where none is on its way."""
    if not is_password_due(server):
        return
    secret, server.password_secret, server.password_asked_at = server.password_secret, None, None
    server.observed_password_done = server.password_wanted
    if error and secret:
        error = error.replace(secret, "***")
    open_actions = (
        ServerAction.server_id == server.id,
        ServerAction.action == CHANGE_PASSWORD,
        ServerAction.finished_at.is_(None),
    )
    message = f"Error: {error}" if error else None
    session.execute(update(ServerAction).where(*open_actions).values(finished_at=now(), message=message))
