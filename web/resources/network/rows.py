"""Finding network rows for a caller: what it sees, what is its own, whose a new one is; what every view begins with.

Another project's objects are 404; what is shown to all (shared and external networks) but another's is
403 when it is to be changed, as in the Network API. Next room: `listing.py`, then the resources.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from ...errors import BadRequest, Conflict, Forbidden, NotFound
from ...fields import HEX_ID, field
from ...http import Context
from ...models import FloatingIP, Network, Port, Router, SecurityGroup, SecurityGroupRule, Subnet

NAME = {"type": "string", "maxLength": 255, "format": "printable"}
DESCRIPTION = {"type": "string", "maxLength": 255, "format": "printable"}
PROJECT_FIELDS = {"project_id": field(HEX_ID), "tenant_id": field(HEX_ID)}
MISSING = {
    Network: ("Network {} could not be found.", "NetworkNotFound"),
    Subnet: ("Subnet {} could not be found.", "SubnetNotFound"),
    Port: ("Port {} could not be found.", "PortNotFound"),
    Router: ("Router {} could not be found", "RouterNotFound"),
    FloatingIP: ("Floating IP {} could not be found", "FloatingIPNotFound"),
    SecurityGroup: ("Security group {} does not exist", "SecurityGroupNotFound"),
    SecurityGroupRule: ("Security group rule {} does not exist", "SecurityGroupRuleNotFound"),
}


def _visible(model, project_id: str):
    """The criterion of the rows that a project sees."""
    own = model.project_id == project_id
    if model is Network:
        return or_(own, Network.shared, Network.external)
    if model is Subnet:
        return or_(own, Subnet.network_id.in_(select(Network.id).where(or_(Network.shared, _owned(project_id)))))
    if model is Port:
        return or_(own, Port.network_id.in_(select(Network.id).where(_owned(project_id))))
    if model is SecurityGroupRule:
        groups = select(SecurityGroup.id).where(SecurityGroup.project_id == project_id)
        return or_(own, SecurityGroupRule.security_group_id.in_(groups))
    return own


def _owned(project_id: str):
    return Network.project_id == project_id


def select_visible(ctx: Context, model):
    """A select of the rows of ``model`` that the caller sees: an admin all."""
    statement = select(model)
    return statement if ctx.is_admin else statement.where(_visible(model, ctx.project_id))


def find_row(ctx: Context, model, row_id: str, **options):
    """The row of that id; NotFound in the API's words where the caller does not see one."""
    row = ctx.session.execute(select_visible(ctx, model).where(model.id == row_id), **options).scalar()
    if row is None:
        text, kind = MISSING[model]
        raise NotFound(text.format(row_id), kind=kind)
    return row


def find_own(ctx: Context, model, row_id: str):
    """The same of a row that the caller may change; Forbidden where it only sees it."""
    row = find_row(ctx, model, row_id)
    if not ctx.is_admin and row.project_id != ctx.project_id:
        raise Forbidden(f"{model.__name__} {row_id} belongs to another project.")
    return row


def find_changeable_network(ctx: Context, network_id: str) -> Network:
    """The network, where the caller may add subnets to it, its row locked against others that do."""
    network = find_own(ctx, Network, network_id)
    lock(ctx.session, Network, network.id)
    return network


def lock(session: Session, model, row_id: str) -> None:
    """Let other writers of the row wait (on SQLite they do anyway)."""
    session.execute(select(model.id).where(model.id == row_id).with_for_update())


def choose_project(ctx: Context) -> str:
    """The project that the new object is for: the token's, or an admin's choice."""
    given = {ctx.body[name] for name in ("project_id", "tenant_id") if ctx.body.get(name)}
    if len(given) > 1:
        raise BadRequest("Invalid input for tenant_id: project_id and tenant_id name different projects.")
    if not given:
        return ctx.project_id
    project_id = given.pop()
    if project_id != ctx.token.project_id and not ctx.is_admin:
        raise BadRequest(
            "Invalid input for project_id: Specifying 'project_id' or 'tenant_id' other than the authenticated "
            "project in request requires admin privileges."
        )
    return project_id


def check_allowed(ctx: Context, permissions: dict[str, str], project_id: str | None = None) -> None:
    """Forbidden where the body has a field whose permission (``permissions``: field → name) the caller lacks."""
    for name, permission in permissions.items():
        if name in ctx.body:
            target = {"project_id": project_id or ctx.token.project_id}
            ctx.policy.check(permission, ctx.token.credentials(), target)


def apply_body(row, body: dict, names) -> None:
    """Set the columns of these names that the body has."""
    for name in names:
        if name in body:
            setattr(row, name, body[name])


def refuse_in_use(message: str, kind: str):
    """Raise the Conflict that says what still uses an object."""
    raise Conflict(message, kind=kind)


def show_time(value: datetime) -> str:
    """A time as the Network API writes it."""
    return value.strftime("%Y-%m-%dT%H:%M:%SZ")


def view_standard(row, named: bool = True) -> dict:
    """The attributes that every object of the API has."""
    return {
        "id": row.id,
        **({"name": row.name} if named else {}),
        "description": row.description,
        "project_id": row.project_id,
        "tenant_id": row.project_id,
        "revision_number": row.revision_number,
        "tags": sorted(row.tags),
        "created_at": show_time(row.created_at),
        "updated_at": show_time(row.updated_at),
    }
