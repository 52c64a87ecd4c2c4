"""The version documents of the Network API, which clients read before anything else. They need no token."""

from __future__ import annotations

from ...http import Context
from ...routes import Reply, Route

COLLECTIONS = (
    "networks",
    "subnets",
    "ports",
    "routers",
    "floatingips",
    "security-groups",
    "security-group-rules",
    "extensions",
    "quotas",
    "availability_zones",
    "network-ip-availabilities",
)


def index(ctx: Context) -> Reply:
    """The one version there is."""
    link = {"rel": "self", "href": ctx.url("/")}
    return Reply({"versions": [{"id": "v2.0", "status": "CURRENT", "links": [link]}]})


def show(ctx: Context) -> Reply:
    """The collections of the version."""
    resources = [
        {
            "name": name.replace("-", "_").removesuffix("s"),
            "collection": name.replace("-", "_"),
            "links": [{"rel": "self", "href": ctx.url(f"/{name}")}],
        }
        for name in COLLECTIONS
    ]
    return Reply({"resources": resources})


ROUTES = [
    Route("GET", "", None, None, index, root=True),
    Route("GET", "/v2.0", None, None, show, root=True),
]
