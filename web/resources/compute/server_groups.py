"""Server groups: servers that are to share a host, or not to. Which host that is, is the scheduler's to keep to.

Source: Compute API reference, "Server groups (os-server-groups)". A server is in a group from its creation on, by the
scheduler hint `group`. Next rooms: `scheduler_hints.py`, `web/server_groups.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import func, select

from ...errors import BadRequest, NotFound, OverQuota
from ...fields import FALSE, TRUE, field, items, mapping, one_of, since, until, whole
from ...http import Context
from ...models import Project, ServerGroup, ServerGroupMember, read_limit
from ...models.quotas import read_user_limit
from ...models.server_groups import AFFINITY, ANTI_AFFINITY, POLICIES
from ...policy import MEMBER, READER, rule
from ...routes import Route
from ...server_groups import select_members
from .server_filters import refuse

NAME = {"type": "string", "minLength": 1, "maxLength": 255, "format": "name"}
FIELDS_2_1 = {
    "name": field(NAME, required=True),
    "policies": field({**items(one_of(AFFINITY, ANTI_AFFINITY), 1), "minItems": 1}, required=True),
}
FIELDS_2_15 = {**FIELDS_2_1, "policies": field({**items(one_of(*POLICIES), 1), "minItems": 1}, required=True)}
FIELDS = {
    "name": field(NAME, required=True),
    "policy": field(one_of(*POLICIES), required=True),
    "rules": field(mapping({"max_server_per_host": whole(1)})),
}
VIEW_FIELDS = {
    "project_id": field({}, since("2.13")),
    "user_id": field({}, since("2.13")),
    "policies": field({}, until("2.63")),
    "metadata": field({}, until("2.63")),
    "policy": field({}, since("2.64")),
    "rules": field({}, since("2.64")),
}
QUERY = {"all_projects", "limit", "offset"}
ALL_PROJECTS = rule("compute:server_groups:index:all_projects", "role:admin")


@dataclass
class Shown:
    """A group and the ids of its servers."""

    group: ServerGroup
    members: list[str]


def count_groups(session, project_id: str, user_id: str | None = None) -> int:
    """How many groups the project has; with ``user_id`` those that this user made."""
    statement = select(func.count()).select_from(ServerGroup).where(ServerGroup.project_id == project_id)
    return session.scalar(statement if user_id is None else statement.where(ServerGroup.user_id == user_id))


def _read_shown(ctx: Context, groups: list[ServerGroup]) -> list[Shown]:
    shown = {group.id: Shown(group, []) for group in groups}
    members = select_members().where(ServerGroupMember.group_id.in_(list(shown)))
    for group_id, server in ctx.session.execute(members):
        shown[group_id].members.append(server.id)
    return list(shown.values())


def _read_whole(ctx: Context, name: str, default: int) -> int:
    given = ctx.query.get(name)
    if given in (None, ""):
        return default
    if not given.isdigit() or len(given) > 9:
        raise refuse(name, given, "It is no whole number >= 0.")
    return int(given)


def index(ctx: Context) -> list[Shown]:
    """The project's, or with all_projects (an admin) everybody's, from ``offset`` on at most ``limit``."""
    for name in ctx.query:
        if name not in QUERY and ctx.version >= (2, 75):
            raise BadRequest(f"Invalid input for query parameter {name}: Additional properties are not allowed.")
    everybody = ctx.query.get("all_projects", "true") if "all_projects" in ctx.query else "false"
    if everybody and everybody not in TRUE and everybody not in FALSE:
        raise refuse("all_projects", everybody, "It is no boolean.")
    statement = select(ServerGroup).order_by(ServerGroup.created_at, ServerGroup.id)
    # Anybody but an admin is shown its own, as the reference has it.
    if (everybody and everybody not in TRUE) or not ctx.allows(ALL_PROJECTS):
        statement = statement.where(ServerGroup.project_id == ctx.project_id)
    most = ctx.settings.api.max_limit
    limit = min(_read_whole(ctx, "limit", most) or most, most)
    rows = ctx.session.scalars(statement.offset(_read_whole(ctx, "offset", 0)).limit(limit))
    return _read_shown(ctx, list(rows))


def _find(ctx: Context, group_id: str) -> ServerGroup:
    group = ctx.session.get(ServerGroup, group_id)
    if group is None or (group.project_id != ctx.token.project_id and not ctx.is_admin):
        raise NotFound(f"Instance group {group_id} could not be found.")
    return group


def show(ctx: Context, group_id: str) -> Shown:
    return _read_shown(ctx, [_find(ctx, group_id)])[0]


def create(ctx: Context) -> Shown:
    """A group without servers, counted against the project's quota and the user's own."""
    body, project, user = ctx.body, ctx.project_id, ctx.token.user_id
    policy = body.get("policy") or body["policies"][0]
    if "rules" in body and policy != ANTI_AFFINITY:
        raise BadRequest("Only anti-affinity policy supports rules.")
    ctx.session.execute(select(Project.id).where(Project.id == project).with_for_update())
    limits = (
        (read_limit(ctx.session, project, "server_groups"), None),
        (read_user_limit(ctx.session, project, user, "server_groups"), user),
    )
    for limit, whose in limits:
        if limit not in (None, -1) and count_groups(ctx.session, project, whose) >= limit:
            raise OverQuota("Quota exceeded, too many server groups.")
    most = int((body.get("rules") or {}).get("max_server_per_host", 1))
    group = ServerGroup(project_id=project, user_id=user, name=body["name"], policy=policy, most_per_host=most)
    ctx.session.add(group)
    ctx.session.flush()
    return Shown(group, [])


def delete(ctx: Context, group_id: str) -> None:
    """Its servers stay where they are, and may be placed and moved without regard to each other."""
    ctx.session.delete(_find(ctx, group_id))


def view(ctx: Context, shown: Shown) -> dict:
    group = shown.group
    rules = {"max_server_per_host": group.most_per_host} if group.policy == ANTI_AFFINITY else {}
    return {
        "id": group.id,
        "name": group.name,
        "members": sorted(shown.members),
        "metadata": {},
        "policies": [group.policy],
        "policy": group.policy,
        "rules": rules,
        "project_id": group.project_id,
        "user_id": group.user_id,
    }


LIST = rule("compute:server_groups:index", READER)
SHOW = rule("compute:server_groups:show", READER)
CREATE = rule("compute:server_groups:create", MEMBER)
DELETE = rule("compute:server_groups:delete", MEMBER)
PATH = "/os-server-groups"
ONE = {"key": "server_group", "view_fields": VIEW_FIELDS}
ROUTES = [
    Route("GET", PATH, LIST, None, index, view, reply_key="server_groups", view_fields=VIEW_FIELDS),
    Route("POST", PATH, CREATE, FIELDS_2_1, create, view, **ONE, until="2.14"),
    Route("POST", PATH, CREATE, FIELDS_2_15, create, view, **ONE, since="2.15", until="2.63"),
    Route("POST", PATH, CREATE, FIELDS, create, view, **ONE, since="2.64"),
    Route("GET", PATH + "/{group_id}", SHOW, None, show, view, **ONE),
    Route("DELETE", PATH + "/{group_id}", DELETE, None, delete, None, 204),
]
