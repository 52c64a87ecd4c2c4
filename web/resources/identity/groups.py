"""Groups: users that are given roles together.

A group's roles are its members' at their tokens' next check. Source: Identity API reference, "Groups".
Next room: `assignments.py`.
"""

from __future__ import annotations

from sqlalchemy import delete as sql_delete
from sqlalchemy import select

from ...errors import Conflict, Forbidden, NotFound
from ...fields import HEX_ID, NAME, field, nullable, text
from ...http import Context
from ...models import Assignment, Group, Membership, User
from ...paging import read_page
from ...policy import ADMIN, ANYONE, rule
from ...routes import Reply, Route
from . import users
from .domains import choose_domain_id
from .extras import check_id, merge_extra
from .lists import build_link, build_list, filter_texts
from .users import check_own, find_user

_COMMON = {"description": field(nullable(text(4096))), "domain_id": field(nullable(HEX_ID))}
FIELDS = {"name": field({**NAME, "maxLength": 64}, required=True), **_COMMON}
CHANGES = {"name": field({**NAME, "maxLength": 64}), **_COMMON}


def find_group(session, group_id: str) -> Group:
    """The group of this id; NotFound."""
    row = session.get(Group, group_id)
    if row is None:
        raise NotFound(f"Could not find group: {group_id}.")
    return row


def _check_name(ctx: Context, name: str, domain_id: str, but: str = "") -> None:
    if ctx.session.scalar(select(Group.id).where(Group.domain_id == domain_id, Group.name == name, Group.id != but)):
        raise Conflict(f"Conflict occurred attempting to store group - Duplicate entry found with name {name}.")


def index(ctx: Context) -> Reply:
    return _list(ctx, select(Group))


def _list(ctx: Context, statement) -> Reply:
    statement = filter_texts(ctx, statement, {"name": Group.name, "domain_id": Group.domain_id})
    page = read_page(
        ctx.session,
        statement,
        ctx.query,
        columns={"name": Group.name, "id": Group.id},
        identity=Group.id,
        default=[("name", "asc")],
        maximum=ctx.settings.api.max_limit,
    )
    return build_list(ctx, "groups", page, view)


def show(ctx: Context, group_id: str) -> Group:
    return find_group(ctx.session, group_id)


def create(ctx: Context) -> Group:
    domain_id = choose_domain_id(ctx, ctx.body.get("domain_id"))
    _check_name(ctx, ctx.body["name"], domain_id)
    row = Group(
        domain_id=domain_id,
        name=ctx.body["name"],
        description=ctx.body.get("description") or "",
        extra=merge_extra({}, ctx.body, FIELDS),
    )
    ctx.session.add(row)
    ctx.session.flush()
    return row


def update(ctx: Context, group_id: str) -> Group:
    row = find_group(ctx.session, group_id)
    check_id(ctx.body, group_id)
    if ctx.body.get("domain_id") not in (None, row.domain_id):
        raise Forbidden("domain_id of a group cannot be changed.")
    if "name" in ctx.body:
        _check_name(ctx, ctx.body["name"], row.domain_id, but=row.id)
        row.name = ctx.body["name"]
    if "description" in ctx.body:
        row.description = ctx.body["description"] or ""
    row.extra = merge_extra(row.extra, ctx.body, FIELDS)
    ctx.session.flush()
    return row


def delete(ctx: Context, group_id: str) -> None:
    """Its members lose at once what they had by it."""
    delete_group(ctx.session, find_group(ctx.session, group_id))


def delete_group(session, row: Group) -> None:
    """The row with its memberships and its roles."""
    for model in (Assignment, Membership):
        session.execute(sql_delete(model).where(model.group_id == row.id))
    session.delete(row)


def index_users(ctx: Context, group_id: str) -> Reply:
    find_group(ctx.session, group_id)
    members = select(Membership.user_id).where(Membership.group_id == group_id)
    return users.build_page(ctx, select(User).where(User.id.in_(members)))


def index_groups(ctx: Context, user_id: str) -> Reply:
    """The groups a user is in: one's own, or any user's for admins."""
    check_own(ctx, user_id)
    find_user(ctx.session, user_id)
    return _list(ctx, select(Group).where(Group.id.in_(select(Membership.group_id).filter_by(user_id=user_id))))


def show_member(ctx: Context, group_id: str, user_id: str) -> Reply:
    """204 where the user is in the group, 404 where not."""
    _find_member(ctx, group_id, user_id)
    return Reply(None, 204)


def _find_member(ctx: Context, group_id: str, user_id: str) -> Membership:
    find_group(ctx.session, group_id), find_user(ctx.session, user_id)
    row = ctx.session.get(Membership, (group_id, user_id))
    if row is None:
        raise NotFound(f"User {user_id} is not found in group {group_id}.")
    return row


def create_member(ctx: Context, group_id: str, user_id: str) -> Reply:
    """Putting a user in twice is putting it in once."""
    find_group(ctx.session, group_id), find_user(ctx.session, user_id)
    if ctx.session.get(Membership, (group_id, user_id)) is None:
        ctx.session.add(Membership(group_id=group_id, user_id=user_id))
    return Reply(None, 204)


def delete_member(ctx: Context, group_id: str, user_id: str) -> Reply:
    ctx.session.delete(_find_member(ctx, group_id, user_id))
    return Reply(None, 204)


def view(ctx: Context, row: Group) -> dict:
    return {
        **row.extra,
        "id": row.id,
        "name": row.name,
        "domain_id": row.domain_id,
        "description": row.description,
        "links": {"self": build_link(ctx, "groups", row.id)},
    }


READ = rule("identity:groups:read", ADMIN)
OWN = rule("identity:groups:own", ANYONE)
CREATE = rule("identity:groups:create", ADMIN)
UPDATE = rule("identity:groups:update", ADMIN)
DELETE = rule("identity:groups:delete", ADMIN)
ADD = rule("identity:groups:add_user", ADMIN)
REMOVE = rule("identity:groups:remove_user", ADMIN)
MEMBER = "/groups/{group_id}/users/{user_id}"
ROUTES = [
    Route("GET", "/groups", READ, None, index),
    Route("POST", "/groups", CREATE, FIELDS, create, view, 201, key="group", extra=True),
    Route("GET", "/groups/{group_id}", READ, None, show, view, key="group"),
    Route("PATCH", "/groups/{group_id}", UPDATE, CHANGES, update, view, key="group", extra=True),
    Route("DELETE", "/groups/{group_id}", DELETE, None, delete),
    Route("GET", "/groups/{group_id}/users", READ, None, index_users),
    Route("GET", MEMBER, READ, None, show_member),
    Route("PUT", MEMBER, ADD, None, create_member),
    Route("DELETE", MEMBER, REMOVE, None, delete_member),
    Route("GET", "/users/{user_id}/groups", OWN, None, index_groups),
]
