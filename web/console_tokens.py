"""Tokens of consoles: made for a guest as it was seen, taken once, and only while it is still there.

A token is of one server, one host, one port and one kind. It leads nowhere any more once it was used, once it has
expired, or once the server is deleted, off, on another host, or at another port. The text is only ever in the answer
to who asked; rows have its digest. Security case 25. Next rooms: `resources/compute/server_remote_consoles.py`, which
asks for them; `console/`, which takes them.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from .errors import Conflict
from .models import ConsoleToken, Host, Server, now

PORT_OF = {"novnc": "vnc", "serial": "serial"}  # kind: which of a guest's ports
WITH_CONSOLE = ("running", "paused")  # a guest's observed_state


@dataclass(frozen=True)
class Target:
    """The console that a token leads to. ``host`` is a row, detached."""

    server_id: str
    host: Host
    kind: str
    port: int
    user_id: str
    request_id: str


def build_digest(token: str) -> str:
    """What is kept of a token: it has 256 random bits, so that a plain hash of it cannot be turned around."""
    return hashlib.sha256(token.encode()).hexdigest()


def find_port(server: Server, kind: str) -> int | None:
    """The port of a guest's console as it was seen on the host that the guest is on now; None where there is none."""
    seen = server.observed_consoles or {}
    if server.deleted_at is not None or server.gone_at is not None:
        return None
    if server.observed_state not in WITH_CONSOLE or seen.get("host") != server.host_id:
        return None
    return seen.get(PORT_OF[kind])


def make_token(session: Session, settings, server: Server, kind: str, user_id: str, request_id: str) -> str:
    """A new token's text; Conflict where the guest has no such console now."""
    port = find_port(server, kind)
    if port is None and kind == "serial" and find_port(server, "novnc") is not None:
        raise Conflict(
            f"Instance {server.id} was started before there were serial consoles to connect to: reboot it hard first"
        )
    if port is None:
        raise Conflict(f"Instance {server.id} is not ready: it does not run, or its host has not told of it yet")
    token = secrets.token_urlsafe(32)
    at = now()
    session.add(
        ConsoleToken(
            digest=build_digest(token),
            server_id=server.id,
            host_id=server.host_id,
            kind=kind,
            port=port,
            user_id=user_id,
            request_id=request_id,
            created_at=at,
            expires_at=at + timedelta(seconds=settings.console.token_ttl_s),
        )
    )
    return token


def build_url(settings, kind: str, token: str) -> str:
    """What is opened with a token: noVNC's page in a browser, or a WebSocket to the serial port."""
    base = settings.console.public_url
    if kind == "serial":
        scheme, rest = base.split("://", 1)
        return f"{'wss' if scheme == 'https' else 'ws'}://{rest}/?token={token}"
    return f"{base}/vnc_lite.html?path=websockify%3Ftoken%3D{token}"


def find_target(session: Session, token: str) -> Target | None:
    """What a token leads to, without using it up; None where that is nothing."""
    row = session.get(ConsoleToken, build_digest(token))
    if row is None or row.expires_at <= now():
        return None
    return _read_target(session, row)


def take_token(session: Session, token: str) -> Target | None:
    """The same, and the token is used up, also where it leads nowhere: of two that take it at once, one has it."""
    taken = session.execute(
        delete(ConsoleToken)
        .where(ConsoleToken.digest == build_digest(token))
        .returning(
            ConsoleToken.server_id, ConsoleToken.host_id, ConsoleToken.kind, ConsoleToken.port, ConsoleToken.user_id,
            ConsoleToken.request_id, ConsoleToken.expires_at,
        )
        .execution_options(synchronize_session=False)
    ).first()  # fmt: skip
    if taken is None or taken.expires_at <= now():
        return None
    return _read_target(session, taken)


def is_there(session: Session, target: Target) -> bool:
    """Whether a target is still what its token was made for."""
    server = session.scalar(select(Server).where(Server.id == target.server_id))
    return _matches(server, target.host.id, target.kind, target.port)


def _read_target(session: Session, row) -> Target | None:
    server = session.scalar(select(Server).where(Server.id == row.server_id))
    if not _matches(server, row.host_id, row.kind, row.port):
        return None
    host = session.get(Host, row.host_id)
    if host is None:
        return None
    session.expunge(host)
    return Target(row.server_id, host, row.kind, row.port, row.user_id, row.request_id)


def _matches(server: Server | None, host_id: str, kind: str, port: int) -> bool:
    return server is not None and server.host_id == host_id and find_port(server, kind) == port
