"""Deletion of servers: at once, or for `[compute] reclaim_instance_interval_s` in a way that can be taken back.

Source: Compute API reference, "Delete Server", "Force-Delete Server (forceDelete Action)", "Restore Soft-Deleted
Instance (restore Action)". Next room: `web/deletions.py`.
"""

from __future__ import annotations

from sqlalchemy import select

from ...allocation import end_port_use
from ...deletions import begin_deletion
from ...http import Context
from ...models import Port, Server, now, touch
from ...moves import enter_phase, read_open_of_server
from ...password_orders import end_password
from ...policy import MEMBER, rule
from ...routes import Route
from ...server_images import fail_images_of_server
from ...shelving import drop_shelved_image
from ...volume_attachments import end_attachments
from .placement import check_more
from .server_rows import begin_operation, find_server_to_change, mark_changed, record_action


def delete(ctx: Context, server_id: str) -> None:
    """Off and kept for a while where an interval is set; else, and where there is no guest to restore, for good."""
    server = find_server_to_change(ctx, server_id, "delete")
    if ctx.settings.compute.reclaim_instance_interval_s > 0 and _can_be_kept(server):
        _delete_softly(ctx, server)
    else:
        _delete(ctx, server)


def force_delete(ctx: Context, server_id: str) -> None:
    """For good and now, from any state; asked for twice it is one deletion."""
    _delete(ctx, find_server_to_change(ctx, server_id, "delete"))


def restore(ctx: Context, server_id: str) -> None:
    """The deletion is taken back: the guest is started again, with its disks, ports and volumes; it counts again."""
    server = find_server_to_change(ctx, server_id, "restore")
    check_more(ctx, server, {"instances": 1, "cores": server.flavor["vcpus"], "ram": server.flavor["ram_mb"]})
    server.soft_deleted_at = None
    server.power = "on"
    server.start_wanted += 1
    begin_operation(ctx, server, "restore")
    record_action(ctx, server, "restore")
    mark_changed(ctx, server)


def _can_be_kept(server: Server) -> bool:
    """Whether there is a guest, and it is where it stays; one that moves or is shelved is deleted at once."""
    return (
        server.deleted_at is None
        and server.host_id is not None
        and server.built_at is not None
        and server.shelve is None
        and server.shelved_at is None
        and server.move in (None, "verify")
    )


def _delete_softly(ctx: Context, server: Server) -> None:
    if server.soft_deleted_at is not None and server.fault_message is None:
        touch(ctx.session, server.host_id, ctx.request_id)
        return
    for migration in read_open_of_server(ctx.session, server.id):
        if migration.phase == "resized":  # as the reference has it: nobody will say any more whether it was right
            enter_phase(
                ctx.session, ctx.settings, migration, server, "cleaning", "confirmed", request_id=ctx.request_id
            )
    server.soft_deleted_at = server.soft_deleted_at or now()
    server.power, server.stop_graceful, server.rescue_image_id = "off", True, None
    end_password(ctx.session, server, "the server was deleted")
    fail_images_of_server(ctx.session, server, "the server was deleted", ctx.request_id)
    begin_operation(ctx, server, "soft-delete")
    record_action(ctx, server, "delete")
    mark_changed(ctx, server)


def _delete(ctx: Context, server: Server) -> None:
    if server.deleted_at is not None:
        touch(ctx.session, server.host_id, ctx.request_id)
        return
    record_action(ctx, server, "delete", finished=server.host_id is None)
    if server.host_id is not None:
        begin_deletion(ctx.session, ctx.settings, server, ctx.request_id)
    else:
        server.deleted_at = server.gone_at = now()
        server.observed_posted_password = None
        drop_shelved_image(ctx.session, server)
        end_attachments(ctx.session, server.id)
        server.operation = server.operation_deadline = None
        for port in ctx.session.scalars(select(Port).where(Port.device_id == server.id)).unique().all():
            end_port_use(ctx.session, port, ctx.request_id)
    mark_changed(ctx, server)


PATH = "/servers/{server_id}"
DELETE = rule("compute:servers:delete", MEMBER)
FORCE = rule("compute:servers:force_delete", MEMBER)
RESTORE = rule("compute:servers:restore", MEMBER)
ROUTES = [
    Route("DELETE", PATH, DELETE, None, delete, None, 204),
    Route("POST", PATH + "/action", FORCE, None, force_delete, None, 202, action="forceDelete"),
    Route("POST", PATH + "/action", RESTORE, None, restore, None, 202, action="restore"),
]
