"""The version documents of the Compute API, which clients read before they have a token.

Source: Compute API reference, "API versions". Next room: `web/versions.py`, which says what is served.
"""

from __future__ import annotations

from ...http import Context
from ...routes import Route
from ...versions import MAXIMUM, MINIMUM, show_version

UPDATED = "2013-07-23T11:33:21Z"
MEDIA_TYPE = "application/vnd.openstack.compute+json;version=2.1"


def _build(ctx: Context) -> dict:
    return {
        "id": "v2.1",
        "status": "CURRENT",
        "version": show_version(MAXIMUM["compute"]),
        "min_version": show_version(MINIMUM["compute"]),
        "updated": UPDATED,
        "links": [{"rel": "self", "href": ctx.url("/")}],
    }


def index(ctx: Context) -> list:
    return [_build(ctx)]


def show(ctx: Context) -> dict:
    return {**_build(ctx), "media-types": [{"base": "application/json", "type": MEDIA_TYPE}]}


def view(ctx: Context, version: dict) -> dict:
    return version


ROUTES = [
    Route("GET", "/", None, None, index, view, reply_key="versions", root=True),
    Route("GET", "/v2.1", None, None, show, view, reply_key="version", root=True),
]
