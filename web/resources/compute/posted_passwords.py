"""The password that a guest has made itself and posted, encrypted with its key pair, to the metadata service.

What is cleared is the record of it: the guest's password stays what it is, and the guest may post another. Source:
Compute API reference, "Servers password (servers, os-server-password)"; as there, a lock does not forbid it.
Next rooms: `web/reconcile/observe_questions.py`, which stores it; `module_utils/kumo/posted_passwords.py`.
"""

from __future__ import annotations

from sqlalchemy import update

from ...http import Context
from ...models import Server, touch
from ...policy import MEMBER, READER, rule
from ...routes import Route
from .server_rows import find_server


def show(ctx: Context, server_id: str) -> dict:
    """The text as the guest posted it; empty where its host has told of none."""
    return {"password": find_server(ctx, server_id).observed_posted_password or ""}


def clear(ctx: Context, server_id: str) -> None:
    """It is forgotten here, and by the server's host."""
    server = find_server(ctx, server_id)
    touch(ctx.session, server.host_id, ctx.request_id)  # the host's row first, as the loop does
    ctx.session.execute(
        update(Server)
        .where(Server.id == server.id)
        .values(password_cleared=Server.password_cleared + 1, observed_posted_password=None)
    )


def view(ctx: Context, posted: dict) -> dict:
    return posted


PATH = "/servers/{server_id}/os-server-password"
ROUTES = [
    Route("GET", PATH, rule("compute:servers:server_password:show", READER), None, show, view),
    Route("DELETE", PATH, rule("compute:servers:server_password:clear", MEMBER), None, clear, None, 204),
]
