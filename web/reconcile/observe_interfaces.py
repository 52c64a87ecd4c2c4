"""Ports that are to go out of their guests: let go once a run saw them gone. Until then their addresses are taken.

Next rooms: `resources/compute/server_interfaces.py`, which asks for it; `observe.py`.
"""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from ..allocation import end_port_use
from ..models import Host, Port
from ..router_legs import sync_router_legs


def store_detached(session: Session, settings, host: Host, document: dict, result: dict) -> None:
    """Free the ports that this run was to take out of guests of the host, and that it saw in none afterwards."""
    kept = {port_id for server in document["servers"] for port_id in server.get("ports") or []}
    told = {server["id"] for server in document["servers"] if server["wanted"] == "present" and "ports" in server}
    failed = {key for key, outcome in result["objects"].get("servers", {}).items() if not outcome["ok"]}
    seen = {key for key, port in result["observed"].get("ports", {}).items() if port["state"] == "active"}
    leaving = session.scalars(select(Port).where(Port.host_id == host.id, Port.detached_at.is_not(None))).unique().all()
    left = set()
    for port in leaving:
        if port.device_id in told - failed and port.id not in kept | seen:
            left.add(port.network_id)
            end_port_use(session, port)
    if left:
        session.flush()
        sync_router_legs(session, settings, left)
