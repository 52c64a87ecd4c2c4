"""The availability zones of the network service: those of the hosts. Source: API reference, "Availability zones"."""

from __future__ import annotations

from sqlalchemy import select

from ...http import Context
from ...models import Host
from ...policy import ANYONE, rule
from ...routes import Route


def index(ctx: Context) -> list[dict]:
    """A zone is available while a host in it is enabled."""
    zones: dict[str, bool] = {}
    for host in ctx.session.execute(select(Host.zone, Host.enabled, Host.forced_down).order_by(Host.zone)):
        zones[host.zone] = zones.get(host.zone, False) or (host.enabled and not host.forced_down)
    return [
        {"name": name, "resource": "network", "state": "available" if up else "unavailable"}
        for name, up in zones.items()
    ]


def view(ctx: Context, zone: dict) -> dict:
    return zone


LIST = rule("network:availability_zones:index", ANYONE)
ROUTES = [Route("GET", "/availability_zones", LIST, None, index, view, reply_key="availability_zones")]
