"""The actions addFixedIp and removeFixedIp of old clients: a port more on a network, an address less (until 2.43).

Source: Compute API reference, "Add (Associate) Fixed Ip", "Remove (Disassociate) Fixed Ip". Next room:
`server_interfaces.py`, whose ports they are.
"""

from __future__ import annotations

from ...allocation import allocate_addresses
from ...errors import BadRequest
from ...fields import IPV4, IPV6, UUID, field
from ...http import Context
from ...models.reach import touch_port
from ...policy import MEMBER, rule
from ...routes import Route
from .server_interfaces import attach, detach, index
from .server_requests import Nic, read_network
from .server_rows import find_server, find_server_to_change, mark_changed, record_action

ADD_FIELDS = {"networkId": field(UUID, required=True)}
REMOVE_FIELDS = {"address": field({"anyOf": [IPV4, IPV6]}, required=True)}


def add(ctx: Context, server_id: str) -> None:
    """A new port on the network, with an address of it."""
    find_server(ctx, server_id)
    attach(ctx, server_id, Nic(read_network(ctx, ctx.body["networkId"])), None, "addFixedIp")


def remove(ctx: Context, server_id: str) -> None:
    """The address is given back; with its last one the port goes out of the server."""
    address = ctx.body["address"]
    for nic, port in index(ctx, server_id):
        if all(fixed != address for _, fixed, _ in nic.addresses) or port.detached_at is not None:
            continue
        if len(nic.addresses) == 1:
            detach(ctx, server_id, port.id, "removeFixedIp")
            return
        if any(fixed == address and floating for _, fixed, floating in nic.addresses):
            raise BadRequest(f"Unable to remove fixed IP {address}: a floating IP leads to it; remove that first.")
        server = find_server_to_change(ctx, server_id, "detach_interface")
        touch_port(ctx.session, port, ctx.request_id)
        kept = [{"subnet_id": subnet, "ip_address": fixed} for subnet, fixed, _ in nic.addresses if fixed != address]
        allocate_addresses(ctx.session, port, kept)
        touch_port(ctx.session, port, ctx.request_id)
        record_action(ctx, server, "removeFixedIp")
        mark_changed(ctx, server)
        return
    raise BadRequest(f"Unable to remove fixed IP {address}: it is none of instance {server_id}'s.")


PATH = "/servers/{server_id}/action"
ADD = rule("compute:servers:add_fixed_ip", MEMBER)
REMOVE = rule("compute:servers:remove_fixed_ip", MEMBER)
ROUTES = [
    Route("POST", PATH, ADD, ADD_FIELDS, add, None, 202, action="addFixedIp", until="2.43"),
    Route("POST", PATH, REMOVE, REMOVE_FIELDS, remove, None, 202, action="removeFixedIp", until="2.43"),
]
