"""What a console's token leads to, for a proxy of the operator's own: it is not used up by looking.

Source: Compute API reference, "Show Console Connection Information". Before 2.31 the reference tells this of RDP
consoles alone, which there are none of.
"""

from __future__ import annotations

from ...console_tokens import Target, find_target
from ...errors import NotFound, Unauthorized
from ...http import Context
from ...policy import ADMIN, rule
from ...routes import Route


def show(ctx: Context, console_token: str) -> Target:
    target = find_target(ctx.session, console_token)
    if target is None:
        raise NotFound("Token not found")
    return target


def show_rdp(ctx: Context, console_token: str) -> Target:
    show(ctx, console_token)
    raise Unauthorized("The requested console type details are not accessible")


def view(ctx: Context, target: Target) -> dict:
    """``host`` and ``port`` as they are on the hypervisor itself: nothing but its own processes reaches them."""
    return {
        "instance_uuid": target.server_id,
        "host": target.host.connection.get("ansible_host", "127.0.0.1"),
        "port": target.port,
        "internal_access_path": None,
    }


PERMISSION = rule("os_compute_api:os-console-auth-tokens", ADMIN)
PATH = "/os-console-auth-tokens/{console_token}"
ROUTES = [
    Route("GET", PATH, PERMISSION, None, show_rdp, view, key="console", until="2.30"),
    Route("GET", PATH, PERMISSION, None, show, view, key="console", since="2.31"),
]
