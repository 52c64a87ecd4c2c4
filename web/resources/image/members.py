"""Members of shared images: projects an image is offered to, and whether they took it.

The owner says to whom, the member says whether. Source: Image API reference, "Sharing". Next room:
`rows.py`, which lists what was accepted.
"""

from __future__ import annotations

from sqlalchemy import select

from ...errors import Conflict, Forbidden, NotFound, TooLarge
from ...fields import field, one_of, text
from ...http import Context
from ...models import Image, ImageMember
from ...policy import MEMBER, READER, rule
from ...routes import Reply, Route
from .rows import OTHERS, find_image, find_own

FIELDS = {"member": field(text(255, 1), required=True)}
CHANGES = {"status": field(one_of("pending", "accepted", "rejected"), required=True)}


def _is_owner(ctx: Context, row: Image) -> bool:
    return row.project_id == ctx.token.project_id or ctx.allows(OTHERS)


def _find_image(ctx: Context, image_id: str) -> Image:
    row = find_image(ctx, image_id)
    if row.visibility != "shared":
        raise Forbidden("Only shared images have members.")
    return row


def _find(ctx: Context, row: Image, member_id: str) -> ImageMember:
    member = ctx.session.get(ImageMember, (row.id, member_id))
    if member is None or (not _is_owner(ctx, row) and member_id != ctx.token.project_id):
        raise NotFound(f"{member_id} not found in the member list of the image {row.id}.")
    return member


def index(ctx: Context, image_id: str) -> Reply:
    """All of them for the owner, itself for a member."""
    row = _find_image(ctx, image_id)
    statement = select(ImageMember).where(ImageMember.image_id == row.id).order_by(ImageMember.member_id)
    if not _is_owner(ctx, row):
        statement = statement.where(ImageMember.member_id == ctx.token.project_id)
    return Reply(
        {"members": [view(ctx, one) for one in ctx.session.scalars(statement)], "schema": "/v2/schemas/members"}
    )


def show(ctx: Context, image_id: str, member_id: str) -> ImageMember:
    return _find(ctx, _find_image(ctx, image_id), member_id)


def create(ctx: Context, image_id: str) -> ImageMember:
    row = find_own(ctx, image_id)
    if row.visibility != "shared":
        raise Forbidden("Only shared images have members.")
    member_id = ctx.body["member"]
    if ctx.session.get(ImageMember, (row.id, member_id)) is not None:
        raise Conflict(f"Member {member_id} is duplicated for image {row.id}")
    known = ctx.session.scalars(select(ImageMember.member_id).where(ImageMember.image_id == row.id)).all()
    most = ctx.settings.image.max_members
    if len(known) >= most:
        raise TooLarge(f"The limit of {most} members of an image is exceeded.")
    member = ImageMember(image_id=row.id, member_id=member_id)
    ctx.session.add(member)
    ctx.session.flush()
    return member


def update(ctx: Context, image_id: str, member_id: str) -> ImageMember:
    """Only the member itself takes or refuses an image."""
    member = _find(ctx, _find_image(ctx, image_id), member_id)
    if member_id != ctx.token.project_id and not ctx.allows(OTHERS):
        raise Forbidden("Only the member itself can change its status.")
    member.status = ctx.body["status"]
    ctx.session.flush()
    return member


def delete(ctx: Context, image_id: str, member_id: str) -> None:
    row = _find_image(ctx, image_id)
    if not _is_owner(ctx, row):
        raise Forbidden(f"You cannot delete members of the image {image_id}.")
    ctx.session.delete(_find(ctx, row, member_id))


def view(ctx: Context, row: ImageMember) -> dict:
    return {
        "image_id": row.image_id,
        "member_id": row.member_id,
        "status": row.status,
        "created_at": row.created_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "updated_at": row.updated_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "schema": "/v2/schemas/member",
    }


READ = rule("image:members:read", READER)
CREATE = rule("image:members:create", MEMBER)
UPDATE = rule("image:members:update", MEMBER)
DELETE = rule("image:members:delete", MEMBER)
ROUTES = [
    Route("GET", "/images/{image_id}/members", READ, None, index),
    Route("POST", "/images/{image_id}/members", CREATE, FIELDS, create, view),
    Route("GET", "/images/{image_id}/members/{member_id}", READ, None, show, view),
    Route("PUT", "/images/{image_id}/members/{member_id}", UPDATE, CHANGES, update, view),
    Route("DELETE", "/images/{image_id}/members/{member_id}", DELETE, None, delete),
]
