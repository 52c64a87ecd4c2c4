"""The list of extensions that old clients ask for: what is served, by the names it had as an extension.

Source: Compute API reference, "Extensions (extensions)" (deprecated there).
"""

from __future__ import annotations

from ...errors import NotFound
from ...http import Context
from ...policy import ANYONE, rule
from ...routes import Route

SERVED = {
    "os-admin-password": "AdminPassword",
    "os-aggregates": "Aggregates",
    "os-attach-interfaces": "AttachInterfaces",
    "os-availability-zone": "AvailabilityZone",
    "os-consoles": "Consoles",
    "os-console-auth-tokens": "ConsoleAuthTokens",
    "os-console-output": "ConsoleOutput",
    "os-deferred-delete": "DeferredDelete",
    "os-extended-availability-zone": "ExtendedAvailabilityZone",
    "os-extended-server-attributes": "ExtendedServerAttributes",
    "os-extended-status": "ExtendedStatus",
    "os-extended-volumes": "ExtendedVolumes",
    "os-flavor-access": "FlavorAccess",
    "os-flavor-extra-specs": "FlavorExtraSpecs",
    "os-flavor-manage": "FlavorManage",
    "os-floating-ip-pools": "FloatingIpPools",
    "os-floating-ips": "FloatingIps",
    "os-hosts": "Hosts",
    "os-hypervisors": "Hypervisors",
    "os-instance-actions": "InstanceActions",
    "os-instance-usage-audit-log": "InstanceUsageAuditLog",
    "os-keypairs": "Keypairs",
    "os-lock-server": "LockServer",
    "os-migrations": "Migrations",
    "os-multinic": "Multinic",
    "os-networks": "Networks",
    "os-pause-server": "PauseServer",
    "os-quota-class-sets": "QuotaClasses",
    "os-quota-sets": "Quotas",
    "os-remote-consoles": "Consoles",
    "os-rescue": "Rescue",
    "os-security-groups": "SecurityGroups",
    "os-server-diagnostics": "ServerDiagnostics",
    "os-server-external-events": "ServerExternalEvents",
    "os-server-groups": "ServerGroups",
    "os-server-password": "ServerPassword",
    "os-server-usage": "ServerUsage",
    "os-services": "Services",
    "os-shelve": "Shelve",
    "os-simple-tenant-usage": "SimpleTenantUsage",
    "os-suspend-server": "SuspendServer",
    "os-tenant-networks": "TenantNetworks",
    "os-user-quotas": "UserQuotas",
    "os-volumes": "Volumes",
}
UPDATED = "2014-12-03T00:00:00Z"


def index(ctx: Context) -> list[str]:
    return list(SERVED)


def show(ctx: Context, alias: str) -> str:
    if alias not in SERVED:
        raise NotFound(f"Extension {alias[:255]} could not be found.")
    return alias


def view(ctx: Context, alias: str) -> dict:
    name = SERVED[alias]
    return {"alias": alias, "name": name, "description": f"{name}.", "updated": UPDATED, "links": [], "namespace": ""}


LIST = rule("compute:extensions:index", ANYONE)
ROUTES = [
    Route("GET", "/extensions", LIST, None, index, view, reply_key="extensions"),
    Route("GET", "/extensions/{alias}", LIST, None, show, view, reply_key="extension"),
]
