"""The statuses of network objects: pure functions of what is wanted and what hosts have seen.

Nothing is stored; the criteria beside them say the same to SQL for filters. Source: the status
attributes in the Network API reference.
"""

from __future__ import annotations

from sqlalchemy import case

from ...models import FloatingIP, Port, Router
from ...models.networks import FLOATING_IP


def compute_network_status() -> str:
    """A network is usable as soon as it is recorded: hosts make it with the first guest on it."""
    return "ACTIVE"


def compute_port_status(port: Port) -> str:
    """A guest's port is ACTIVE once its host saw it; the network's own unless seen down."""
    if port.device_owner == FLOATING_IP:
        return "N/A"
    if not port.admin_state_up or port.observed_state == "down":
        return "DOWN"
    return "ACTIVE" if port.observed_state == "active" or port.device_owner.startswith("network:") else "DOWN"


def compute_router_status(router: Router) -> str:
    """Like a network's; ERROR where a host could not make it."""
    return "ERROR" if router.observed_state in ("error", "failed") else "ACTIVE"


def compute_floating_status(floating: FloatingIP) -> str:
    """ACTIVE while it leads to a port and a host has seen it so."""
    return "ACTIVE" if floating.port_id is not None and floating.observed_state == "active" else "DOWN"


PORT_STATUS = case(
    (Port.device_owner == FLOATING_IP, "N/A"),
    (Port.admin_state_up.is_(False), "DOWN"),
    (Port.observed_state == "down", "DOWN"),
    (Port.observed_state == "active", "ACTIVE"),
    (Port.device_owner.startswith("network:"), "ACTIVE"),
    else_="DOWN",
)
ROUTER_STATUS = case((Router.observed_state.in_(("error", "failed")), "ERROR"), else_="ACTIVE")
FLOATING_STATUS = case(
    (FloatingIP.port_id.is_(None), "DOWN"), (FloatingIP.observed_state == "active", "ACTIVE"), else_="DOWN"
)
