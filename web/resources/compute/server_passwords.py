"""A new password for the administrator in a guest, set by the guest's agent while the request waits.

202 once it is set; 409 with the reason where it is not, and the server is as it was. Where the host takes longer than
the request waits the answer is 202, and the action says later how it went. The password is kept in the server's row
until then, and nowhere after. Source: Compute API reference, "Change Administrative Password (changePassword
Action)". Next rooms: `server_questions.py`, `module_utils/kumo/guest_password.py`.
"""

from __future__ import annotations

from sqlalchemy import select

from ...errors import Conflict
from ...fields import field, text
from ...http import Context
from ...models import Server, ServerAction, now
from ...models.hardware import build_hardware
from ...policy import MEMBER, rule
from ...reconcile.status import CHANGE_PASSWORD
from ...routes import Route
from .server_questions import check_host_up, wait_for_answer
from .server_rows import find_server_to_change, mark_changed, record_action

FIELDS = {"adminPass": field({**text(255), "format": "printable"}, required=True, secret=True)}


def change(ctx: Context, server_id: str) -> None:
    """The password is wanted in the guest; Conflict where its agent did not set it."""
    with ctx.write() as session:
        server = find_server_to_change(ctx, server_id, "change_password")
        check_host_up(ctx, server, f"The password of instance {server.id} cannot be set")
        if not build_hardware(server.image_properties or {}, server.flavor.get("extra_specs") or {}).get("guest_agent"):
            raise Conflict(
                f"Failed to set admin password on {server.id} because QEMU guest agent is not enabled: "
                "its image needs the property hw_qemu_guest_agent=yes when the server is made"
            )
        server.password_wanted += 1
        server.password_secret, server.password_asked_at = ctx.body["adminPass"], now()
        number = server.password_wanted
        record_action(ctx, server, CHANGE_PASSWORD)
        mark_changed(ctx, server)
        session.flush()

    def read(session) -> str | None:
        done = session.scalar(select(Server.observed_password_done).where(Server.id == server_id))
        if done is not None and done < number:
            return None
        asked = select(ServerAction.message).where(
            ServerAction.server_id == server_id,
            ServerAction.action == CHANGE_PASSWORD,
            ServerAction.request_id == ctx.request_id,
        )
        return session.scalar(asked.order_by(ServerAction.id.desc())) or ""

    said = wait_for_answer(ctx, read)
    if said:
        raise Conflict(f"Failed to set admin password on {server_id} because {said.removeprefix('Error: ')}")


ROUTES = [
    Route(
        "POST",
        "/servers/{server_id}/action",
        rule("compute:servers:change_password", MEMBER),
        FIELDS,
        change,
        None,
        202,
        action="changePassword",
        transaction=False,
    )
]
