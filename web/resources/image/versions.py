"""Version documents of the Image API, and what it tells of imports and stores.

Source: Image API reference, "Image API versions". Named is all that the reference's implementation names which has
stores (here: one) and no cache of its own: 2.14 and 2.16 are that cache's, 2.17 locations. Next room: `images.py`.
"""

from __future__ import annotations

from sqlalchemy import func, select

from ...http import Context
from ...image_imports import STORE
from ...models import Image, read_limit
from ...policy import ADMIN, ANYONE, READER, rule
from ...routes import Reply, Route

MINORS = (15, *range(13, -1, -1))
_STORE = {"id": STORE, "description": "Files of the image service", "default": "true"}


def index(ctx: Context) -> Reply:
    """Every minor version, the newest first; 300 as the reference has it."""
    links = [{"rel": "self", "href": ctx.url("/")}]
    versions = [
        {"id": f"v2.{minor}", "status": "CURRENT" if minor == MINORS[0] else "SUPPORTED", "links": links}
        for minor in MINORS
    ]
    return Reply({"versions": versions}, 300)


def show_import(ctx: Context) -> Reply:
    methods = list(ctx.settings.image.import_methods)
    return Reply({"import-methods": {"description": "Import methods available.", "type": "array", "value": methods}})


def index_stores(ctx: Context) -> Reply:
    return Reply({"stores": [_STORE]})


def index_stores_in_detail(ctx: Context) -> Reply:
    return Reply({"stores": [{**_STORE, "type": "file", "weight": 0, "properties": {}}]})


def show_usage(ctx: Context) -> Reply:
    """The caller's project's images against its limit."""
    limit = read_limit(ctx.session, ctx.project_id, "image")
    mine = (Image.project_id == ctx.project_id, Image.deleted_at.is_(None))
    used = ctx.session.scalar(select(func.count()).select_from(Image).where(*mine))
    return Reply({"usage": {"image_count_total": {"limit": limit, "usage": used}}})


DETAIL = rule("image:stores:detail", ADMIN)
USAGE = rule("image:usage:show", READER)
INFO = rule("image:info:show", ANYONE)
ROUTES = [
    Route("GET", "", None, None, index, root=True, transaction=False),
    Route("GET", "/versions", None, None, index, root=True, transaction=False),
    Route("GET", "/v2", None, None, index, root=True, transaction=False),
    Route("GET", "/info/import", INFO, None, show_import, transaction=False),
    Route("GET", "/info/stores", INFO, None, index_stores, transaction=False),
    Route("GET", "/info/stores/detail", DETAIL, None, index_stores_in_detail, transaction=False),
    Route("GET", "/info/usage", USAGE, None, show_usage),
]
