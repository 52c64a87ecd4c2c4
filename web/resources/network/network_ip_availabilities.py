"""How many addresses each network has and how many are taken. Source: API reference, "Network IP availability"."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.orm import selectinload

from ...http import Context
from ...models import Address, Network
from ...paging import Page
from ...policy import ADMIN, rule
from ...routes import Route
from .listing import build_columns, build_filter, build_filters, pick_fields, read_list
from .rows import find_row
from .subnets import count_addresses

COLUMNS = build_columns(Network)
FILTERS = build_filters(
    Network,
    COLUMNS,
    network_id=build_filter("network_id", Network.id),
    network_name=build_filter("network_name", Network.name),
    ip_version=lambda session, values: Network.subnets.any(ip_version=int(values[0]) if values[0] in ("4", "6") else 0),
)


def index(ctx: Context) -> Page:
    return read_list(ctx, Network, COLUMNS, FILTERS, [selectinload(Network.subnets)])


def show(ctx: Context, network_id: str) -> Network:
    return find_row(ctx, Network, network_id)


def view(ctx: Context, row: Network) -> dict:
    taken = select(func.count()).select_from(Address)
    subnets = [
        {
            "subnet_id": subnet.id,
            "subnet_name": subnet.name,
            "cidr": subnet.cidr,
            "ip_version": subnet.ip_version,
            "total_ips": count_addresses(subnet),
            "used_ips": ctx.session.scalar(taken.where(Address.subnet_id == subnet.id)),
        }
        for subnet in row.subnets
    ]
    view = {
        "network_id": row.id,
        "network_name": row.name,
        "project_id": row.project_id,
        "tenant_id": row.project_id,
        "subnet_ip_availability": subnets,
        "total_ips": sum(one["total_ips"] for one in subnets),
        "used_ips": sum(one["used_ips"] for one in subnets),
    }
    return pick_fields(ctx, view)


LIST = rule("network:network-ip-availabilities:index", ADMIN)
SHOW = rule("network:network-ip-availabilities:show", ADMIN)
PATH = "/network-ip-availabilities"
ROUTES = [
    Route("GET", PATH, LIST, None, index, view, reply_key="network_ip_availabilities"),
    Route("GET", PATH + "/{network_id}", SHOW, None, show, view, key="network_ip_availability"),
]
