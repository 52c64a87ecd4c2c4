"""Limits per project: shown, set, reset. Usage is counted from rows.

Source: Compute API reference, "Quota sets (os-quota-sets)". Until 2.35 it also speaks of the network
service's limits, which are the same rows.
"""

from __future__ import annotations

from sqlalchemy import delete as sql_delete
from sqlalchemy import func, select

from ...errors import BadRequest, Forbidden, NotFound
from ...fields import BOOL, field, until, whole
from ...http import Context
from ...models import FloatingIP, Network, Project, Quota, SecurityGroup, SecurityGroupRule, read_limit
from ...models.quotas import DEFAULTS
from ...policy import ADMIN, READER, rule
from ...routes import Reply, Route
from .placement import read_usage

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
RESOURCES = {**{name: name for name in (*PLAIN, *INJECTED)}, **{k: v[0] for k, v in NETWORK_NAMES.items()}}


def _check_project(ctx: Context, project_id: str) -> None:
    if project_id != ctx.token.project_id and not ctx.allows(OTHERS):
        raise Forbidden(f"Policy doesn't allow {OTHERS} to be performed.")
    if ctx.session.get(Project, project_id) is None:
        raise BadRequest(f"Project ID {project_id} is not a valid project.")


def _read_limits(ctx: Context, project_id: str) -> dict[str, int]:
    limits = {name: read_limit(ctx.session, project_id, resource) for name, resource in RESOURCES.items()}
    return {**limits, "fixed_ips": -1}


def _read_used(ctx: Context, project_id: str) -> dict[str, int]:
    # Key pairs are counted per user and metadata per server: a project as such uses none of them.
    used = dict.fromkeys((*RESOURCES, "fixed_ips"), 0) | read_usage(ctx.session, project_id)
    for name, (_, model) in NETWORK_NAMES.items():
        counted = select(func.count()).select_from(model).where(model.project_id == project_id)
        used[name] = ctx.session.scalar(counted)
    return used


def show(ctx: Context, project_id: str) -> dict:
    _check_project(ctx, project_id)
    return {"id": project_id, **_read_limits(ctx, project_id)}


def detail(ctx: Context, project_id: str) -> dict:
    _check_project(ctx, project_id)
    used = _read_used(ctx, project_id)
    limits = _read_limits(ctx, project_id)
    return {
        "id": project_id,
        **{name: {"limit": limit, "in_use": used[name], "reserved": 0} for name, limit in limits.items()},
    }


def show_defaults(ctx: Context, project_id: str) -> dict:
    return {"id": project_id, **{name: DEFAULTS[resource] for name, resource in RESOURCES.items()}, "fixed_ips": -1}


def update(ctx: Context, project_id: str) -> dict:
    """A limit below what is used is refused unless forced."""
    _check_project(ctx, project_id)
    used = {} if ctx.body.get("force") else _read_used(ctx, project_id)
    for name, limit in ctx.body.items():
        if name not in RESOURCES:
            continue
        if limit != -1 and limit < used.get(name, 0):
            raise BadRequest(
                f"Invalid input for field/attribute {name}. Value: {limit}. Quota limit {limit} for {name} must be "
                f"greater than or equal to already used and reserved {used[name]}."
            )
        ctx.session.merge(Quota(project_id=project_id, resource=RESOURCES[name], limit=limit))
    ctx.session.flush()
    return _read_limits(ctx, project_id)


def delete(ctx: Context, project_id: str) -> Reply:
    """Back to the defaults."""
    if ctx.session.get(Project, project_id) is None:
        raise NotFound("Project", project_id)
    names = [RESOURCES[name] for name in (*PLAIN, *INJECTED)]
    ctx.session.execute(sql_delete(Quota).where(Quota.project_id == project_id, Quota.resource.in_(names)))
    return Reply(None, 202)


def show_class(ctx: Context, name: str) -> dict:
    """The only class there is: the defaults of all projects, which are the program's own."""
    if name != "default":
        raise NotFound(f"Quota class {name} could not be found.")
    return {"id": name, **{key: DEFAULTS[resource] for key, resource in RESOURCES.items()}, "fixed_ips": -1}


def view(ctx: Context, quotas: dict) -> dict:
    return quotas


SHOW = rule("compute:quota_sets:show", READER)
UPDATE = rule("compute:quota_sets:update", ADMIN)
DELETE = rule("compute:quota_sets:delete", ADMIN)
CLASS = rule("compute:quota_class_sets:show", ADMIN)
PATH = "/os-quota-sets/{project_id}"


def _get(path: str, handler) -> Route:
    return Route("GET", path, SHOW, None, handler, view, key="quota_set", view_fields=VIEW_FIELDS)


ROUTES = [
    _get(PATH, show),
    _get(PATH + "/detail", detail),
    _get(PATH + "/defaults", show_defaults),
    Route("PUT", PATH, UPDATE, FIELDS, update, view, key="quota_set", view_fields=VIEW_FIELDS),
    Route("DELETE", PATH, DELETE, None, delete, None, 202),
    Route(
        "GET",
        "/os-quota-class-sets/{name}",
        CLASS,
        None,
        show_class,
        view,
        key="quota_class_set",
        view_fields=VIEW_FIELDS,
    ),
]
