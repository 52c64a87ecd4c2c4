"""An image's bytes: streamed in and out, in bounded memory.

An upload takes the image from `queued` to `saving` to `active`. Whatever goes wrong on the way (the
client goes, the format is not the declared one, the process is killed) it is `queued` again and the
part file is gone; so does the reference's implementation with data it refuses, with the same 415.
Source: Image API reference, "Image data". Security cases 1 to 4. Next room: `web/image_store.py`.
"""

from __future__ import annotations

import logging
import re

from sqlalchemy import select, update

from ...errors import BadRequest, Conflict, Forbidden, Gone, NotFound, Problem, TooLarge, UnsupportedMedia
from ...http import Context, build_log
from ...image_store import CHUNK, Download, Upload
from ...models import Image, new_uuid, now
from ...policy import MEMBER, READER, rule
from ...routes import Reply, Route
from .rows import OTHERS, find_image, find_own, free_abandoned
from .stores import check_wanted_store

LOG = logging.getLogger("kumo.image")
DRAIN = 256 << 20  # bytes of a refused upload that are read and dropped, so that the client reads the reason


class RangeNotSatisfiable(Problem):
    status = 416
    kind = "RangeNotSatisfiable"


def check_request(ctx: Context) -> None:
    """Bytes, and not more of them than the store takes."""
    kind = (ctx.headers.get("Content-Type") or "").split(";")[0].strip().lower()
    if kind != "application/octet-stream":
        raise UnsupportedMedia(f"Unsupported Content-Type {kind or '(none)'}: it must be application/octet-stream")
    most = ctx.settings.image.max_size_bytes
    if ctx.length is not None and ctx.length > most:
        raise TooLarge(f"The image is larger than {most} bytes, the most this store takes.")


def start_upload(ctx: Context, image_id: str, upload_id: str, target: str) -> None:
    """The queued image has this status and this upload; Conflict where it is not queued (any more)."""
    with ctx.write() as session:
        started = session.execute(
            update(Image)
            .where(Image.id == image_id, Image.status == "queued", Image.deleted_at.is_(None))
            .values(status=target, upload_id=upload_id, updated_at=now())
            .execution_options(synchronize_session=False)
        )
        if not started.rowcount:
            status = session.scalar(select(Image.status).where(Image.id == image_id))
            raise Conflict(f"Image status transition from {status} to {target} is not allowed")


def receive(ctx: Context, upload) -> None:
    """All bytes of the request into the upload (to the store, or to the stage), which is finished."""
    while True:
        try:
            chunk = ctx.stream.read(CHUNK)
        except Exception as error:  # each server has its own for a client that went away
            LOG.info("%s upload ended early: %r", ctx.request_id, error)
            raise BadRequest("The client went away before the image was complete.") from None
        if not chunk:
            break
        upload.write(chunk)
    if ctx.length is not None and upload.size != ctx.length:
        raise BadRequest(f"The image ended after {upload.size} of {ctx.length} bytes.")
    upload.finish()


def _publish(ctx: Context, image_id: str, upload_id: str, upload: Upload) -> None:
    with ctx.write() as session:
        done = session.execute(
            update(Image)
            .where(Image.id == image_id, Image.status == "saving", Image.upload_id == upload_id)
            .values(status="active", updated_at=now(), **upload.build_columns())
            .execution_options(synchronize_session=False)
        )
        if not done.rowcount:
            raise Gone(f"Image {image_id} was deleted during its upload.")
        upload.publish()  # within the transaction: whoever deletes the image waits, and then finds the bytes
        session.add(build_log(ctx, "PUT", 204))


def return_to_queue(ctx: Context, image_id: str, upload_id: str) -> None:
    """The image is queued again, where the upload is still its own."""
    with ctx.write() as session:
        session.execute(
            update(Image)
            .where(Image.id == image_id, Image.status.in_(("saving", "uploading")), Image.upload_id == upload_id)
            .values(status="queued", upload_id=None, updated_at=now())
            .execution_options(synchronize_session=False)
        )


def drain(ctx: Context) -> None:
    """Read and drop the rest of a refused body."""
    left = DRAIN
    try:
        while left > 0 and (chunk := ctx.stream.read(CHUNK)):
            left -= len(chunk)
    except Exception as error:  # the client went: nobody is left to read the reason
        LOG.debug("%s %r", ctx.request_id, error)


def update_file(ctx: Context, image_id: str) -> Reply:
    """The bytes of a queued image; 409 in any other status, 415 where they are not what was declared."""
    try:
        with ctx.database.read() as session:
            ctx.session = session
            row = find_own(ctx, image_id, lock=False)
        check_wanted_store(ctx)
        return store_upload(ctx, row)
    except Problem:
        drain(ctx)
        raise


def store_upload(ctx: Context, row: Image) -> Reply:
    """The request's bytes as those of a queued image; the caller has checked that they may come."""
    image_id = row.id
    check_request(ctx)
    for name in ("disk_format", "container_format"):
        if getattr(row, name) is None:
            raise BadRequest(f"Invalid input for attribute {name}: it must be set before data is uploaded")
    free_abandoned(ctx, [row])
    if row.status != "queued":
        raise Conflict(f"Image status transition from {row.status} to saving is not allowed")
    upload_id = new_uuid()
    settings = ctx.settings.image
    # The part file is there and locked before the row names it: `is_abandoned` is never wrong.
    upload = Upload(settings.store_dir, image_id, upload_id, row.disk_format, settings.max_size_bytes)
    published = False
    try:
        start_upload(ctx, image_id, upload_id, "saving")
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


def _read_range(ctx: Context, download: Download) -> tuple[int, int] | None:
    """(first, last) of the one range asked for (RFC 9110); None for the whole; 416 beyond the end."""
    given = ctx.headers.get("Range", "")
    match = re.fullmatch(r"\s*bytes\s*=\s*(\d{0,18})\s*-\s*(\d{0,18})\s*", given)
    if not given and (given := ctx.headers.get("Content-Range", "")):  # as the Image API has it
        match = re.fullmatch(r"\s*bytes\s+(\d{1,18})-(\d{1,18})/(?:\d{1,18}|\*)\s*", given)
        if not match:
            raise BadRequest(f"Invalid Content-Range {given:.60}: it must be bytes FIRST-LAST/*")
    if not match or not (match[1] or match[2]):
        return None
    if not match[1]:
        first, last = max(download.size - int(match[2]), 0), download.size - 1
    else:
        first = int(match[1])
        last = min(int(match[2]), download.size - 1) if match[2] else download.size - 1
    if first > last or first >= download.size:
        raise RangeNotSatisfiable(
            f"The range {given} is not within the image's {download.size} bytes.",
            headers={"Content-Range": f"bytes */{download.size}"},
        )
    return first, last


def show_file(ctx: Context, image_id: str) -> Reply:
    """The bytes, or one range of them (206); 204 where the image has none yet."""
    with ctx.database.read() as session:
        ctx.session = session
        row = find_image(ctx, image_id)
    if row.status == "deactivated" and not ctx.allows(OTHERS):
        raise Forbidden(f"Image {image_id} is deactivated: its data cannot be downloaded.")
    if row.status not in ("active", "deactivated") or row.size == 0:
        return Reply(None, 204)
    try:
        download = Download(ctx.settings.image.store_dir, image_id)
    except FileNotFoundError:
        LOG.error("%s the bytes of image %s are not in %s", ctx.request_id, image_id, ctx.settings.image.store_dir)
        raise NotFound(f"The data of image {image_id} is not in the store.") from None
    headers = {"Accept-Ranges": "bytes"}
    status = 200
    try:
        if (span := _read_range(ctx, download)) is not None:
            download.first, download.last = span
            headers["Content-Range"] = f"bytes {span[0]}-{span[1]}/{download.size}"
            status = 206
        elif row.checksum:
            headers["Content-MD5"] = row.checksum
    except Problem:
        download.close()
        raise
    headers["Content-Length"] = str(download.last - download.first + 1)
    return Reply(download, status, headers, "application/octet-stream")


UPLOAD = rule("image:files:update", MEMBER)
DOWNLOAD = rule("image:files:show", READER)
ROUTES = [
    Route("PUT", "/images/{image_id}/file", UPLOAD, None, update_file, stream=True),
    Route("GET", "/images/{image_id}/file", DOWNLOAD, None, show_file, transaction=False),
]
