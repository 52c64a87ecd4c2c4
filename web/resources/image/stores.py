"""Stores of images: there is one, and an image's only copy is not taken out of it.

Source: Image API reference, "Stores". Next rooms: `versions.py`, which lists it; `images.py`, whose delete does that.
"""

from __future__ import annotations

from ...errors import BadRequest, Forbidden, NotFound
from ...http import Context
from ...image_imports import STORE
from ...policy import ADMIN, rule
from ...routes import Route
from .rows import find_own


def check_wanted_store(ctx: Context) -> None:
    """BadRequest where the request wants its bytes in a store that is not here."""
    wanted = ctx.headers.get("X-Image-Meta-Store") or STORE
    if wanted != STORE:
        raise BadRequest(f"Unknown store {wanted:.60}; this cloud has {STORE}.")


def delete_image(ctx: Context, store_id: str, image_id: str) -> None:
    """Always refused: with what there is, each image has but one copy."""
    if store_id != STORE:
        raise NotFound(f"The selected store {store_id:.60} is not available on this system.")
    row = find_own(ctx, image_id)
    if row.status not in ("active", "deactivated"):
        raise NotFound(f"Image {image_id} is not stored on store {store_id}.")
    if row.protected:
        raise Forbidden(f"Image {image_id} is protected and cannot be deleted.")
    raise Forbidden(f"Cannot delete the last location of image {image_id}: delete the image instead.")


DELETE = rule("image:stores:delete_image", ADMIN)
ROUTES = [Route("DELETE", "/stores/{store_id}/{image_id}", DELETE, None, delete_image)]
