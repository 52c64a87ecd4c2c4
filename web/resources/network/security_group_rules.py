"""Rules of security groups: what may come in and go out. Source: Network API reference, "Security group rules".

A rule is never changed, only made and deleted. Next rooms: `protocols.py`, `security_groups.py`.
"""

from __future__ import annotations

from sqlalchemy import select

from ...allocation import check_quota, read_default_group
from ...errors import BadRequest, Conflict
from ...fields import UUID, field, nullable, one_of, text, whole
from ...http import Context
from ...models import SecurityGroup, SecurityGroupRule
from ...models.reach import touch_group
from ...paging import Page
from ...policy import MEMBER, READER, rule
from ...routes import Route
from .listing import build_columns, build_filters, pick_fields, read_list
from .protocols import check_ports, normalize_range, parse_ethertype, parse_prefix, parse_protocol
from .rows import DESCRIPTION, PROJECT_FIELDS, choose_project, find_own, find_row, lock, view_standard

PORT = nullable(whole(-1, 65535))  # -1 is what some clients send for none
FIELDS = {
    **PROJECT_FIELDS,
    "security_group_id": field(UUID, required=True),
    "direction": field(one_of("ingress", "egress"), required=True),
    "ethertype": field(nullable(text(8))),
    "protocol": field(nullable({"type": ["string", "integer"], "maxLength": 20})),
    "port_range_min": field(PORT),
    "port_range_max": field(PORT),
    "remote_ip_prefix": field(nullable(text(64))),
    "remote_group_id": field(nullable(UUID)),
    "description": field(DESCRIPTION),
}
MEANING = (
    "direction",
    "ethertype",
    "protocol",
    "port_range_min",
    "port_range_max",
    "remote_ip_prefix",
    "remote_group_id",
)
COLUMNS = build_columns(SecurityGroupRule, "security_group_id", *MEANING, named=False)
FILTERS = build_filters(SecurityGroupRule, COLUMNS)


def index(ctx: Context) -> Page:
    if ctx.token.project_id:
        read_default_group(ctx.session, ctx.token.project_id)
    return read_list(ctx, SecurityGroupRule, COLUMNS, FILTERS)


def show(ctx: Context, rule_id: str) -> SecurityGroupRule:
    return find_row(ctx, SecurityGroupRule, rule_id)


def create(ctx: Context) -> SecurityGroupRule:
    body = ctx.body
    group = find_own(ctx, SecurityGroup, body["security_group_id"])
    project_id = choose_project(ctx)
    if not ctx.is_admin or not (body.get("project_id") or body.get("tenant_id")):
        project_id = group.project_id
    lock(ctx.session, SecurityGroup, group.id)
    check_quota(ctx.session, project_id, "security_group_rule")
    ethertype = parse_ethertype(body.get("ethertype") or "IPv4")
    protocol = parse_protocol(body.get("protocol"), ethertype)
    least, most = (None if body.get(name) == -1 else body.get(name) for name in ("port_range_min", "port_range_max"))
    check_ports(protocol, least, most)
    prefix, remote_id = body.get("remote_ip_prefix"), body.get("remote_group_id")
    if prefix and remote_id:
        raise BadRequest(
            "Only remote_ip_prefix or remote_group_id may be provided.",
            kind="SecurityGroupRemoteGroupAndRemoteIpPrefix",
        )
    row = SecurityGroupRule(
        project_id=project_id,
        security_group_id=group.id,
        description=body.get("description", ""),
        direction=body["direction"],
        ethertype=ethertype,
        protocol=protocol,
        port_range_min=least,
        port_range_max=most,
        remote_ip_prefix=parse_prefix(prefix, ethertype),
        remote_group_id=find_row(ctx, SecurityGroup, remote_id).id if remote_id else None,
    )
    _check_new(ctx, row)
    ctx.session.add(row)
    group.revision_number += 1
    ctx.session.flush()
    ctx.session.expire(group, ["rules"])
    touch_group(ctx.session, group.id, ctx.request_id)
    return row


def _check_new(ctx: Context, row: SecurityGroupRule) -> None:
    """Conflict where the group has a rule that means the same."""
    same = select(SecurityGroupRule).where(SecurityGroupRule.security_group_id == row.security_group_id)
    for name in MEANING:
        if name != "remote_ip_prefix":
            column, value = getattr(SecurityGroupRule, name), getattr(row, name)
            same = same.where(column.is_(None) if value is None else column == value)
    for one in ctx.session.scalars(same):
        if normalize_range(one.remote_ip_prefix) == normalize_range(row.remote_ip_prefix):
            raise Conflict(f"Security group rule already exists. Rule id is {one.id}.", kind="SecurityGroupRuleExists")


def delete(ctx: Context, rule_id: str) -> None:
    row = find_row(ctx, SecurityGroupRule, rule_id)
    group = ctx.session.get(SecurityGroup, row.security_group_id)
    ctx.session.delete(row)
    group.revision_number += 1
    ctx.session.flush()
    touch_group(ctx.session, group.id, ctx.request_id)


def view(ctx: Context, row: SecurityGroupRule) -> dict:
    return pick_fields(ctx, view_rule(row))


def view_rule(row: SecurityGroupRule) -> dict:
    """The rule by itself and in its group's view."""
    return {
        **view_standard(row, named=False),
        "security_group_id": row.security_group_id,
        **{name: getattr(row, name) for name in MEANING},
        "normalized_cidr": normalize_range(row.remote_ip_prefix),
        "remote_address_group_id": None,
    }


LIST = rule("network:security-group-rules:index", READER)
SHOW = rule("network:security-group-rules:show", READER)
CREATE = rule("network:security-group-rules:create", MEMBER)
DELETE = rule("network:security-group-rules:delete", MEMBER)
ROUTES = [
    Route("GET", "/security-group-rules", LIST, None, index, view, reply_key="security_group_rules"),
    Route("GET", "/security-group-rules/{rule_id}", SHOW, None, show, view, key="security_group_rule"),
    Route(
        "POST",
        "/security-group-rules",
        CREATE,
        FIELDS,
        create,
        view,
        201,
        key="security_group_rule",
        bulk="security_group_rules",
    ),
    Route("DELETE", "/security-group-rules/{rule_id}", DELETE, None, delete, None, 204),
]
