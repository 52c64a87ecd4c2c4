"""Version documents of the Image API, and what it tells of imports and stores.

Source: Image API reference, "Image API versions". The newest minor version named is the one with
`os_hidden` and the multihash; there is no import and one store. Next room: `images.py`.
"""

from __future__ import annotations

from ...http import Context
from ...policy import ANYONE, rule
from ...routes import Reply, Route

MINORS = range(7, -1, -1)


def index(ctx: Context) -> Reply:
    """Every minor version, the newest first; 300 as the reference has it."""
    links = [{"rel": "self", "href": ctx.url("/")}]
    versions = [
        {"id": f"v2.{minor}", "status": "CURRENT" if minor == MINORS[0] else "SUPPORTED", "links": links}
        for minor in MINORS
    ]
    return Reply({"versions": versions}, 300)


def show_import(ctx: Context) -> Reply:
    """No import methods: images come with PUT …/file."""
    return Reply({"import-methods": {"description": "Import methods available.", "type": "array", "value": []}})


def index_stores(ctx: Context) -> Reply:
    return Reply({"stores": [{"id": "files", "description": "Files of the image service", "default": "true"}]})


INFO = rule("image:info:show", ANYONE)
ROUTES = [
    Route("GET", "", None, None, index, root=True, transaction=False),
    Route("GET", "/versions", None, None, index, root=True, transaction=False),
    Route("GET", "/v2", None, None, index, root=True, transaction=False),
    Route("GET", "/info/import", INFO, None, show_import, transaction=False),
    Route("GET", "/info/stores", INFO, None, index_stores, transaction=False),
]
