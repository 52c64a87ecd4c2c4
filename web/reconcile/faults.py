"""The fault of a server: the one place where what went wrong becomes what users see."""

from __future__ import annotations

from sqlalchemy.orm import Session

from ..models import Server, finish_actions, now
from ..shelving import fail_shelving

FAULT_CODE = 500


def store_fault(session: Session, server: Server, message: str) -> None:
    """The server's operation has failed: what users see until they retry or it heals. Shelving has its own end."""
    if fail_shelving(session, server, message):
        return
    if server.fault_message != message and not server.fault_kept:
        server.fault_code, server.fault_message, server.fault_at = FAULT_CODE, message, now()
        server.fault_details = None
    server.operation = server.operation_deadline = None
    finish_actions(session, server.id, "Error")
