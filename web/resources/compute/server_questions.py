"""A question to a guest's host that is answered within the request: asked in one transaction, waited for without any.

Next rooms: `server_diagnostics.py`, `server_passwords.py`, which ask; `server_console.py`, which asked first.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from ...errors import Conflict
from ...http import Context
from ...models import Host, Server, now
from ...scheduler import is_up
from . import server_console
from .server_rows import check_placed


def check_host_up(ctx: Context, server: Server, sentence: str) -> None:
    """Conflict, ``sentence`` with its reason, where nobody would answer."""
    check_placed(server)
    host = ctx.session.get(Host, server.host_id)
    if not is_up(host.observed_at, host.forced_down, now(), ctx.settings.worker.sweep_s, host.failures):
        raise Conflict(f"{sentence}: its host is down")


def wait_for_answer(ctx: Context, read: Callable):
    """What ``read(session)`` finds, once that is something; None where the host did not get to it in time."""
    deadline = time.monotonic() + server_console.WAIT_S
    while time.monotonic() < deadline:
        with ctx.database.read.begin() as session:
            found = read(session)
        if found is not None:
            return found
        time.sleep(server_console.POLL_S)
    return None
