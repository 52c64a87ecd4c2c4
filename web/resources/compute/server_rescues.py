"""A server rescued and unrescued: it boots from another image, its own root disk comes second.

Source: Compute API reference, "Rescue Server (rescue Action)". A server whose root disk is a volume is not rescued.
Next room: `module_utils/kumo/rescue.py`, which does it on the host.
"""

from __future__ import annotations

from ...errors import BadRequest
from ...fields import UUID, field, nullable, text
from ...http import Context
from ...models import Flavor, Server
from ...policy import MEMBER, rule
from ...routes import Route
from .server_hardware import choose_password
from .server_requests import read_image
from .server_rows import begin_operation, check_placed, find_server_to_change, mark_changed, record_action

FIELDS = {
    "adminPass": field(text(255), secret=True),
    "rescue_image_ref": field(nullable(UUID)),
}


def rescue(ctx: Context, server_id: str) -> dict:
    """The guest is shut down and boots from the image that was named, else from its own."""
    body = ctx.body
    server = find_server_to_change(ctx, server_id, "rescue")
    check_placed(server)
    if server.image_id is None:
        raise BadRequest(f"Instance {server.id} cannot be rescued: Cannot rescue a volume-backed instance")
    server.rescue_image_id = _read_rescue_image(ctx, server, body.get("rescue_image_ref") or server.image_id)
    server.power = "on"
    server.start_wanted += 1
    server.stop_graceful = True
    begin_operation(ctx, server, "rescue")
    record_action(ctx, server, "rescue")
    mark_changed(ctx, server)
    return {"adminPass": server.injected.get("admin_pass") or choose_password(body)}


def _read_rescue_image(ctx: Context, server: Server, image_id: str) -> str:
    """The id of an image that a guest can boot from; its own is good also where it was deleted since."""
    if image_id == server.image_id:
        return image_id
    # As large as the server is, not as its flavor is today.
    size = Flavor(ram_mb=server.flavor["ram_mb"], disk_gb=server.flavor["disk_gb"])
    try:
        return read_image(ctx, image_id, size).id
    except BadRequest as refusal:
        reason = refusal.message.removeprefix("Invalid imageRef: ")
        raise BadRequest(f"Requested rescue image '{image_id}' is not supported: {reason}") from None


def unrescue(ctx: Context, server_id: str) -> None:
    """The disk of the rescue goes, and the guest boots from its own again."""
    server = find_server_to_change(ctx, server_id, "unrescue")
    check_placed(server)
    server.rescue_image_id = None
    server.power = "on"
    server.start_wanted += 1
    begin_operation(ctx, server, "unrescue")
    record_action(ctx, server, "unrescue")
    mark_changed(ctx, server)


def view(ctx: Context, answer: dict) -> dict:
    return answer


PATH = "/servers/{server_id}/action"
ROUTES = [
    Route("POST", PATH, rule("compute:servers:rescue", MEMBER), FIELDS, rescue, view, 200, action="rescue"),
    Route("POST", PATH, rule("compute:servers:unrescue", MEMBER), None, unrescue, None, 202, action="unrescue"),
]
