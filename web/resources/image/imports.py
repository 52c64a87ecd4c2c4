"""Interoperable import: bytes put on the stage, and the word that staged bytes or a web address become the image.

Only rows are written here, and bytes that the client sends; the worker does the rest (`web/image_imports.py`), and
tells how it went in the image's status and in its tasks. Source: Image API reference, "Interoperable image import".
Next rooms: `files.py`, whose upload this is like; `tasks.py`.
"""

from __future__ import annotations

from sqlalchemy import update

from ...dispatch import nudge
from ...errors import BadRequest, Conflict, Gone, NotFound, Problem
from ...fields import BOOL, field, items, mapping, text
from ...http import Context, build_log
from ...image_imports import STORE
from ...image_sources import parse_uri
from ...image_staging import Staging, build_staged
from ...models import Image, ImageTask, new_uuid, now
from ...policy import MEMBER, rule
from ...routes import Reply, Route
from .files import check_request, drain, receive, return_to_queue, start_upload
from .rows import find_own, free_abandoned

FIELDS = {
    "method": field(mapping({"name": text(64, 1), "uri": text(2048)}, ("name",), extra=True), required=True),
    "stores": field(items(text(255), 100)),
    "all_stores": field(BOOL),
    "all_stores_must_succeed": field(BOOL),
}


def _check_offered(ctx: Context) -> None:
    if not ctx.settings.image.import_methods:
        raise NotFound("Image import is not supported at this site.")


def stage(ctx: Context, image_id: str) -> Reply:
    """The bytes of a queued image, to be imported; it is `uploading` until then."""
    _check_offered(ctx)
    try:
        return _stage(ctx, image_id)
    except Problem:
        drain(ctx)
        raise


def _stage(ctx: Context, image_id: str) -> Reply:
    with ctx.database.read() as session:
        ctx.session = session
        row = find_own(ctx, image_id, lock=False)
    check_request(ctx)
    free_abandoned(ctx, [row])
    if row.status != "queued":
        raise Conflict(f"Image status transition from {row.status} to uploading is not allowed")
    upload_id = new_uuid()
    upload = Staging(ctx.settings.image.store_dir, image_id, upload_id, ctx.settings.image.max_size_bytes)
    published = False
    try:
        start_upload(ctx, image_id, upload_id, "uploading")
        try:
            receive(ctx, upload)
            _publish(ctx, image_id, upload_id, upload)
            published = True
        finally:
            if not published:
                return_to_queue(ctx, image_id, upload_id)
    finally:
        upload.discard()
    return Reply(None, 204)


def _publish(ctx: Context, image_id: str, upload_id: str, upload: Staging) -> None:
    with ctx.write() as session:
        done = session.execute(
            update(Image)
            .where(Image.id == image_id, Image.status == "uploading", Image.upload_id == upload_id)
            .values(upload_id=None, size=upload.size, updated_at=now())
            .execution_options(synchronize_session=False)
        )
        if not done.rowcount:
            raise Gone(f"Image {image_id} was deleted during its upload.")
        upload.publish()
        session.add(build_log(ctx, "PUT", 204))


def create(ctx: Context, image_id: str) -> Reply:
    """202; the image is `importing` from now on, and then `active`, or `queued` again with the reason in its task."""
    _check_offered(ctx)
    method = ctx.body["method"]
    _check_method(ctx, method)
    _check_stores(ctx)
    with ctx.write() as session:
        row = find_own(ctx, image_id)
        start_import(ctx, row, "api_image_import", {"image_id": row.id, "import_req": ctx.body, "backend": [STORE]},
                     method.get("uri") if method["name"] == "web-download" else None)  # fmt: skip
        session.add(build_log(ctx, "POST", 202))
    nudge(ctx.settings)
    return Reply(None, 202)


def start_import(ctx: Context, row: Image, kind: str, asked: dict, uri: str | None) -> ImageTask:
    """The image is importing and a task says from where, in the caller's transaction; Conflict in any other status."""
    for name in ("disk_format", "container_format"):
        if getattr(row, name) is None:
            raise BadRequest(f"Invalid input for attribute {name}: it must be set before the image is imported")
    needed = "queued" if uri is not None else "uploading"
    if row.status != needed:
        raise Conflict(f"Image needs to be in '{needed}' state to be imported by this method; it is {row.status}.")
    if uri is None and (row.upload_id is not None or not build_staged(ctx.settings.image.store_dir, row.id).exists()):
        raise Conflict(f"The data of image {row.id} are not wholly staged yet.")
    row.status, row.upload_id, row.size = "importing", None, None
    task = ImageTask(
        image_id=row.id, project_id=row.project_id, user_id=ctx.token.user_id, request_id=ctx.request_id,
        type=kind, input=asked, uri=uri,
    )  # fmt: skip
    ctx.session.add(task)
    ctx.session.flush()
    return task


def _check_method(ctx: Context, method: dict) -> None:
    offered = ctx.settings.image.import_methods
    if method["name"] not in offered:
        raise BadRequest(f"Unknown import method name '{method['name']}'; this cloud has {', '.join(offered)}.")
    if method["name"] == "web-download":
        if not method.get("uri"):
            raise BadRequest("URI is required for import method 'web-download' (method.uri)")
        parse_uri(method["uri"], ctx.settings)


def _check_stores(ctx: Context) -> None:
    body = ctx.body
    if "stores" in body and body.get("all_stores"):
        raise BadRequest("All_stores parameter can't be used with x-image-meta-store header or stores parameter")
    named = body.get("stores") or [one for one in (ctx.headers.get("X-Image-Meta-Store"),) if one]
    for one in named:
        if one != STORE:
            raise Conflict(f"Unknown store {one:.60}; this cloud has {STORE}.")


STAGE = rule("image:stage:update", MEMBER)
IMPORT = rule("image:import:create", MEMBER)
ROUTES = [
    Route("PUT", "/images/{image_id}/stage", STAGE, None, stage, stream=True),
    Route("POST", "/images/{image_id}/import", IMPORT, FIELDS, create, transaction=False),
]
