"""The one version of the admin API."""

from __future__ import annotations

from ...http import Context
from ...routes import Reply, Route


def index(ctx: Context) -> Reply:
    links = [{"rel": "self", "href": ctx.url("/")}]
    return Reply({"versions": [{"id": "v1", "status": "CURRENT", "links": links}]})


ROUTES = [
    Route("GET", "/", None, None, index, root=True, transaction=False),
    Route("GET", "/v1", None, None, index, root=True, transaction=False),
]
