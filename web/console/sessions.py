"""The consoles that are open, and the end of those that must not be any more.

A guest that is deleted, has moved, or was started anew takes its consoles with it: rows are looked at every WATCH_S
seconds while any is open. Each user has so many, and all together. Knows no socket but to end it.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from dataclasses import dataclass, field

from sqlalchemy.exc import SQLAlchemyError

from ..console_tokens import Target, is_there
from ..models import Database

LOG = logging.getLogger("kumo.console")
WATCH_S = 3.0


@dataclass(eq=False)
class Session:
    """One console that is open; ``connection`` is the guest's side. ``reason``: why it was ended from here."""

    target: Target
    address: str  # the client's
    connection: socket.socket | None = None
    reason: str | None = None
    started: float = field(default_factory=time.monotonic)

    def end(self, reason: str) -> None:
        self.reason = self.reason or reason
        if self.connection is not None:
            with contextlib.suppress(OSError):  # whoever serves it sees its end, and closes both
                self.connection.shutdown(socket.SHUT_RDWR)


class TooMany(Exception):
    """One more console than a user, or all of them together, may have open."""


class Sessions:
    """All that are open in this process."""

    def __init__(self, settings, database: Database):
        self.settings, self.database = settings, database
        self._open: set[Session] = set()
        self._lock = threading.Lock()
        self._some = threading.Event()
        threading.Thread(target=self._watch, daemon=True, name="watch").start()

    def __len__(self) -> int:
        return len(self._open)

    def add(self, target: Target, address: str) -> Session:
        """A new session; TooMany where there is no room for it."""
        session = Session(target, address)
        with self._lock:
            own = sum(1 for one in self._open if one.target.user_id == target.user_id)
            if own >= self.settings.console.sessions_per_user:
                raise TooMany(f"You have {own} consoles open: close one first")
            if len(self._open) >= self.settings.console.sessions:
                raise TooMany("Too many consoles are open: try again later")
            self._open.add(session)
            self._some.set()
        return session

    def remove(self, session: Session) -> None:
        with self._lock:
            self._open.discard(session)
            if not self._open:
                self._some.clear()

    def end_others(self, session: Session) -> None:
        """QEMU takes one client of a serial port at a time: the newest is who wants it."""
        with self._lock:
            others = [
                one
                for one in self._open
                if one is not session
                and (one.target.server_id, one.target.kind) == (session.target.server_id, session.target.kind)
            ]
        for one in others:
            one.end("this serial port was opened anew elsewhere")

    def look(self) -> None:
        """End what leads to no guest of its own any more."""
        with self._lock:
            sessions = list(self._open)
        if not sessions:
            return
        with self.database.read.begin() as rows:
            gone = [one for one in sessions if not is_there(rows, one.target)]
        for one in gone:
            one.end("the guest has ended, was started anew, or is on another host")

    def _watch(self) -> None:
        while True:
            self._some.wait()
            time.sleep(WATCH_S)
            try:
                self.look()
            except SQLAlchemyError as error:
                LOG.warning("the database did not answer, consoles stay as they are: %s", type(error).__name__)
