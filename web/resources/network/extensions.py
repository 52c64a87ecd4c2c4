"""The extensions of the Network API that are really there, by their aliases. API only; the table is the truth."""

from __future__ import annotations

from ...errors import NotFound
from ...http import Context
from ...policy import ANYONE, rule
from ...routes import Route

UPDATED = "2026-11-22T00:00:00-00:00"
EXTENSIONS = {  # alias: (name, what it adds)
    "allowed-address-pairs": ("Allowed Address Pairs", "Further addresses that a port may send from."),
    "auto-allocated-topology": ("Auto Allocated Topology Services", "A network for a project that has none."),
    "availability_zone": ("Availability Zone", "The zones of the hosts."),
    "binding": ("Port Binding", "Where a port is bound, for administrators."),
    "dns-integration": ("DNS Integration", "A port's name in DNS, a network's domain."),
    "empty-string-filtering": ("Empty String Filtering Extension", "Filters for attributes without value."),
    "ext-gw-mode": ("Neutron L3 Configurable external gateway mode", "Gateways without source NAT."),
    "external-net": ("Neutron external network", "Networks that routers have gateways on."),
    "extra_dhcp_opt": ("Neutron Extra DHCP options", "DHCP options of a port."),
    "extraroute": ("Neutron Extra Route", "Static routes of a router."),
    "extraroute-atomic": ("Atomically add/remove extra routes", "Routes added and removed one by one."),
    "filter-validation": ("Filter parameters validation", "An unknown filter is refused."),
    "fip-port-details": ("Floating IP Port Details Extension", "The port behind a floating address."),
    "ip-substring-filtering": ("IP address substring filtering", "Ports by a part of an address."),
    "net-mtu": ("Network MTU", "The MTU of a network."),
    "net-mtu-writable": ("Network MTU (writable)", "An MTU chosen by the user."),
    "network-ip-availability": ("Network IP Availability", "Addresses used and free."),
    "pagination": ("Pagination support", "Pages of lists."),
    "port-security": ("Port Security", "Ports that may send from any address."),
    "port-security-groups-filtering": ("Port filtering on security groups", "Ports by security group."),
    "project-id": ("project_id field enabled", "project_id beside tenant_id."),
    "provider": ("Provider Network", "How a network is made, for administrators."),
    "quota-check-limit": ("Quota engine limit check", "A limit below what is used is refused on demand."),
    "quota_details": ("Quota details management support", "Limits beside what is used."),
    "quotas": ("Quota management support", "Limits of a project."),
    "router": ("Neutron L3 Router", "Routers and floating addresses."),
    "security-group": ("security-group", "Security groups and their rules."),
    "security-groups-normalized-cidr": ("Normalized CIDR field for security group rules", "The range a rule means."),
    "sorting": ("Sorting support", "Sorted lists."),
    "standard-attr-description": ("standard-attr-description", "A description of every object."),
    "standard-attr-revisions": ("Resource revision numbers", "How often an object was changed."),
    "standard-attr-tag": ("Tag support for resources with standard attribute", "Tags of every object."),
    "standard-attr-timestamp": ("Resource timestamps", "When an object was made and changed."),
    "stateful-security-group": ("Stateful security group", "Whether a group follows connections."),
}


def _view(ctx: Context, alias: str) -> dict:
    name, description = EXTENSIONS[alias]
    return {"alias": alias, "name": name, "description": description, "updated": UPDATED, "links": []}


def index(ctx: Context) -> list[str]:
    return sorted(EXTENSIONS)


def show(ctx: Context, alias: str) -> str:
    if alias not in EXTENSIONS:
        raise NotFound(f"Extension with alias {alias} does not exist", kind="HTTPNotFound")
    return alias


LIST = rule("network:extensions:index", ANYONE)
SHOW = rule("network:extensions:show", ANYONE)
ROUTES = [
    Route("GET", "/extensions", LIST, None, index, _view, reply_key="extensions"),
    Route("GET", "/extensions/{alias}", SHOW, None, show, _view, key="extension"),
]
