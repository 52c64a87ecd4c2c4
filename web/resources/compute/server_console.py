"""A guest's console output, read by its host when a user asks for it.

The request is a number that the host's document carries; the host answers with the text once. Source:
Compute API reference, "Show Console Output (os-getConsoleOutput)".
"""

from __future__ import annotations

import time

from sqlalchemy import select

from ...errors import Conflict, Unavailable
from ...fields import field, nullable, whole
from ...http import Context
from ...models import ConsoleLog, Host, Server, now, touch
from ...policy import MEMBER, rule
from ...reconcile.status import check_allowed
from ...routes import Route
from ...scheduler import is_up
from .server_rows import check_placed, find_server

FIELDS = {"length": field(nullable(whole(-1)))}
WAIT_S = 15.0
POLL_S = 0.1


def show(ctx: Context, server_id: str) -> dict:
    """Ask the host, wait for it at most WAIT_S seconds, and return what it read."""
    with ctx.write() as session:
        server = find_server(ctx, server_id)
        if ctx.database.is_sqlite is False:
            session.refresh(server, with_for_update=True)
        check_allowed(server, "get_console_output")
        check_placed(server)
        host = session.get(Host, server.host_id)
        if not is_up(host.observed_at, host.forced_down, now(), ctx.settings.worker.sweep_s, host.failures):
            raise Conflict(f"The console of instance {server.id} cannot be read: its host is down")
        length = ctx.body.get("length")
        server.console_wanted += 1
        server.console_lines = None if length in (None, -1) else length
        number, row = server.console_wanted, server.number
        touch(session, host.id, ctx.request_id)
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        with ctx.database.read.begin() as session:
            found = session.execute(
                select(Server.observed_console_done, ConsoleLog.text)
                .outerjoin(ConsoleLog, ConsoleLog.server_id == Server.id)
                .where(Server.number == row)
            ).first()
        if found is None:
            break
        if found.observed_console_done >= number:
            return {"output": cut(found.text or "", length)}
        time.sleep(POLL_S)
    raise Unavailable(f"The host of instance {server_id} did not answer within {WAIT_S:.0f} s; ask again.")


def cut(text: str, length: int | None) -> str:
    """The last ``length`` lines (all: None or -1), without the break after the last one, if there is one.

    Another request may have asked for more of them.
    """
    if length in (None, -1):
        return text
    return "\n".join(text.removesuffix("\n").split("\n")[-length:]) if length else ""


def view(ctx: Context, output: dict) -> dict:
    return output


ROUTES = [
    Route(
        "POST",
        "/servers/{server_id}/action",
        rule("compute:servers:console_output", MEMBER),
        FIELDS,
        show,
        view,
        200,
        action="os-getConsoleOutput",
        transaction=False,
    )
]
