"""Version documents of the Identity API: what discovery reads before anyone has a token.

Source: Identity API reference, "API versions". Next room: `tokens.py`.
"""

from __future__ import annotations

from ...http import Context
from ...routes import Reply, Route

NUMBER = "v3.8"  # the newest minor version whose resources are served


def _build_version(ctx: Context) -> dict:
    return {
        "id": NUMBER,
        "status": "stable",
        "updated": "2026-11-22T00:00:00Z",
        "links": [{"rel": "self", "href": ctx.url("/")}],
        "media-types": [{"base": "application/json", "type": "application/vnd.openstack.identity-v3+json"}],
    }


def index(ctx: Context) -> Reply:
    """Every version there is: one; 300 as the reference has it."""
    return Reply({"versions": {"values": [_build_version(ctx)]}}, 300)


def show(ctx: Context) -> Reply:
    return Reply({"version": _build_version(ctx)})


ROUTES = [
    Route("GET", "", None, None, index, root=True, transaction=False),
    Route("GET", "/v3", None, None, show, root=True, transaction=False),
]
