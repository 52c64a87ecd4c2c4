"""A server's interfaces: its ports listed, another one put into it, one taken out of it. Running guests get them live.

Source: Compute API reference, "Port interfaces (servers, os-interface)". A port that is taken out keeps its address and
its firewall until a host saw the guest without it (`reconcile/observe_interfaces.py`); then it is deleted where it was
made for the server, else free. Next room: `fixed_ip_actions.py`, which has the older words for the same.
"""

from __future__ import annotations

from sqlalchemy import func, select

from ...allocation import allocate_port
from ...errors import BadRequest, NotFound
from ...fields import IPV4, IPV6, UUID, field, items, mapping, nullable, since
from ...http import Context
from ...models import Host, Network, Port, Project, Server, now
from ...models.networks import COMPUTE
from ...models.reach import touch_port
from ...policy import MEMBER, READER, rule
from ...reconcile.status import check_allowed
from ...router_legs import sync_router_legs
from ...routes import Route
from .device_tags import TAG, check_tag_free
from .server_requests import Nic as WantedNic
from .server_requests import choose_network, read_network, read_port
from .server_rows import check_placed, find_server, find_server_to_change, mark_changed, record_action
from .server_views import Nic, read_nics

FIXED_IP = mapping({"ip_address": {"anyOf": [IPV4, IPV6]}}, required=("ip_address",))
FIELDS = {
    "port_id": field(nullable(UUID)),
    "net_id": field(nullable(UUID)),
    "fixed_ips": field(items(FIXED_IP, 1)),
    "tag": field(TAG, since("2.49")),
}
VIEW_FIELDS = {"tag": field({}, since("2.70"))}


def index(ctx: Context, server_id: str) -> list[tuple[Nic, Port]]:
    return _read_shown(ctx, find_server(ctx, server_id))


def _read_shown(ctx: Context, server: Server) -> list[tuple[Nic, Port]]:
    nics = read_nics(ctx.session, [server.id]).get(server.id, [])
    return [(nic, ctx.session.get(Port, nic.port_id)) for nic in nics]


def show(ctx: Context, server_id: str, port_id: str) -> tuple[Nic, Port]:
    for nic, port in index(ctx, server_id):
        if nic.port_id == port_id:
            return nic, port
    raise NotFound(f"Instance {server_id} does not have a port with id {port_id}")


def create(ctx: Context, server_id: str) -> tuple[Nic, Port]:
    """A port is wanted in the guest: one that is there, or a new one on a network."""
    body = ctx.body
    port_id, network_id, fixed = body.get("port_id"), body.get("net_id"), body.get("fixed_ips")
    if port_id and network_id:
        raise BadRequest("Invalid input for interfaceAttachment: port_id and net_id cannot both be given.")
    if fixed and not network_id:
        raise BadRequest("Invalid input for interfaceAttachment/fixed_ips: net_id is needed with it.")
    check_allowed(find_server(ctx, server_id), "attach_interface")  # as told before whatever is wrong with the port
    nic = _read_wanted(ctx, port_id, network_id, fixed[0]["ip_address"] if fixed else None)
    port = attach(ctx, server_id, nic, body.get("tag"), "attach_interface")
    return show(ctx, server_id, port.id)


def _read_wanted(ctx: Context, port_id: str | None, network_id: str | None, address: str | None) -> WantedNic:
    """What is to be put in; NotFound where the project sees no such port or network."""
    if port_id:
        port = ctx.session.get(Port, port_id)
        if port is None or (port.project_id != ctx.project_id and not ctx.is_admin):
            raise NotFound(f"Port {port_id} could not be found.")
        return read_port(ctx, port_id, [])
    if not network_id:
        return choose_network(ctx, must=True)[0]
    network = ctx.session.get(Network, network_id)
    seen = network is not None and (network.project_id == ctx.project_id or network.shared or network.external)
    if not seen and not (network is not None and ctx.is_admin):
        raise NotFound(f"Network {network_id} could not be found.")
    return WantedNic(read_network(ctx, network_id), fixed_ip=address)


def attach(ctx: Context, server_id: str, nic: WantedNic, tag: str | None, action: str) -> Port:
    """Put the port, or a new one of the server's project on the network, into the server behind those it has."""
    project = ctx.session.scalar(select(Server.project_id).where(Server.id == server_id))
    # Held in the order in which creations of servers hold them: project, network, host.
    ctx.session.execute(select(Project.id).where(Project.id == project).with_for_update())
    ctx.session.execute(select(Network.id).where(Network.id == nic.network.id).with_for_update())
    server = find_server_to_change(ctx, server_id, "attach_interface")
    check_placed(server)
    check_tag_free(ctx, server, tag)
    last = ctx.session.scalar(select(func.max(Port.device_index)).where(Port.device_id == server.id))
    owner = COMPUTE + ctx.session.get(Host, server.host_id).zone
    used = {
        "device_id": server.id,
        "device_owner": owner,
        "device_index": 0 if last is None else last + 1,
        "host_id": server.host_id,
        "device_tag": tag,
    }
    port = nic.port
    if port is None:
        port = allocate_port(
            ctx.session,
            ctx.settings,
            network=nic.network,
            project_id=server.project_id,
            fixed_ips=[{"ip_address": nic.fixed_ip}] if nic.fixed_ip else None,
            delete_with_device=True,
            dns_name=server.hostname.split(".")[0],
            privileged=True,  # `server_requests.read_network` has checked what this caller may use
            request_id=ctx.request_id,
            **used,
        )
    else:
        for name, value in used.items():
            setattr(port, name, value)
        port.dns_name = port.dns_name or server.hostname.split(".")[0]
        port.observed_state = None
        ctx.session.flush()
        touch_port(ctx.session, port, ctx.request_id)
    sync_router_legs(ctx.session, ctx.settings, {port.network_id}, request_id=ctx.request_id)
    record_action(ctx, server, action)
    mark_changed(ctx, server)
    ctx.session.flush()
    return port


def delete(ctx: Context, server_id: str, port_id: str) -> None:
    """The port is wanted in the guest no more. Twice is once."""
    find_server(ctx, server_id)
    detach(ctx, server_id, port_id, "detach_interface")


def detach(ctx: Context, server_id: str, port_id: str, action: str) -> None:
    """Set the tombstone of the port's use by the server; its host takes it out."""
    server = find_server_to_change(ctx, server_id, "detach_interface")
    port = ctx.session.get(Port, port_id)
    if port is None or port.device_id != server.id:
        raise NotFound(f"Instance {server.id} does not have a port with id {port_id}")
    if port.detached_at is None:
        port.detached_at = now()
        record_action(ctx, server, action)
    mark_changed(ctx, server)


def view(ctx: Context, found: tuple[Nic, Port]) -> dict:
    nic, port = found
    return {
        "port_id": nic.port_id,
        "net_id": nic.network_id,
        "mac_addr": nic.mac,
        "port_state": "ACTIVE" if port.observed_state == "active" else "DOWN",
        "fixed_ips": [{"subnet_id": subnet, "ip_address": address} for subnet, address, _ in nic.addresses],
        "tag": port.device_tag,
    }


LIST = rule("compute:server_interfaces:index", READER)
CREATE = rule("compute:server_interfaces:create", MEMBER)
DELETE = rule("compute:server_interfaces:delete", MEMBER)
PATH = "/servers/{server_id}/os-interface"
ONE = PATH + "/{port_id}"
SHOWN = {"key": "interfaceAttachment", "view_fields": VIEW_FIELDS}
ROUTES = [
    Route("GET", PATH, LIST, None, index, view, reply_key="interfaceAttachments", view_fields=VIEW_FIELDS),
    Route("POST", PATH, CREATE, FIELDS, create, view, **SHOWN),
    Route("GET", ONE, LIST, None, show, view, **SHOWN),
    Route("DELETE", ONE, DELETE, None, delete, None, 202),
]
