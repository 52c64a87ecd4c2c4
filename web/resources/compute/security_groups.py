"""os-security-groups and os-security-group-rules (until 2.35): older words for the network service's.

Source: Compute API reference, "Security groups (os-security-groups) (DEPRECATED)". These know ingress rules alone.
Next room: `web/neighbours.py`.
"""

from __future__ import annotations

from ...errors import BadRequest, Conflict
from ...fields import UUID, as_bool, field, nullable, text, whole
from ...http import Context
from ...neighbours import ask
from ...policy import MEMBER, READER, rule
from ...routes import Route

FIELDS = {"name": field(text(255, 1), required=True), "description": field(nullable(text(255)))}
PORT = nullable(whole(-1, 65535))
RULE_FIELDS = {
    "parent_group_id": field(UUID, required=True),
    "ip_protocol": field(nullable({"type": ["string", "integer"], "maxLength": 20})),
    "from_port": field(PORT),
    "to_port": field(PORT),
    "cidr": field(nullable(text(64))),
    "group_id": field(nullable(UUID)),
}
GROUPS, GROUP = "/security-groups", "/security-groups/{group_id}"


def index(ctx: Context) -> list[dict]:
    """The project's; an admin who says ``all_tenants`` sees those of all."""
    everywhere = ctx.is_admin and "all_tenants" in ctx.query and as_bool(ctx.query["all_tenants"] or "true")
    return ask(ctx, "network", "GET", GROUPS, query=[] if everywhere else [("project_id", ctx.project_id)])


def show(ctx: Context, group_id: str) -> dict:
    return ask(ctx, "network", "GET", GROUP, group_id=group_id)


def _build(body: dict) -> dict:
    return {"name": body["name"], "description": body.get("description") or ""}


def create(ctx: Context) -> dict:
    return ask(ctx, "network", "POST", GROUPS, _build(ctx.body))


def update(ctx: Context, group_id: str) -> dict:
    return ask(ctx, "network", "PUT", GROUP, _build(ctx.body), group_id=group_id)


def delete(ctx: Context, group_id: str) -> None:
    try:
        ask(ctx, "network", "DELETE", GROUP, group_id=group_id)
    except Conflict as refusal:  # in use, or the default group; the reference has no conflict here
        raise BadRequest(refusal.message) from None


def create_rule(ctx: Context) -> dict:
    """An ingress rule from a range (everywhere, where neither range nor group is given) or from a group."""
    body = ctx.body
    cidr, group = body.get("cidr"), body.get("group_id")
    if cidr and group:
        raise BadRequest("Invalid input in security_group_rule: cidr and group_id cannot both be given.")
    if not group:
        cidr = cidr or "0.0.0.0/0"
    ports = [None if body.get(name) in (None, -1) else body[name] for name in ("from_port", "to_port")]
    wanted = {
        "security_group_id": body["parent_group_id"],
        "direction": "ingress",
        "ethertype": "IPv6" if cidr and ":" in cidr else "IPv4",
        "protocol": _parse_protocol(body.get("ip_protocol")),
        "port_range_min": ports[0],
        "port_range_max": ports[1],
        "remote_ip_prefix": cidr,
        "remote_group_id": group,
    }
    try:
        return ask(ctx, "network", "POST", "/security-group-rules", wanted)
    except Conflict as refusal:  # a second one of the kind; the reference has no conflict here
        raise BadRequest(refusal.message) from None


def _parse_protocol(given: str | int | None) -> str | int | None:
    if given in (None, "", -1, "-1"):
        return None
    return given.lower() if isinstance(given, str) else given


def delete_rule(ctx: Context, rule_id: str) -> None:
    ask(ctx, "network", "DELETE", "/security-group-rules/{rule_id}", rule_id=rule_id)


def view_rule(ctx: Context, one: dict) -> dict:
    group = {}
    if one["remote_group_id"]:
        remote = ask(ctx, "network", "GET", GROUP, group_id=one["remote_group_id"])
        group = {"name": remote["name"], "tenant_id": remote["project_id"]}
    anywhere = "::/0" if one["ethertype"] == "IPv6" else "0.0.0.0/0"
    return {
        "id": one["id"],
        "parent_group_id": one["security_group_id"],
        "ip_protocol": one["protocol"],
        "from_port": one["port_range_min"],
        "to_port": one["port_range_max"],
        "group": group,
        "ip_range": {} if group else {"cidr": one["remote_ip_prefix"] or anywhere},
    }


def view(ctx: Context, group: dict) -> dict:
    return {
        "id": group["id"],
        "name": group["name"],
        "description": group["description"],
        "tenant_id": group["project_id"],
        "rules": [view_rule(ctx, one) for one in group["security_group_rules"] if one["direction"] == "ingress"],
    }


PATH, ONE = "/os-security-groups", "/os-security-groups/{group_id}"
RULES = "/os-security-group-rules"
LIST = rule("compute:security_groups:index", READER)
SHOW = rule("compute:security_groups:show", READER)
CREATE = rule("compute:security_groups:create", MEMBER)
UPDATE = rule("compute:security_groups:update", MEMBER)
DELETE = rule("compute:security_groups:delete", MEMBER)
CREATE_RULE = rule("compute:security_group_rules:create", MEMBER)
DELETE_RULE = rule("compute:security_group_rules:delete", MEMBER)
LAST = {"until": "2.35"}
ROUTES = [
    Route("GET", PATH, LIST, None, index, view, reply_key="security_groups", **LAST),
    Route("POST", PATH, CREATE, FIELDS, create, view, key="security_group", **LAST),
    Route("GET", ONE, SHOW, None, show, view, reply_key="security_group", **LAST),
    Route("PUT", ONE, UPDATE, FIELDS, update, view, key="security_group", **LAST),
    Route("DELETE", ONE, DELETE, None, delete, None, 202, **LAST),
    Route("POST", RULES, CREATE_RULE, RULE_FIELDS, create_rule, view_rule, key="security_group_rule", **LAST),
    Route("DELETE", RULES + "/{rule_id}", DELETE_RULE, None, delete_rule, None, 202, **LAST),
]
