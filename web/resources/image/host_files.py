"""An image's bytes for a host that makes guests or volumes from it.

No token: a host shows the signature that its document has for this very image. Whatever does not fit
(signature, host, need) is one and the same 404. Next rooms: `web/models/host_images.py`, `web/image_store.py`.
"""

from __future__ import annotations

import hmac
import logging

from ...errors import NotFound
from ...http import Context
from ...image_store import Download
from ...models import Host, Image
from ...models.host_images import HEADER, build_signature, is_needed, read_host_key
from ...routes import Reply, Route

LOG = logging.getLogger("kumo.image")


def check_signature(ctx: Context, build, host_id: str, image_id: str) -> None:
    """NotFound where the caller does not show what ``build`` (of `models/host_images.py`) gives for both."""
    missing = NotFound("The resource could not be found.")
    try:
        wanted = build(read_host_key(ctx.settings), host_id, image_id)
    except FileNotFoundError as error:
        LOG.error("%s %s", ctx.request_id, error)
        raise missing from None
    shown = ctx.headers.get(HEADER, "")
    if not hmac.compare_digest(shown.encode("utf-8", "replace"), wanted.encode()):
        raise missing


def show_host_file(ctx: Context, host_id: str, image_id: str) -> Reply:
    """The whole file, streamed."""
    check_signature(ctx, build_signature, host_id, image_id)
    missing = NotFound("The resource could not be found.")
    with ctx.database.read() as session:
        image = session.get(Image, image_id)
        known = session.get(Host, host_id) is not None and image is not None
        # Of a deleted image the bytes are there for as long as a guest may need them (image_cleanup.py).
        if (
            not known
            or image.status not in ("active", "deactivated", "deleted")
            or not is_needed(session, host_id, image_id)
        ):
            raise missing
    try:
        download = Download(ctx.settings.image.store_dir, image_id)
    except FileNotFoundError:
        LOG.error("%s the bytes of image %s are not in %s", ctx.request_id, image_id, ctx.settings.image.store_dir)
        raise missing from None
    return Reply(download, 200, {"Content-Length": str(download.size)}, "application/octet-stream")


ROUTES = [
    Route("GET", "/hosts/{host_id}/images/{image_id}", None, None, show_host_file, root=True, transaction=False),
]
