"""The bytes of an image that a host makes of a guest's disk.

No token: the host shows the signature that its document has for this very upload, and bytes are taken only for an
image that this host is to make and that has none. Whatever does not fit is one and the same 404. What the bytes are is
checked as any upload is (`files.py`). Next rooms: `web/server_images.py`, `web/models/host_images.py`.
"""

from __future__ import annotations

from sqlalchemy import select

from ...errors import NotFound, Problem
from ...http import Context
from ...models import Host, Image, Server, ServerImage
from ...models.host_images import build_upload_signature
from ...routes import Reply, Route
from ...server_images import follow_server_image
from .files import drain, store_upload
from .host_files import check_signature


def update_host_file(ctx: Context, host_id: str, image_id: str) -> Reply:
    """The whole file; the image is active once it is complete, and the host is told that nothing more is wanted."""
    check_signature(ctx, build_upload_signature, host_id, image_id)
    try:
        with ctx.database.read() as session:
            row, image = session.get(ServerImage, image_id), session.get(Image, image_id)
        if row is None or row.host_id != host_id or image is None or image.deleted_at is not None:
            raise NotFound("The resource could not be found.")
        reply = store_upload(ctx, image)
    except Problem:
        drain(ctx)
        raise
    # Should this process end here, whoever stores the host's next run does the same.
    with ctx.write() as session:
        session.execute(select(Host.id).where(Host.id == host_id).with_for_update()).all()
        server = session.scalar(select(Server).where(Server.id == row.server_id).with_for_update())
        row = session.get(ServerImage, image_id)
        if row is not None:
            follow_server_image(session, row, server, ctx.request_id)
    return reply


ROUTES = [
    Route(
        "PUT", "/hosts/{host_id}/images/{image_id}", None, None, update_host_file,
        root=True, stream=True, transaction=False,
    ),
]  # fmt: skip
