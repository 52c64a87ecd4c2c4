"""Who is let in to a console: a page of ours, a token that was never used, and not too many.

A browser says which page opens a WebSocket (Origin), and no page of anybody else's may: it could be handed a token, and
use the console in its reader's name (security case 25). A program that is no browser sends none, and is nobody's page:
it is let in by its token, as in the reference. Refusals use no token up, but for one that leads nowhere.
"""

from __future__ import annotations

import contextlib
import logging
from urllib.parse import urlsplit

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from .. import console_tokens
from ..models import Database, Server
from . import target
from .sessions import Session, Sessions, TooMany

LOG = logging.getLogger("kumo.console")
PORTS = {"http": 80, "https": 443}


class Refused(Exception):
    """A console that is not opened: an HTTP status and a sentence for whoever asked."""

    def __init__(self, status: int, sentence: str):
        super().__init__(sentence)
        self.status, self.sentence = status, sentence


def parse_origin(text: str) -> tuple[str, str, int | None] | None:
    """(scheme, host, port) of a URL or an Origin; None where it is neither (RFC 6454)."""
    try:
        parts = urlsplit(text.strip())
        port = parts.port or PORTS.get(parts.scheme)
    except ValueError:
        return None
    return (parts.scheme.lower(), parts.hostname, port) if parts.scheme in PORTS and parts.hostname else None


def build_origins(settings) -> set[tuple]:
    """The pages that may open consoles: the proxy's own, the API's, and those that the operator named."""
    urls = [settings.console.public_url, settings.api.public_url, *settings.console.allowed_origins]
    return {parse_origin(url) for url in urls} - {None}


class Admission:
    """Tokens into sessions whose guest is connected."""

    def __init__(self, settings, database: Database):
        self.settings, self.database = settings, database
        self.origins = build_origins(settings)
        self.sessions = Sessions(settings, database)

    def open(self, token: str, origin: str | None, address: str) -> Session:
        """The session that a token opens; Refused where it opens none."""
        if origin is not None and parse_origin(origin) not in self.origins:
            LOG.warning("%s: refused a page of %.200r; [console] allowed_origins has those that may", address, origin)
            raise Refused(403, "This page may not open consoles")
        try:
            session, vnc_port = self._take(token, address)
        except SQLAlchemyError as error:
            LOG.error("%s: the database cannot be used: %s", address, error)
            raise Refused(503, "The database cannot be reached: ask for a new URL in a moment") from None
        except TooMany as error:
            raise Refused(429, str(error)) from None
        try:
            self._connect(session, vnc_port)
        except target.Unreachable as error:
            self.close(session)
            LOG.error("console of server %s cannot be opened: %s", session.target.server_id, error)
            raise Refused(502, "The guest's console cannot be reached: ask for a new URL") from None
        except BaseException:
            self.close(session)
            raise
        return session

    def close(self, session: Session) -> None:
        """Forget a session; twice is as once."""
        self.sessions.remove(session)
        if session.connection is not None:
            with contextlib.suppress(OSError):
                session.connection.close()

    def _take(self, token: str, address: str) -> tuple[Session, int | None]:
        """A session for a token that is used up now, and the port of its guest's screen."""
        session = vnc_port = None
        try:
            with self.database.write.begin() as rows:
                found = console_tokens.find_target(rows, token)
                if found is not None:
                    session = self.sessions.add(found, address)
                    server = rows.scalar(select(Server).where(Server.id == found.server_id))
                    vnc_port = console_tokens.find_port(server, "novnc")
                taken = console_tokens.take_token(rows, token)
            if session is None or taken is None:
                raise Refused(403, "The token was used, has expired, or its guest is gone: ask for a new URL")
        except BaseException:
            if session is not None:
                self.sessions.remove(session)
            raise
        return session, vnc_port

    def _connect(self, session: Session, vnc_port: int | None) -> None:
        one = session.target
        if one.kind == "serial":
            self.sessions.end_others(session)
        session.connection = target.open_port(self.settings, one.host, one.port)
        if one.kind == "novnc":
            target.wait_for_words(session.connection)
        target.check_guest(self.settings, one.host, vnc_port, one.server_id)
        if session.reason:
            raise target.Unreachable(session.reason)
