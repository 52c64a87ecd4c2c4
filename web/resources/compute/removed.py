"""What went with nova-network and is gone for good, which the reference answers with 410.

Source: Compute API reference, "Obsolete APIs". Next room: `networks.py`, which has what is left of it.
"""

from __future__ import annotations

from ...errors import Gone
from ...http import Context
from ...policy import ADMIN, ANYONE, rule
from ...routes import Route

READ = rule("compute:removed:read", ANYONE)
CHANGE = rule("compute:removed:change", ADMIN)
REMOVED = [
    ("POST", "/os-networks"),
    ("DELETE", "/os-networks/{network_id}"),
    ("POST", "/os-networks/{network_id}/action"),
    ("POST", "/os-tenant-networks"),
    ("DELETE", "/os-tenant-networks/{network_id}"),
    ("GET", "/os-floating-ips-bulk"),
    ("POST", "/os-floating-ips-bulk"),
    ("GET", "/os-floating-ips-bulk/{name}"),
    ("PUT", "/os-floating-ips-bulk/{name}"),
    ("GET", "/os-security-group-default-rules"),
    ("POST", "/os-security-group-default-rules"),
    ("GET", "/os-security-group-default-rules/{name}"),
    ("DELETE", "/os-security-group-default-rules/{name}"),
]


def refuse(ctx: Context, **names: str) -> None:
    raise Gone("This API is no longer available: it went with nova-network. Ask the network service.")


ROUTES = [Route(method, path, READ if method == "GET" else CHANGE, None, refuse, None) for method, path in REMOVED]
