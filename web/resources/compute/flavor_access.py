"""Which projects may use a flavor that is not public.

Source: Compute API reference, "Flavors access".
"""

from __future__ import annotations

from sqlalchemy import select

from ...errors import BadRequest, Conflict, NotFound
from ...fields import HEX_ID, field
from ...http import Context
from ...models import Flavor, FlavorAccess, Project
from ...policy import ADMIN, rule
from ...routes import Route
from .flavors import find_flavor

FIELDS = {"tenant": field(HEX_ID, required=True)}


def _read(ctx: Context, flavor: Flavor) -> list[FlavorAccess]:
    found = select(FlavorAccess).where(FlavorAccess.flavor_id == flavor.id).order_by(FlavorAccess.project_id)
    return list(ctx.session.scalars(found))


def index(ctx: Context, flavor_id: str) -> list[FlavorAccess]:
    flavor = find_flavor(ctx, flavor_id)
    if flavor.is_public:
        raise NotFound("Access list not available for public flavors.")
    return _read(ctx, flavor)


def _check_project(ctx: Context) -> str:
    project_id = ctx.body["tenant"]
    if ctx.session.get(Project, project_id) is None:
        raise BadRequest(f"Project ID {project_id} is not a valid project.")
    return project_id


def add(ctx: Context, flavor_id: str) -> list[FlavorAccess]:
    project_id = _check_project(ctx)
    flavor = find_flavor(ctx, flavor_id)
    if flavor.is_public and ctx.version >= (2, 7):
        raise Conflict("Can not add access to a public flavor.")
    if ctx.session.get(FlavorAccess, (flavor.id, project_id)) is not None:
        raise Conflict(f"Flavor access already exists for flavor {flavor.id} and project {project_id} combination.")
    ctx.session.add(FlavorAccess(flavor_id=flavor.id, project_id=project_id))
    ctx.session.flush()
    return _read(ctx, flavor)


def remove(ctx: Context, flavor_id: str) -> list[FlavorAccess]:
    project_id = _check_project(ctx)
    flavor = find_flavor(ctx, flavor_id)
    row = ctx.session.get(FlavorAccess, (flavor.id, project_id))
    if row is None:
        raise NotFound(f"Flavor access not found for {flavor.id} / {project_id} combination.")
    ctx.session.delete(row)
    ctx.session.flush()
    return _read(ctx, flavor)


def view(ctx: Context, row: FlavorAccess) -> dict:
    return {"flavor_id": row.flavor_id, "tenant_id": row.project_id}


LIST = rule("compute:flavor_access:index", ADMIN)
ADD = rule("compute:flavor_access:add", ADMIN)
REMOVE = rule("compute:flavor_access:remove", ADMIN)
ACTION = "/flavors/{flavor_id}/action"
ROUTES = [
    Route("GET", "/flavors/{flavor_id}/os-flavor-access", LIST, None, index, view, reply_key="flavor_access"),
    Route("POST", ACTION, ADD, FIELDS, add, view, action="addTenantAccess", reply_key="flavor_access"),
    Route("POST", ACTION, REMOVE, FIELDS, remove, view, action="removeTenantAccess", reply_key="flavor_access"),
]
