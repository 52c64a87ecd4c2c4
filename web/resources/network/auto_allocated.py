"""A network that a project gets when it has none: with a subnet, and a router that leads outside.

Made once, by whoever asks first; afterwards the project's own, to be changed or deleted piece by piece or in whole.
Source: Network API reference, "Auto allocated topology". Next room: `compute/server_requests.py`, whose `auto` it is.
"""

from __future__ import annotations

import ipaddress

from sqlalchemy import select

from ...errors import BadRequest, Conflict, NotFound
from ...http import Context
from ...models import Network, Project, Router, Subnet
from ...neighbours import ask
from ...policy import MEMBER, rule
from ...routes import Route
from .rows import find_own

NETWORK, SUBNET, ROUTER = "auto_allocated_network", "auto_allocated_subnet_v4", "auto_allocated_router"
PREFIX = 26  # 59 guests
DRY_RUN = "dry-run"


def _read_project(ctx: Context, given: str) -> str:
    """The caller's project for ``None`` or its own id; another's is an administrator's to ask for."""
    if given in ("None", ctx.token.project_id):
        return ctx.project_id
    if not ctx.is_admin or ctx.session.get(Project, given) is None:
        raise NotFound(f"Project {given[:255]} could not be found.", kind="TenantQuotaNotFound")
    return given


def find_network(ctx: Context, project_id: str) -> Network | None:
    """The one that was made for the project, if it still is there."""
    statement = select(Network).where(Network.project_id == project_id, Network.name == NETWORK)
    return ctx.session.scalar(statement.order_by(Network.created_at).limit(1))


def _find_external(ctx: Context) -> Network:
    """The external network that bootstrap makes, else the first; Conflict where there is none with a subnet."""
    statement = select(Network).where(Network.external, Network.id.in_(select(Subnet.network_id)))
    found = ctx.session.scalars(statement.order_by(Network.created_at)).all()
    named = [row for row in found if row.name == ctx.settings.network.public_network]
    if not found:
        raise Conflict("Deployment error: No default router:external network.", kind="AutoAllocationFailure")
    return (named or found)[0]


def _choose_range(ctx: Context, project_id: str) -> str:
    """The first range of `[network] auto_range` that no subnet of the project and no external one overlaps."""
    outside = select(Network.id).where(Network.external)
    taken = ctx.session.scalars(
        select(Subnet.cidr).where((Subnet.project_id == project_id) | Subnet.network_id.in_(outside))
    )
    ranges = [one for one in map(ipaddress.ip_network, taken) if one.version == 4]
    for candidate in ipaddress.ip_network(ctx.settings.network.auto_range).subnets(new_prefix=PREFIX):
        if not any(candidate.overlaps(one) for one in ranges):
            return str(candidate)
    message = f"Deployment error: No range of {ctx.settings.network.auto_range} is free for the project."
    raise Conflict(message, kind="AutoAllocationFailure")


def apply_topology(ctx: Context, project_id: str) -> Network:
    """The project's network, made with all that belongs to it where it is not there."""
    external = _find_external(ctx)
    # One after the other: two requests of a project make one topology.
    ctx.session.execute(select(Project.id).where(Project.id == project_id).with_for_update()).all()
    if (found := find_network(ctx, project_id)) is not None:
        return found
    cidr, own = _choose_range(ctx, project_id), {"project_id": project_id}
    made = ask(ctx, "network", "POST", "/networks", {"name": NETWORK, **own})
    wanted = {"name": SUBNET, "network_id": made["id"], "ip_version": 4, "cidr": cidr, **own}
    subnet = ask(ctx, "network", "POST", "/subnets", wanted)
    router = {"name": ROUTER, "external_gateway_info": {"network_id": external.id}, **own}
    router_id = ask(ctx, "network", "POST", "/routers", router)["id"]
    add = "/routers/{router_id}/add_router_interface"
    ask(ctx, "network", "PUT", add, {"subnet_id": subnet["id"]}, router_id=router_id)
    return ctx.session.get(Network, made["id"])


def show(ctx: Context, project_id: str) -> dict:
    """Makes it; with ``fields=dry-run`` only says whether it could be."""
    project_id = _read_project(ctx, project_id)
    fields = ctx.query.getlist("fields")
    if DRY_RUN in fields:
        if len(fields) > 1:
            raise BadRequest("Invalid input for fields: dry-run stands alone.")
        _find_external(ctx)
        if find_network(ctx, project_id) is None:
            _choose_range(ctx, project_id)
        return {"id": "dry-run=pass", "tenant_id": project_id, "project_id": project_id}
    return {"id": apply_topology(ctx, project_id).id, "tenant_id": project_id, "project_id": project_id}


def delete(ctx: Context, project_id: str) -> None:
    """Router, subnet and network; Conflict where something still uses them."""
    project_id = _read_project(ctx, project_id)
    network = find_network(ctx, project_id)
    if network is None:
        raise NotFound(f"No auto-allocated topology for project {project_id}.", kind="AutoAllocatedTopologyNotFound")
    subnets = ctx.session.scalars(select(Subnet.id).where(Subnet.network_id == network.id)).all()
    routers = select(Router.id).where(Router.project_id == project_id, Router.name == ROUTER)
    for router_id in ctx.session.scalars(routers).all():
        find_own(ctx, Router, router_id)
        for subnet_id in subnets:
            remove = "/routers/{router_id}/remove_router_interface"
            ask(ctx, "network", "PUT", remove, {"subnet_id": subnet_id}, router_id=router_id)
        ask(ctx, "network", "DELETE", "/routers/{router_id}", router_id=router_id)
    ask(ctx, "network", "DELETE", "/networks/{network_id}", network_id=network.id)


def view(ctx: Context, topology: dict) -> dict:
    return topology


PATH = "/auto-allocated-topology/{project_id}"
ROUTES = [
    Route(
        "GET", PATH, rule("network:auto_allocated_topology:show", MEMBER), None, show, view,
        key="auto_allocated_topology",
    ),
    Route("DELETE", PATH, rule("network:auto_allocated_topology:delete", MEMBER), None, delete, None, 204),
]  # fmt: skip
