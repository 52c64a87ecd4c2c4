"""The security groups of a server's ports: listed, added to all of them, removed from all of them.

Source: Compute API reference, "Servers security groups", and the actions addSecurityGroup and
removeSecurityGroup. The groups themselves are the network service's.
"""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import selectinload

from ...errors import BadRequest, NotFound
from ...fields import field, text
from ...http import Context
from ...models import Port, PortSecurityGroup, SecurityGroup, Server
from ...models.reach import touch_port
from ...policy import MEMBER, READER, rule
from ...routes import Route
from .server_requests import find_group
from .server_rows import find_server, find_server_to_change, mark_changed, record_action

FIELDS = {"name": field(text(255, 1), required=True)}


def _read_ports(ctx: Context, server: Server) -> list[Port]:
    found = select(Port).where(Port.device_id == server.id).options(selectinload(Port.security_groups))
    return [port for port in ctx.session.scalars(found).unique() if port.port_security_enabled]


def _find(ctx: Context, server: Server) -> SecurityGroup:
    group = find_group(ctx, ctx.body["name"], server.project_id)
    if group is None:
        raise NotFound(f"Security group {ctx.body['name']} not found for project {server.project_id}.")
    return group


def index(ctx: Context, server_id: str) -> list[SecurityGroup]:
    server = find_server(ctx, server_id)
    ids = (
        select(PortSecurityGroup.security_group_id)
        .join(Port, Port.id == PortSecurityGroup.port_id)
        .where(Port.device_id == server.id)
    )
    found = select(SecurityGroup).where(SecurityGroup.id.in_(ids)).order_by(SecurityGroup.name, SecurityGroup.id)
    return list(ctx.session.scalars(found.options(selectinload(SecurityGroup.rules))))


def add(ctx: Context, server_id: str) -> None:
    """Every port of the server has the group's rules from now on; twice is once."""
    server = find_server_to_change(ctx, server_id, "add_security_group")
    group = _find(ctx, server)
    ports = _read_ports(ctx, server)
    if not ports:
        raise BadRequest(f"Instance {server.id} has no port that security groups apply to")
    for port in ports:
        if group not in port.security_groups:
            port.security_groups.append(group)
            port.revision_number += 1
    _tell(ctx, server, ports, "addSecurityGroup")


def remove(ctx: Context, server_id: str) -> None:
    server = find_server_to_change(ctx, server_id, "remove_security_group")
    group = _find(ctx, server)
    ports = [port for port in _read_ports(ctx, server) if group in port.security_groups]
    if not ports:
        raise NotFound(f"Security group {ctx.body['name']} not associated with the instance {server.id}")
    for port in ports:
        touch_port(ctx.session, port, ctx.request_id)  # those who count it in the group, before it leaves
        port.security_groups.remove(group)
        port.revision_number += 1
    _tell(ctx, server, ports, "removeSecurityGroup")


def _tell(ctx: Context, server: Server, ports: list[Port], action: str) -> None:
    ctx.session.flush()
    for port in ports:
        touch_port(ctx.session, port, ctx.request_id)
    record_action(ctx, server, action, finished=True)
    mark_changed(ctx, server)


def view(ctx: Context, group: SecurityGroup) -> dict:
    return {
        "id": group.id,
        "name": group.name,
        "description": group.description,
        "tenant_id": group.project_id,
        "rules": [
            {
                "id": one.id,
                "parent_group_id": group.id,
                "ip_protocol": one.protocol,
                "from_port": one.port_range_min,
                "to_port": one.port_range_max,
                "group": {},
                "ip_range": {"cidr": one.remote_ip_prefix} if one.remote_ip_prefix else {},
            }
            for one in group.rules
            if one.direction == "ingress"
        ],
    }


PATH = "/servers/{server_id}"
LIST = rule("compute:server_security_groups:index", READER)
ADD = rule("compute:server_security_groups:add", MEMBER)
REMOVE = rule("compute:server_security_groups:remove", MEMBER)
ROUTES = [
    Route("GET", PATH + "/os-security-groups", LIST, None, index, view, reply_key="security_groups"),
    Route("POST", PATH + "/action", ADD, FIELDS, add, None, 202, action="addSecurityGroup"),
    Route("POST", PATH + "/action", REMOVE, FIELDS, remove, None, 202, action="removeSecurityGroup"),
]
