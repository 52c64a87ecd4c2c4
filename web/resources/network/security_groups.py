"""Security groups: which rules ports obey. Source: Network API reference, "Security groups".

Each project has a group ``default``, made when it is first needed. Next room: `security_group_rules.py`.
"""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import selectinload

from ...allocation import check_quota, read_default_group
from ...errors import Conflict
from ...fields import BOOL, field
from ...http import Context
from ...models import PortSecurityGroup, SecurityGroup, SecurityGroupRule
from ...models.reach import touch_group
from ...paging import Page
from ...policy import MEMBER, READER, rule
from ...routes import Route
from .listing import build_columns, build_filters, parse_bool, pick_fields, read_list
from .rows import (
    DESCRIPTION,
    NAME,
    PROJECT_FIELDS,
    apply_body,
    choose_project,
    find_own,
    find_row,
    lock,
    refuse_in_use,
    view_standard,
)
from .security_group_rules import view_rule

DEFAULT = "default"
UPDATE_FIELDS = {"name": field(NAME), "description": field(DESCRIPTION), "stateful": field(BOOL)}
FIELDS = {**UPDATE_FIELDS, **PROJECT_FIELDS}
COLUMNS = build_columns(SecurityGroup, "stateful")
FILTERS = build_filters(
    SecurityGroup, COLUMNS, shared=lambda session, values: SecurityGroup.id.is_(None)
    if parse_bool("shared", values[0]) else SecurityGroup.id.is_not(None),
)  # fmt: skip


def index(ctx: Context) -> Page:
    """A project that lists its groups for the first time has its default one then."""
    if ctx.token.project_id:
        read_default_group(ctx.session, ctx.token.project_id)
    return read_list(ctx, SecurityGroup, COLUMNS, FILTERS, [selectinload(SecurityGroup.rules)])


def show(ctx: Context, group_id: str) -> SecurityGroup:
    return find_row(ctx, SecurityGroup, group_id)


def create(ctx: Context) -> SecurityGroup:
    """A new group lets everything out and nothing in."""
    project_id = choose_project(ctx)
    read_default_group(ctx.session, project_id)
    if ctx.body.get("name") == DEFAULT:
        raise Conflict("Default security group already exists.", kind="SecurityGroupDefaultAlreadyExists")
    check_quota(ctx.session, project_id, "security_group")
    group = SecurityGroup(project_id=project_id)
    apply_body(group, ctx.body, UPDATE_FIELDS)
    ctx.session.add(group)
    ctx.session.flush()
    for ethertype in ("IPv4", "IPv6"):
        ctx.session.add(
            SecurityGroupRule(
                project_id=project_id, security_group_id=group.id, direction="egress", ethertype=ethertype
            )
        )
    ctx.session.flush()
    ctx.session.refresh(group, ["rules"])
    return group


def update(ctx: Context, group_id: str) -> SecurityGroup:
    group = find_own(ctx, SecurityGroup, group_id)
    if group.default_for is not None and ctx.body.get("name", DEFAULT) != DEFAULT:
        raise Conflict("Updating default security group not allowed.", kind="SecurityGroupCannotUpdateDefault")
    if ctx.body.get("name") == DEFAULT and group.default_for is None:
        raise Conflict("Default security group already exists.", kind="SecurityGroupDefaultAlreadyExists")
    if ctx.body.get("stateful", group.stateful) is not group.stateful:
        _check_unused(ctx, group)
    apply_body(group, ctx.body, UPDATE_FIELDS)
    ctx.session.flush()
    touch_group(ctx.session, group.id, ctx.request_id)
    return group


def _check_unused(ctx: Context, group: SecurityGroup) -> None:
    used = select(PortSecurityGroup.port_id).where(PortSecurityGroup.security_group_id == group.id).limit(1)
    if ctx.session.scalar(used) is not None:
        refuse_in_use(f"Security Group {group.id} in use.", "SecurityGroupInUse")


def delete(ctx: Context, group_id: str) -> None:
    """Refused while a port has it; rules of other groups that name it go with it."""
    group = find_own(ctx, SecurityGroup, group_id)
    if group.default_for is not None and not ctx.is_admin:
        raise Conflict(
            "Insufficient rights for removing default security group.", kind="SecurityGroupCannotRemoveDefault"
        )
    lock(ctx.session, SecurityGroup, group.id)
    _check_unused(ctx, group)
    touch_group(ctx.session, group.id, ctx.request_id)
    for row in ctx.session.scalars(select(SecurityGroupRule).where(SecurityGroupRule.remote_group_id == group.id)):
        if row.security_group_id != group.id:
            ctx.session.delete(row)
    ctx.session.delete(group)


def view(ctx: Context, row: SecurityGroup) -> dict:
    view = {
        **view_standard(row),
        "stateful": row.stateful,
        "shared": False,
        "security_group_rules": [view_rule(one) for one in row.rules],
    }
    return pick_fields(ctx, view)


LIST = rule("network:security-groups:index", READER)
SHOW = rule("network:security-groups:show", READER)
CREATE = rule("network:security-groups:create", MEMBER)
UPDATE = rule("network:security-groups:update", MEMBER)
DELETE = rule("network:security-groups:delete", MEMBER)
ROUTES = [
    Route("GET", "/security-groups", LIST, None, index, view, reply_key="security_groups"),
    Route("GET", "/security-groups/{group_id}", SHOW, None, show, view, key="security_group"),
    Route("POST", "/security-groups", CREATE, FIELDS, create, view, 201, key="security_group", bulk="security_groups"),
    Route("PUT", "/security-groups/{group_id}", UPDATE, UPDATE_FIELDS, update, view, key="security_group"),
    Route("DELETE", "/security-groups/{group_id}", DELETE, None, delete, None, 204),
]
