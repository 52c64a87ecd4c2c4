"""The version documents of the Block Storage API. Source: Block Storage API reference, "API versions"."""

from __future__ import annotations

from ...http import Context
from ...routes import Reply, Route
from ...versions import MAXIMUM, MINIMUM, show_version

UPDATED = "2023-08-31T00:00:00Z"


def index(ctx: Context) -> Reply:
    """The one version there is; asked for at the service's root or at its own."""
    version = {
        "id": "v3.0",
        "status": "CURRENT",
        "version": show_version(MAXIMUM["volume"]),
        "min_version": show_version(MINIMUM["volume"]),
        "updated": UPDATED,
        "links": [{"rel": "self", "href": ctx.url("/")}],
        "media-types": [{"base": "application/json", "type": "application/vnd.openstack.volume+json;version=3"}],
    }
    return Reply({"versions": [version]}, 200)


ROUTES = [
    Route("GET", "/", None, None, index, root=True, transaction=False),
    Route("GET", "/v3", None, None, index, root=True, transaction=False),
]
