"""A host's image cache: what was last seen in it, and images that are to be in it before a guest needs them.

The host's next run brings the cache to what is asked here. Next rooms: `web/host_cache.py`, which the command
`kumo host images` uses, too; `hosts.py`.
"""

from __future__ import annotations

from ...host_cache import apply_wish, list_cache
from ...http import Context
from ...policy import ADMIN, rule
from ...routes import Reply, Route
from .hosts import show as find_host


def index(ctx: Context, name: str) -> Reply:
    return Reply({"images": list_cache(ctx.session, find_host(ctx, name))})


def _wish(ctx: Context, name: str, image_id: str, **wanted) -> Reply:
    host = find_host(ctx, name)
    apply_wish(ctx.session, host, image_id, ctx.request_id, **wanted)
    ctx.session.flush()
    found = [one for one in list_cache(ctx.session, host) if one["id"] == image_id]
    return Reply({"image": found[0] if found else {"id": image_id, "kept": False, "cached": False}}, 202)


def update(ctx: Context, name: str, image_id: str) -> Reply:
    """Have the image in the host's cache, whether or not a guest needs it. A second time changes nothing."""
    return _wish(ctx, name, image_id, kept=True)


def delete(ctx: Context, name: str, image_id: str) -> Reply:
    """Keep it no longer than guests need it, and then until it is old."""
    return _wish(ctx, name, image_id, kept=False)


def create(ctx: Context, name: str, image_id: str) -> Reply:
    """Fetch it again, whatever the host's copy looks like."""
    return _wish(ctx, name, image_id, again=True)


READ = rule("admin:host_images:read", ADMIN)
CHANGE = rule("admin:host_images:change", ADMIN)
ROUTES = [
    Route("GET", "/hosts/{name}/images", READ, None, index),
    Route("PUT", "/hosts/{name}/images/{image_id}", CHANGE, None, update),
    Route("DELETE", "/hosts/{name}/images/{image_id}", CHANGE, None, delete),
    Route("POST", "/hosts/{name}/images/{image_id}/fetch", CHANGE, None, create),
]
