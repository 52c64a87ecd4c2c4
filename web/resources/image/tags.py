"""Tags of images, one at a time.

Source: Image API reference, "Image tags". Next room: `changes.py`, which replaces all of them.
"""

from __future__ import annotations

from ...errors import BadRequest, NotFound
from ...http import Context
from ...policy import MEMBER, rule
from ...routes import Reply, Route
from .properties import check_tags
from .rows import find_own


def create(ctx: Context, image_id: str, tag: str) -> Reply:
    """Tagging twice is tagging once."""
    if len(tag) > 255 or not tag.isprintable():
        raise BadRequest("Invalid input for tag: at most 255 printable characters are allowed")
    row = find_own(ctx, image_id)
    row.tags = check_tags([*row.tags, tag], ctx.settings.image.max_tags)
    return Reply(None, 204)


def delete(ctx: Context, image_id: str, tag: str) -> Reply:
    row = find_own(ctx, image_id)
    if tag not in row.tags:
        raise NotFound(f"The tag {tag} is not on the image {image_id}.")
    row.tags = [one for one in row.tags if one != tag]
    return Reply(None, 204)


CREATE = rule("image:tags:create", MEMBER)
DELETE = rule("image:tags:delete", MEMBER)
ROUTES = [
    Route("PUT", "/images/{image_id}/tags/{tag}", CREATE, None, create),
    Route("DELETE", "/images/{image_id}/tags/{tag}", DELETE, None, delete),
]
