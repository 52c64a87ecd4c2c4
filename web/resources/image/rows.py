"""Images as rows: who sees and who changes which, and how one is shown.

A public image is everyone's to use, a community one too, but only its owner's lists show it unasked; a
shared one is its owner's and its members', a private one its owner's. Source: Image API reference,
"Image visibility". Next room: `images.py`.
"""

from __future__ import annotations

from sqlalchemy import and_, or_, select, update

from ...errors import Forbidden, NotFound
from ...http import Context
from ...image_imports import STORE
from ...image_store import is_abandoned, remove_parts
from ...models import Image, ImageMember, now
from ...policy import ADMIN, rule

OTHERS = rule("image:images:others", ADMIN)

BASE = {
    "id", "name", "status", "visibility", "owner", "protected", "os_hidden", "disk_format", "container_format", "size",
    "virtual_size", "checksum", "os_hash_algo", "os_hash_value", "min_disk", "min_ram", "created_at", "updated_at",
    "tags",
}  # fmt: skip
READ_ONLY = {
    "id", "status", "size", "virtual_size", "checksum", "os_hash_algo", "os_hash_value", "created_at", "updated_at",
    "self", "file", "schema", "direct_url", "stores",
}  # fmt: skip
RESERVED = {"locations", "deleted", "deleted_at", "os_glance_import_task", "is_public"}


def is_reserved(name: str) -> bool:
    """Whether a property may not have this name."""
    return name in RESERVED or name.startswith("os_glance_")


def _shared_with(project_id: str | None, *statuses: str):
    chosen = select(ImageMember.image_id).where(ImageMember.member_id == project_id)
    if statuses:
        chosen = chosen.where(ImageMember.status.in_(statuses))
    return and_(Image.visibility == "shared", Image.id.in_(chosen))


def select_visible(ctx: Context):
    """Every image the caller may use, by id."""
    statement = select(Image).where(Image.deleted_at.is_(None))
    if ctx.allows(OTHERS):
        return statement
    mine = ctx.token.project_id
    return statement.where(
        or_(Image.project_id == mine, Image.visibility.in_(("public", "community")), _shared_with(mine))
    )


def select_listed(ctx: Context, visibility: str | None, member_status: str):
    """The images that a list shows: of the caller's own, public, and shared and accepted; or of one visibility."""
    mine, statement = ctx.token.project_id, select_visible(ctx)
    statuses = () if member_status == "all" else (member_status,)
    if visibility == "shared":
        return statement.where(
            Image.visibility == "shared",
            or_(Image.project_id == mine, _shared_with(mine, *statuses), ctx.allows(OTHERS)),
        )
    if visibility is not None and visibility != "all":
        return statement.where(Image.visibility == visibility)
    if ctx.allows(OTHERS):
        return statement
    known = [Image.project_id == mine, Image.visibility == "public", _shared_with(mine, *statuses)]
    if visibility == "all":
        known.append(Image.visibility == "community")
    return statement.where(or_(*known))


def find_image(ctx: Context, image_id: str, lock: bool = False) -> Image:
    """The image the caller may see; NotFound. Locked: nobody else changes it until the transaction ends."""
    statement = select_visible(ctx).where(Image.id == image_id)
    row = ctx.session.execute(statement.with_for_update() if lock else statement).scalar()
    if row is None:
        raise NotFound(f"Failed to find image {image_id}")
    return row


def find_own(ctx: Context, image_id: str, lock: bool = True) -> Image:
    """The image the caller may change; Forbidden where it only may see it."""
    row = find_image(ctx, image_id, lock)
    if row.project_id != ctx.token.project_id and not ctx.allows(OTHERS):
        raise Forbidden(f"You are not permitted to modify the image {image_id}.")
    return row


def free_abandoned(ctx: Context, rows: list[Image]) -> None:
    """Uploads among ``rows`` whose process was killed go back to `queued` (in the rows given, too).

    Opens a transaction of its own: called outside any.
    """
    for row in rows:
        receiving = row.status == "saving" or (row.status == "uploading" and row.upload_id is not None)
        if receiving and is_abandoned(ctx.settings.image.store_dir, row.id, row.upload_id):
            with ctx.write() as session:
                freed = session.execute(
                    update(Image)
                    .where(Image.id == row.id, Image.status == row.status, Image.upload_id == row.upload_id)
                    .values(status="queued", upload_id=None, updated_at=now())
                    .execution_options(synchronize_session=False)
                )
            if freed.rowcount:
                row.status, row.upload_id = "queued", None
                remove_parts(ctx.settings.image.store_dir, row.id)


def write_time(moment) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _build_import_view(row: Image) -> dict:
    """What clients look at of an image that is imported, or was."""
    if row.status != "importing" and row.failed_import is None:
        return {}
    stores = STORE if row.status == "importing" else ""
    return {"os_glance_importing_to_stores": stores, "os_glance_failed_import": row.failed_import or ""}


def view(ctx: Context, row: Image) -> dict:
    """The image with its properties beside its own attributes."""
    return {
        **row.properties,
        **_build_import_view(row),
        **({"stores": STORE} if row.status in ("active", "deactivated") else {}),
        "id": row.id,
        "name": row.name,
        "status": row.status,
        "visibility": row.visibility,
        "owner": row.project_id,
        "protected": row.protected,
        "os_hidden": row.os_hidden,
        "disk_format": row.disk_format,
        "container_format": row.container_format,
        "size": row.size,
        "virtual_size": row.virtual_size,
        "checksum": row.checksum,
        "os_hash_algo": row.os_hash_algo,
        "os_hash_value": row.os_hash_value,
        "min_disk": row.min_disk,
        "min_ram": row.min_ram,
        "created_at": write_time(row.created_at),
        "updated_at": write_time(row.updated_at),
        "tags": sorted(row.tags),
        "self": f"/v2/images/{row.id}",
        "file": f"/v2/images/{row.id}/file",
        "schema": "/v2/schemas/image",
    }
