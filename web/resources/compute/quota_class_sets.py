"""The limits of all projects that have none of their own: the quota class "default", the only one there is.

Source: Compute API reference, "Quota class sets (os-quota-class-sets)". Next rooms: `quota_sets.py`,
`web/models/quotas.py`.
"""

from __future__ import annotations

from ...errors import NotFound
from ...fields import field, since, until
from ...http import Context
from ...models import DefaultQuota
from ...policy import ADMIN, rule
from ...routes import Route
from .quota_sets import FIELDS as QUOTA_FIELDS
from .quota_sets import INJECTED, NETWORK_NAMES, PLAIN, RESOURCES, read_defaults, view

GROUPS = ("server_groups", "server_group_members")
FIELDS = {
    **{name: QUOTA_FIELDS[name] for name in (*PLAIN, *INJECTED)},
    **{name: field(dict(QUOTA_FIELDS[name].schema), until("2.49")) for name in (*NETWORK_NAMES, "fixed_ips")},
}
VIEW_FIELDS = {
    **{name: field({}, since("2.50")) for name in GROUPS},
    **{name: field({}, until("2.49")) for name in (*NETWORK_NAMES, "fixed_ips")},
    **{name: field({}, until("2.56")) for name in INJECTED},
}


def _check_name(name: str) -> None:
    if name != "default":
        raise NotFound(f"Quota class {name} could not be found.")


def show(ctx: Context, name: str) -> dict:
    _check_name(name)
    return {"id": name, **read_defaults(ctx)}


def update(ctx: Context, name: str) -> dict:
    """What every project without a limit of its own may have from now on; what it has already stays."""
    _check_name(name)
    for key, limit in ctx.body.items():
        ctx.session.merge(DefaultQuota(resource=RESOURCES[key], limit=limit))
    ctx.session.flush()
    return read_defaults(ctx)


PATH = "/os-quota-class-sets/{name}"
SHOWN = {"key": "quota_class_set", "view_fields": VIEW_FIELDS}
ROUTES = [
    Route("GET", PATH, rule("compute:quota_class_sets:show", ADMIN), None, show, view, **SHOWN),
    Route("PUT", PATH, rule("compute:quota_class_sets:update", ADMIN), FIELDS, update, view, **SHOWN),
]
