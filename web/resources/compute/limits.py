"""A project's absolute limits and what it uses of them. There are no rate limits.

Source: Compute API reference, "Limits". Usage is counted, never stored.
"""

from __future__ import annotations

from sqlalchemy import func, select

from ...errors import BadRequest, Forbidden
from ...fields import field, until
from ...http import Context
from ...models import FloatingIP, SecurityGroup, ServerGroup, read_limit
from ...policy import ANYONE, rule
from ...routes import Route
from .placement import read_usage

OTHERS = rule("compute:limits:others", "role:admin")
VIEW_FIELDS = {
    "maxPersonality": field({}, until("2.56")),
    "maxPersonalitySize": field({}, until("2.56")),
    "maxImageMeta": field({}, until("2.38")),
    "maxSecurityGroups": field({}, until("2.35")),
    "maxSecurityGroupRules": field({}, until("2.35")),
    "maxTotalFloatingIps": field({}, until("2.35")),
    "totalSecurityGroupsUsed": field({}, until("2.35")),
    "totalFloatingIpsUsed": field({}, until("2.35")),
}
LIMITS = {
    "maxServerMeta": "metadata_items",
    "maxPersonality": "injected_files",
    "maxPersonalitySize": "injected_file_content_bytes",
    "maxImageMeta": "metadata_items",
    "maxTotalInstances": "instances",
    "maxTotalCores": "cores",
    "maxTotalRAMSize": "ram",
    "maxTotalKeypairs": "key_pairs",
    "maxServerGroups": "server_groups",
    "maxServerGroupMembers": "server_group_members",
    "maxSecurityGroups": "security_group",
    "maxSecurityGroupRules": "security_group_rule",
    "maxTotalFloatingIps": "floatingip",
}


def show(ctx: Context) -> dict:
    """An admin may ask for another project's with tenant_id."""
    for name in ctx.query:
        if name not in ("tenant_id", "reserved") and ctx.version >= (2, 75):
            raise BadRequest(f"Invalid input for query parameter {name}: Additional properties are not allowed.")
    project_id = ctx.query.get("tenant_id") or ctx.project_id
    if project_id != ctx.token.project_id and not ctx.allows(OTHERS):
        raise Forbidden(f"Policy doesn't allow {OTHERS} to be performed.")
    used = read_usage(ctx.session, project_id)
    view = {name: read_limit(ctx.session, project_id, resource) for name, resource in LIMITS.items()}

    def count(model) -> int:
        return ctx.session.scalar(select(func.count()).select_from(model).where(model.project_id == project_id))

    return view | {
        "totalInstancesUsed": used["instances"],
        "totalCoresUsed": used["cores"],
        "totalRAMUsed": used["ram"],
        "totalServerGroupsUsed": count(ServerGroup),
        "totalSecurityGroupsUsed": count(SecurityGroup),
        "totalFloatingIpsUsed": count(FloatingIP),
    }


def view(ctx: Context, absolute: dict) -> dict:
    shown = {
        name: value
        for name, value in absolute.items()
        if name not in VIEW_FIELDS or VIEW_FIELDS[name].exists(ctx.version)
    }
    return {"rate": [], "absolute": shown}


ROUTES = [Route("GET", "/limits", rule("compute:limits:show", ANYONE), None, show, view, reply_key="limits")]
