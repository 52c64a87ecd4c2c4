"""A server rebuilt: its root disk made anew from an image, its id, ports, addresses and volumes kept.

Source: Compute API reference, "Rebuild Server (rebuild Action)". What was on the disk is lost, as asked. A root disk
that is a volume is imaged anew from 2.93 on; before that its image must be the same, and what is on it stays. Next
rooms: `server_requests.py`, `web/reimages.py`, `module_utils/kumo/rebuilds.py` on the host.
"""

from __future__ import annotations

from types import SimpleNamespace

from ...errors import BadRequest
from ...fields import (
    BASE64,
    BOOL,
    DESCRIPTION,
    IPV4,
    IPV6,
    METADATA,
    NAME,
    OBJECT,
    UUID,
    field,
    items,
    nullable,
    one_of,
    since,
    text,
    trim,
    until,
)
from ...http import Context
from ...models import Image, Server, Volume
from ...policy import MEMBER, rule
from ...reimages import request_reimage
from ...routes import Reply, Route
from .server_hardware import choose_password, read_remade_of
from .server_images import read_root_volume
from .server_requests import (
    check_metadata,
    check_unsupported,
    check_user_data,
    invalid,
    normalize_address,
    read_image,
    read_key,
)
from .server_rows import begin_operation, check_placed, find_server_to_change, mark_changed, record_action
from .server_views import VIEW_FIELDS, Shown, read_shown, view_updated
from .server_volumes import hold_volume
from .servers import FQDN, HOSTNAME

FIELDS = {
    "imageRef": field(UUID, required=True),
    "name": field(NAME),
    "adminPass": field(text(255), secret=True),
    "metadata": field(METADATA),
    "preserve_ephemeral": field(BOOL),
    "OS-DCF:diskConfig": field(one_of("AUTO", "MANUAL")),
    "accessIPv4": field(IPV4),
    "accessIPv6": field(IPV6),
    "personality": field(items(OBJECT, 255), until("2.56")),
    "description": field(DESCRIPTION, since("2.19")),
    "key_name": field(nullable(text(255, 1)), since("2.54")),
    "user_data": field(nullable(BASE64), since("2.57")),
    "trusted_image_certificates": field(nullable(items(text(255, 1), 50)), since("2.63")),
    "hostname": field(HOSTNAME, since("2.90")),
}
FIELDS_2_94 = {**FIELDS, "hostname": field(FQDN)}


def rebuild(ctx: Context, server_id: str) -> Reply:
    """One more rebuild is wanted, from an image that fits the server's flavor; a stopped server stays stopped."""
    body = ctx.body
    check_unsupported(body)
    if body.get("preserve_ephemeral"):
        raise invalid("preserve_ephemeral", True, "Ephemeral disks are not kept by a rebuild.")
    server = find_server_to_change(ctx, server_id, "rebuild")
    check_placed(server)
    root = read_root_volume(ctx, server)
    flavor = SimpleNamespace(ram_mb=server.flavor["ram_mb"], disk_gb=server.flavor["disk_gb"])
    image = read_image(ctx, body["imageRef"], flavor, on_volume=root is not None)
    if root is not None:
        _apply_to_volume(ctx, hold_volume(ctx, root), image)
    _apply_fields(ctx, server)
    for column, value in read_remade_of(ctx, body, server, image, local_root=root is None).items():
        setattr(server, column, value)
    if root is None:
        server.image_id, server.disk_image_id = image.id, None
    server.rescue_image_id = None
    server.rebuild_wanted += 1
    begin_operation(ctx, server, "rebuild")
    record_action(ctx, server, "rebuild")
    mark_changed(ctx, server)
    ctx.session.flush()
    view = trim(VIEW_FIELDS, view_rebuilt(ctx, read_shown(ctx, [server])[0]), ctx.version)
    view["adminPass"] = server.injected.get("admin_pass") or choose_password(body)
    return Reply({"server": view}, 202, {"Location": ctx.url(f"/servers/{server.id}")})


def _apply_to_volume(ctx: Context, root: Volume, image: Image) -> None:
    """From 2.93 on the volume's content is wanted anew; BadRequest before that where the image is another."""
    if ctx.version >= (2, 93):
        request_reimage(ctx.session, root, image, ctx.request_id)
    elif root.image_metadata.get("image_id") != image.id:
        raise BadRequest(
            f"Image {image.id} is unacceptable: Unable to rebuild with a different image for a volume-backed server."
        )


def _apply_fields(ctx: Context, server: Server) -> None:
    """What is said of the server itself; what is not said stays."""
    body = ctx.body
    for name in ("name", "description", "hostname"):
        if name in body:
            setattr(server, name, body[name])
    server.disk_config = body.get("OS-DCF:diskConfig", server.disk_config)
    for name, column in (("accessIPv4", "access_ipv4"), ("accessIPv6", "access_ipv6")):
        if name in body:
            setattr(server, column, normalize_address(body[name]))
    if "metadata" in body:
        server.metadata_ = check_metadata(ctx, body["metadata"])
    if "user_data" in body:
        server.user_data = check_user_data(body["user_data"])
    if "key_name" in body:
        key = read_key(ctx, body["key_name"])
        server.key_name, server.key_type, server.key_data = (
            (key.name, key.type, key.public_key) if key else (None, None, None)
        )


def view_rebuilt(ctx: Context, shown: Shown) -> dict:
    """As an update's answer, with what a rebuild may have changed of the key (since 2.54) and user data (2.57)."""
    view = view_updated(ctx, shown)
    if ctx.version >= (2, 54):
        view["key_name"] = shown.server.key_name
    if ctx.version >= (2, 57):
        view["user_data"] = shown.server.user_data
        view.pop("OS-EXT-SRV-ATTR:user_data", None)
    return view


PATH = "/servers/{server_id}/action"
REBUILD = rule("compute:servers:rebuild", MEMBER)
ROUTES = [
    Route("POST", PATH, REBUILD, FIELDS, rebuild, None, 202, action="rebuild", until="2.93"),
    Route("POST", PATH, REBUILD, FIELDS_2_94, rebuild, None, 202, action="rebuild", since="2.94"),
]
