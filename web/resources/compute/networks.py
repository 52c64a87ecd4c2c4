"""os-networks and os-tenant-networks (until 2.35): the network service's networks, to look at only.

Source: Compute API reference, "Networks (os-networks) (DEPRECATED)", "Project networks (os-tenant-networks)
(DEPRECATED)". What else they could do went with nova-network: `removed.py`. Next room: `web/neighbours.py`.
"""

from __future__ import annotations

from ...http import Context
from ...neighbours import ask
from ...policy import READER, rule
from ...routes import Route

EMPTY = (
    "bridge", "bridge_interface", "broadcast", "cidr", "cidr_v6", "created_at", "deleted", "deleted_at", "dhcp_server",
    "dhcp_start", "dns1", "dns2", "enable_dhcp", "gateway", "gateway_v6", "host", "injected", "mtu", "multi_host",
    "netmask", "netmask_v6", "priority", "project_id", "rxtx_base", "share_address", "updated_at", "vlan",
    "vpn_private_address", "vpn_public_address", "vpn_public_port",
)  # fmt: skip


def index(ctx: Context) -> list[dict]:
    return ask(ctx, "network", "GET", "/networks")


def show(ctx: Context, network_id: str) -> dict:
    return ask(ctx, "network", "GET", "/networks/{network_id}", network_id=network_id)


def view(ctx: Context, network: dict) -> dict:
    """What the network service does not have is empty, as in the reference."""
    return {**dict.fromkeys(EMPTY), "id": network["id"], "label": network["name"]}


def view_brief(ctx: Context, network: dict) -> dict:
    return {"id": network["id"], "label": network["name"], "cidr": "None"}


LIST = rule("compute:networks:index", READER)
SHOW = rule("compute:networks:show", READER)
LAST = {"until": "2.35"}
ROUTES = [
    Route("GET", "/os-networks", LIST, None, index, view, reply_key="networks", **LAST),
    Route("GET", "/os-networks/{network_id}", SHOW, None, show, view, reply_key="network", **LAST),
    Route("GET", "/os-tenant-networks", LIST, None, index, view_brief, reply_key="networks", **LAST),
    Route("GET", "/os-tenant-networks/{network_id}", SHOW, None, show, view_brief, reply_key="network", **LAST),
]
