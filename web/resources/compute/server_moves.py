"""What `POST /servers/{id}/action` asks for of a server's host and size: live and cold migration, resize.

A request is checked, room is claimed on the destination by the migration's own row, and hosts are told; the rest is
seen (docs/moving-guests.md). Source: Compute API reference, "Servers - run an administrative action", "Resize Server".
Next rooms: `web/move_scheduler.py`, `web/moves.py`; `server_migrations.py`, which shows and aborts what goes on.
"""

from __future__ import annotations

from sqlalchemy import select

from ...errors import BadRequest, Conflict, Forbidden
from ...fields import BOOL, field, nullable, one_of, since, text, until
from ...http import Context
from ...models import Flavor, Host, Image, Migration, Server, finish_actions
from ...move_scheduler import Wish, choose_destination, describe
from ...moves import enter_phase, read_open_of_server, start_move, store_fencing
from ...policy import ADMIN, MANAGER, MEMBER, rule
from ...routes import Route
from ...scheduler import NoValidHost
from .placement import check_more
from .server_hardware import check_hardware
from .server_requests import GIB, invalid, read_flavor
from .server_rows import begin_operation, find_server_to_move, record_action

LIVE_FIELDS = {
    "host": field(nullable(text(255, 1)), required=True),
    "block_migration": field({"anyOf": [BOOL, one_of("auto")]}, required=True),
    "force": field(BOOL, since("2.30"), until("2.67")),
}
LIVE_FIELDS_2_1 = {
    "host": field(nullable(text(255, 1)), required=True),
    "block_migration": field(BOOL, required=True),
    "disk_over_commit": field(BOOL, required=True),
}
# Older requests name no host: the reference overlooks one, and the server would go elsewhere than its admin has said.
MIGRATE_FIELDS = {"host": field(nullable(text(255, 1)))}
MIGRATE_FIELDS_2_1 = {"host": field({"type": "null"})}
RESIZE_FIELDS = {
    "flavorRef": field({"type": ["string", "integer"], "minLength": 1, "maxLength": 255}, required=True),
    "OS-DCF:diskConfig": field(one_of("AUTO", "MANUAL")),
}

LIVE = rule("compute:servers:live_migrate", MANAGER)
LIVE_TO_HOST = rule("compute:servers:live_migrate:host", ADMIN)
COLD = rule("compute:servers:migrate", MANAGER)
COLD_TO_HOST = rule("compute:servers:migrate:host", ADMIN)


def live_migrate(ctx: Context, server_id: str) -> None:
    """The running guest goes to another host; from 2.34 on a refusal is the migration's, not the request's."""
    body, version = ctx.body, ctx.version
    host = body["host"]
    force = body.get("force", False) if version >= (2, 30) else host is not None
    if force and host is None:
        raise BadRequest("Can't force to a non-provided destination")
    check_may_name_host(ctx, host, LIVE_TO_HOST)
    server = find_server_to_move(ctx, server_id, "live_migrate")
    if host is not None:
        check_named_host(ctx, server, host, f"Unable to migrate instance ({server.id}) to current host ({host}).")
    wish = Wish(host=host, force=bool(force), live=True)
    record_action(ctx, server, "live-migration")
    reason = _explain_local_disk(server, body["block_migration"])
    dest = None
    if reason is None:
        try:
            dest = choose_destination(ctx.session, ctx.settings, server, wish)
        except NoValidHost as refusal:
            reason = describe(refusal, wish, ctx.allows(LIVE_TO_HOST))
    if reason is not None and version < (2, 34):
        raise BadRequest(f"Migration pre-check error: {reason}" if host is not None else reason)
    begin_move(ctx, server, "live-migration", dest, error=reason)


def _explain_local_disk(server: Server, block_migration: object) -> str | None:
    """A guest's local disk is on its host alone, so it has to be copied."""
    if server.image_id is not None and block_migration is False:
        return (
            f"{server.id} is not on shared storage: Shared storage live-migration requires either shared storage or "
            "boot-from-volume with no local disks."
        )
    return None


def check_may_name_host(ctx: Context, host: str | None, permission: str) -> None:
    """Forbidden where a host was named by somebody who is not to know of hosts."""
    if host is not None and not ctx.allows(permission):
        raise Forbidden(f"Policy doesn't allow {permission} to be performed.")


def check_named_host(ctx: Context, server: Server, name: str, same: str) -> None:
    """BadRequest where there is no such host, or (``same``) where it is the server's own."""
    host = ctx.session.scalar(select(Host).where(Host.name == name))
    if host is None or "hypervisor" not in host.roles:
        raise BadRequest(f"Compute host {name} could not be found.")
    if host.id == server.host_id:
        raise BadRequest(same)


def begin_move(
    ctx: Context, server: Server, kind: str, dest: str | None, error: str | None = None, **flavor
) -> Migration:
    """The move's row, claimed and told; or with ``error`` the row of one that failed before it began."""
    migration = start_move(
        ctx.session,
        ctx.settings,
        server,
        kind,
        dest,
        user_id=ctx.token.user_id,
        project_id=ctx.token.project_id or "",
        error=error,
        request_id=ctx.request_id,
        **flavor,
    )
    if error is not None:
        ctx.session.flush()
        finish_actions(ctx.session, server.id, "Error")
    return migration


def migrate(ctx: Context, server_id: str) -> None:
    """The guest is stopped, its disk copied to another host, and it is started there, to be confirmed."""
    host = ctx.body.get("host")
    check_may_name_host(ctx, host, COLD_TO_HOST)
    server = find_server_to_move(ctx, server_id, "migrate")
    if host is not None:
        check_named_host(ctx, server, host, "Cannot migrate to the host where the server exists.")
    wish = Wish(host=host)
    record_action(ctx, server, "migrate")
    begin_move(ctx, server, "migration", _choose(ctx, server, wish, told=ctx.allows(COLD_TO_HOST)))


def _choose(ctx: Context, server: Server, wish: Wish, flavor: dict | None = None, told: bool = True) -> str:
    try:
        return choose_destination(ctx.session, ctx.settings, server, wish, flavor)
    except NoValidHost as refusal:
        raise BadRequest(describe(refusal, wish, told)) from None


def resize(ctx: Context, server_id: str) -> None:
    """Another flavor: on its own host where there is room, else on another; to be confirmed or reverted."""
    server = find_server_to_move(ctx, server_id, "resize", quota=True)
    flavor = _read_new_flavor(ctx, server)
    more = {"cores": flavor.vcpus - server.flavor["vcpus"], "ram": flavor.ram_mb - server.flavor["ram_mb"]}
    check_more(ctx, server, more)
    values = {
        "name": flavor.name,
        "vcpus": flavor.vcpus,
        "ram_mb": flavor.ram_mb,
        "disk_gb": flavor.disk_gb,
        "ephemeral_gb": flavor.ephemeral_gb,
        "swap_mb": flavor.swap_mb,
        "extra_specs": dict(flavor.extra_specs),
    }
    _check_made_of(server, flavor)
    dest = _choose(ctx, server, Wish(same_host=True), values)
    server.disk_config = ctx.body.get("OS-DCF:diskConfig", server.disk_config)
    record_action(ctx, server, "resize")
    begin_move(ctx, server, "resize", dest, flavor_id=flavor.id, flavor=values)


def _read_new_flavor(ctx: Context, server: Server) -> Flavor:
    given = ctx.body["flavorRef"]
    flavor = read_flavor(ctx, given)
    if flavor.id == server.flavor_id:
        raise BadRequest("When resizing, instances must change flavor!")
    if server.image_id is None:
        return flavor  # its root disk is a volume, which no flavor sizes
    old = server.flavor["disk_gb"]
    if flavor.disk_gb == 0 and old != 0:
        raise BadRequest("Resize to zero disk flavor is not allowed.")
    if flavor.disk_gb < old:
        raise BadRequest(f"Resize error: Unable to resize disk down: from {old} GiB to {flavor.disk_gb} GiB.")
    image = ctx.session.get(Image, server.image_id)
    copied = image is not None and image.disk_format != "iso"
    needed = (image.virtual_size or image.size or 0) if copied else 0
    if flavor.disk_gb and needed > flavor.disk_gb * GIB:
        raise invalid(
            "flavorRef", given,
            f"Flavor's disk is too small for requested image. Flavor disk is {flavor.disk_gb * GIB} bytes, "
            f"image is {needed} bytes.",
        )  # fmt: skip
    if image is not None and flavor.ram_mb < (image.min_ram or 0):
        raise invalid("flavorRef", given, "Flavor's memory is too small for requested image.")
    return flavor


def _check_made_of(server: Server, flavor: Flavor) -> None:
    """BadRequest where the flavor changes disks that are made once, or promises hardware that no guest has."""
    for name, kind in (("ephemeral_gb", "ephemeral"), ("swap_mb", "swap")):
        old, new = server.flavor.get(name, 0), getattr(flavor, name)
        if old != new:
            raise BadRequest(
                f"Resize error: Unable to change the {kind} disk of a server: its flavor has {old}, the new one {new}."
            )
    check_hardware(server.image_properties, flavor.extra_specs)


def _find_resized(ctx: Context, server: Server) -> Migration:
    for migration in read_open_of_server(ctx.session, server.id):
        if migration.phase == "resized":
            return migration
    raise BadRequest("Instance has not been resized.")


def confirm_resize(ctx: Context, server_id: str) -> None:
    """What the old host kept is not needed any more."""
    server = find_server_to_move(ctx, server_id, "confirm_resize")
    migration = _find_resized(ctx, server)
    record_action(ctx, server, "confirmResize")
    enter_phase(ctx.session, ctx.settings, migration, server, "cleaning", "confirmed", request_id=ctx.request_id)


def revert_resize(ctx: Context, server_id: str) -> None:
    """The server is as it was, with the disk of then, once nothing of it runs on the other host."""
    server = find_server_to_move(ctx, server_id, "revert_resize", quota=True)
    migration = _find_resized(ctx, server)
    source = ctx.session.get(Host, migration.source_host_id)
    if source.forced_down:
        raise Conflict(f"Instance {server.id} cannot be reverted: the host it came from, {source.name}, is down.")
    record_action(ctx, server, "revertResize")
    begin_operation(ctx, server, "revert of the resize")
    enter_phase(ctx.session, ctx.settings, migration, server, "undoing", "reverted", request_id=ctx.request_id)
    dest = ctx.session.get(Host, migration.dest_host_id)
    if dest.forced_down and dest.id != source.id:
        store_fencing(ctx.session, ctx.settings, dest, ctx.request_id)


PATH = "/servers/{server_id}/action"


def _action(permission: str, name: str, fields: dict | None, handler, status: int = 202, **bounds) -> Route:
    return Route("POST", PATH, permission, fields, handler, None, status, action=name, **bounds)


ROUTES = [
    _action(LIVE, "os-migrateLive", LIVE_FIELDS_2_1, live_migrate, until="2.24"),
    _action(LIVE, "os-migrateLive", LIVE_FIELDS, live_migrate, since="2.25"),
    _action(COLD, "migrate", MIGRATE_FIELDS_2_1, migrate, until="2.55"),
    _action(COLD, "migrate", MIGRATE_FIELDS, migrate, since="2.56"),
    _action(rule("compute:servers:resize", MEMBER), "resize", RESIZE_FIELDS, resize),
    _action(rule("compute:servers:confirm_resize", MEMBER), "confirmResize", None, confirm_resize, 204),
    _action(rule("compute:servers:revert_resize", MEMBER), "revertResize", None, revert_resize),
]
