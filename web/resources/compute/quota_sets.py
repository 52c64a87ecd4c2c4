"""Limits per project, and of one user of a project: shown, set, reset. Usage is counted from rows.

Source: Compute API reference, "Quota sets (os-quota-sets)". Until 2.35 it also speaks of the network
service's limits, which are the same rows. Next room: `quota_class_sets.py`, the defaults of all projects.
"""

from __future__ import annotations

from sqlalchemy import delete as sql_delete
from sqlalchemy import func, select

from ...allocation import count_fixed_ips
from ...errors import BadRequest, Forbidden, NotFound
from ...fields import BOOL, field, until, whole
from ...http import Context
from ...models import FloatingIP, Network, Project, Quota, SecurityGroup, SecurityGroupRule, UserQuota, read_limit
from ...models.quotas import read_default_limit, read_user_limit
from ...policy import ADMIN, READER, rule
from ...routes import Reply, Route
from .placement import read_usage
from .server_groups import count_groups

OTHERS = rule("compute:quota_sets:others", "role:admin")
LIMIT = whole(-1)
NETWORK_NAMES = {
    "floating_ips": ("floatingip", FloatingIP),
    "security_groups": ("security_group", SecurityGroup),
    "security_group_rules": ("security_group_rule", SecurityGroupRule),
    "networks": ("network", Network),
}
INJECTED = ("injected_files", "injected_file_content_bytes", "injected_file_path_bytes")
PLAIN = ("instances", "cores", "ram", "key_pairs", "metadata_items", "server_groups", "server_group_members")
VIEW_FIELDS = {
    **{name: field({}, until("2.35")) for name in (*NETWORK_NAMES, "fixed_ips")},
    **{name: field({}, until("2.56")) for name in INJECTED},
}
FIELDS = {
    **{name: field(LIMIT) for name in PLAIN},
    **{name: field(LIMIT, until("2.56")) for name in INJECTED},
    **{name: field(LIMIT, until("2.35")) for name in (*NETWORK_NAMES, "fixed_ips")},
    "force": field(BOOL),
    "tenant_id": field({"type": "string", "maxLength": 255}, until("2.35")),
}
RESOURCES = {
    **{name: name for name in (*PLAIN, *INJECTED, "fixed_ips")},
    **{name: resource for name, (resource, _) in NETWORK_NAMES.items()},
}


def _check_project(ctx: Context, project_id: str) -> None:
    if project_id != ctx.token.project_id and not ctx.allows(OTHERS):
        raise Forbidden(f"Policy doesn't allow {OTHERS} to be performed.")
    if ctx.session.get(Project, project_id) is None:
        raise BadRequest(f"Project ID {project_id} is not a valid project.")


def _read_user(ctx: Context) -> str | None:
    """Whose limits the query asks for; None: the project's. BadRequest for a parameter that is not known (2.75)."""
    for name in ctx.query:
        if name != "user_id" and ctx.version >= (2, 75):
            raise BadRequest(f"Invalid input for query parameter {name}: Additional properties are not allowed.")
    return ctx.query.get("user_id") or None


def _read_limits(ctx: Context, project_id: str, user_id: str | None = None) -> dict[str, int]:
    limits = {name: read_limit(ctx.session, project_id, resource) for name, resource in RESOURCES.items()}
    if user_id is not None:
        own = {name: read_user_limit(ctx.session, project_id, user_id, name) for name in PLAIN}
        limits |= {name: limit for name, limit in own.items() if limit is not None}
    return limits


def _read_used(ctx: Context, project_id: str, user_id: str | None = None) -> dict[str, int]:
    # Key pairs are counted per user, metadata per server, members per group: a project as such uses none of them.
    used = dict.fromkeys(RESOURCES, 0) | read_usage(ctx.session, project_id, user_id)
    used["fixed_ips"] = count_fixed_ips(ctx.session, project_id)
    used["server_groups"] = count_groups(ctx.session, project_id, user_id)
    for name, (_, model) in NETWORK_NAMES.items():
        counted = select(func.count()).select_from(model).where(model.project_id == project_id)
        used[name] = ctx.session.scalar(counted)
    return used


def show(ctx: Context, project_id: str) -> dict:
    user_id = _read_user(ctx)
    _check_project(ctx, project_id)
    return {"id": project_id, **_read_limits(ctx, project_id, user_id)}


def detail(ctx: Context, project_id: str) -> dict:
    user_id = _read_user(ctx)
    _check_project(ctx, project_id)
    used = _read_used(ctx, project_id, user_id)
    limits = _read_limits(ctx, project_id, user_id)
    return {
        "id": project_id,
        **{name: {"limit": limit, "in_use": used[name], "reserved": 0} for name, limit in limits.items()},
    }


def show_defaults(ctx: Context, project_id: str) -> dict:
    return {"id": project_id, **read_defaults(ctx)}


def read_defaults(ctx: Context) -> dict[str, int]:
    """What a project has that has no limits of its own."""
    return {name: read_default_limit(ctx.session, resource) for name, resource in RESOURCES.items()}


def update(ctx: Context, project_id: str) -> dict:
    """A limit below what is used, or a user's above the project's, is refused unless forced."""
    user_id = _read_user(ctx)
    _check_project(ctx, project_id)
    wanted = {name: limit for name, limit in ctx.body.items() if name in RESOURCES}
    for name in wanted:
        if user_id is not None and name not in PLAIN:
            raise _refuse(name, wanted[name], "It is counted per project: no user has a limit of its own.")
    if not ctx.body.get("force"):
        most = _read_limits(ctx, project_id) if user_id is not None else {}
        used = _read_used(ctx, project_id, user_id)
        for name, limit in wanted.items():
            _check_limit(name, limit, used[name], most.get(name, -1))
    for name, limit in wanted.items():
        if user_id is not None:
            ctx.session.merge(UserQuota(project_id=project_id, user_id=user_id, resource=name, limit=limit))
        else:
            ctx.session.merge(Quota(project_id=project_id, resource=RESOURCES[name], limit=limit))
    ctx.session.flush()
    return _read_limits(ctx, project_id, user_id)


def _refuse(name: str, limit: int, reason: str) -> BadRequest:
    return BadRequest(f"Invalid input for field/attribute {name}. Value: {limit}. {reason}")


def _check_limit(name: str, limit: int, used: int, most: int) -> None:
    """BadRequest where the limit is below what is used, or above ``most`` (-1: there is no most)."""
    if limit != -1 and limit < used:
        raise _refuse(
            name, limit,
            f"Quota limit {limit} for {name} must be greater than or equal to already used and reserved {used}.",
        )  # fmt: skip
    if most != -1 and (limit == -1 or limit > most):
        raise _refuse(name, limit, f"Quota limit {limit} for {name} must be less than or equal to {most}.")


def delete(ctx: Context, project_id: str) -> Reply:
    """Back to the defaults; with user_id the user's limits are the project's again, without all users' too."""
    user_id = _read_user(ctx)
    if ctx.session.get(Project, project_id) is None:
        raise NotFound("Project", project_id)
    users = sql_delete(UserQuota).where(UserQuota.project_id == project_id)
    if user_id is not None:
        ctx.session.execute(users.where(UserQuota.user_id == user_id))
        return Reply(None, 202)
    names = [RESOURCES[name] for name in (*PLAIN, *INJECTED)]
    ctx.session.execute(users)
    ctx.session.execute(sql_delete(Quota).where(Quota.project_id == project_id, Quota.resource.in_(names)))
    return Reply(None, 202)


def view(ctx: Context, quotas: dict) -> dict:
    """``networks`` may be set (until 2.35), but is shown by the network service alone, as in the reference."""
    return {name: limit for name, limit in quotas.items() if name != "networks"}


SHOW = rule("compute:quota_sets:show", READER)
UPDATE = rule("compute:quota_sets:update", ADMIN)
DELETE = rule("compute:quota_sets:delete", ADMIN)
PATH = "/os-quota-sets/{project_id}"


def _get(path: str, handler) -> Route:
    return Route("GET", path, SHOW, None, handler, view, key="quota_set", view_fields=VIEW_FIELDS)


ROUTES = [
    _get(PATH, show),
    _get(PATH + "/detail", detail),
    _get(PATH + "/defaults", show_defaults),
    Route("PUT", PATH, UPDATE, FIELDS, update, view, key="quota_set", view_fields=VIEW_FIELDS),
    Route("DELETE", PATH, DELETE, None, delete, None, 202),
]
