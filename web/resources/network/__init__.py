"""The Network API (/v2.0): its resources, in one table."""

from ...routes import Service
from . import (
    auto_allocated,
    availability_zones,
    extensions,
    floatingips,
    network_ip_availabilities,
    networks,
    ports,
    quotas,
    router_interfaces,
    routers,
    security_group_rules,
    security_groups,
    subnets,
    tags,
    versions,
)

RESOURCES = [
    versions,
    extensions,
    networks,
    subnets,
    ports,
    routers,
    router_interfaces,
    floatingips,
    security_groups,
    security_group_rules,
    quotas,
    tags,
    availability_zones,
    network_ip_availabilities,
    auto_allocated,
]

SERVICE = Service(
    name="network",
    type="network",
    title="Network Service",
    prefix="/networking",
    version_path="/v2.0",
    port=9696,
    catalog_path="",
    routes=[route for resource in RESOURCES for route in resource.ROUTES],
)
