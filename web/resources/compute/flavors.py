"""Flavors: the sizes that servers come in. Servers keep their flavor as it was, so rows here may go.

Source: Compute API reference, "Flavors". Extra specs and access are in the files beside this one.
"""

from __future__ import annotations

from sqlalchemy import false, or_, select, true

from ...errors import BadRequest, Conflict, NotFound
from ...fields import BOOL, FALSE, NAME, TRUE, field, nullable, since, text, whole
from ...http import Context
from ...models import Flavor, FlavorAccess, new_uuid
from ...paging import Page, read_page
from ...policy import ADMIN, ANYONE, rule
from ...routes import Route
from .server_filters import refuse
from .server_views import build_links

DESCRIPTION = nullable({**text(65535), "format": "printable"})
FIELDS = {
    "name": field(NAME, required=True),
    "id": field(
        nullable({"type": ["string", "integer"], "maxLength": 255, "pattern": r"^(?! )[a-zA-Z0-9. _-]*(?<! )\Z"})
    ),
    "ram": field(whole(1), required=True),
    "vcpus": field(whole(1), required=True),
    "disk": field(whole(0), required=True),
    "OS-FLV-EXT-DATA:ephemeral": field(whole(0)),
    "swap": field(whole(0)),
    "rxtx_factor": field({"type": ["number", "string"], "pattern": r"^[0-9]{1,6}(\.[0-9]{1,6})?\Z", "minimum": 0}),
    "os-flavor-access:is_public": field(BOOL),
    "description": field(DESCRIPTION, since("2.55")),
}
UPDATE_FIELDS = {"description": field(DESCRIPTION, required=True)}
VIEW_FIELDS = {"description": field({}, since("2.55")), "extra_specs": field({}, since("2.61"))}
SORT_COLUMNS = {
    "flavorid": Flavor.id,
    "id": Flavor.id,
    "name": Flavor.name,
    "memory_mb": Flavor.ram_mb,
    "vcpus": Flavor.vcpus,
    "root_gb": Flavor.disk_gb,
    "ephemeral_gb": Flavor.ephemeral_gb,
    "swap": Flavor.swap_mb,
    "rxtx_factor": Flavor.rxtx_factor,
    "is_public": Flavor.is_public,
    "disabled": Flavor.disabled,
    "created_at": Flavor.created_at,
    "description": Flavor.description,
}
QUERY = {"limit", "marker", "sort_key", "sort_dir", "minRam", "minDisk", "is_public"}


def _is_accessible(ctx: Context):
    mine = select(FlavorAccess.flavor_id).where(FlavorAccess.project_id == ctx.token.project_id)
    return or_(Flavor.is_public, Flavor.id.in_(mine))


def find_flavor(ctx: Context, flavor_id: str) -> Flavor:
    """The flavor, where the project may use it or the caller is an admin; else NotFound."""
    statement = select(Flavor).where(Flavor.id == flavor_id)
    if not ctx.is_admin:
        statement = statement.where(_is_accessible(ctx))
    flavor = ctx.session.scalar(statement)
    if flavor is None:
        raise NotFound(f"Flavor {flavor_id} could not be found.")
    return flavor


def _build_conditions(ctx: Context) -> list:
    query = ctx.query
    if ctx.version >= (2, 75):
        for name in query:
            if name not in QUERY:
                raise BadRequest(f"Invalid input for query parameter {name}: Additional properties are not allowed.")
    conditions = [Flavor.disabled.is_(False)]
    for name, column in (("minRam", Flavor.ram_mb), ("minDisk", Flavor.disk_gb)):
        value = query.get(name)
        if value is not None:
            if not value.isdigit() or len(value) > 9:
                raise refuse(name, value, "It is no whole number.")
            conditions.append(column >= int(value))
    public = query.get("is_public")
    if not ctx.is_admin:
        conditions.append(_is_accessible(ctx))
    elif public is not None and public.lower() != "none":
        if public not in TRUE and public not in FALSE:
            raise refuse("is_public", public, "It is neither a boolean nor None.")
        conditions.append(Flavor.is_public == (true() if public in TRUE else false()))
    elif public is None:
        conditions.append(_is_accessible(ctx))
    return conditions


def index(ctx: Context) -> Page:
    """An admin sees private flavors too with is_public=None."""
    return read_page(
        ctx.session,
        select(Flavor).where(*_build_conditions(ctx)),
        ctx.query,
        columns=SORT_COLUMNS,
        identity=Flavor.id,
        default=[("flavorid", "asc")],
        maximum=ctx.settings.api.max_limit,
    )


def show(ctx: Context, flavor_id: str) -> Flavor:
    return find_flavor(ctx, flavor_id)


def create(ctx: Context) -> Flavor:
    body = ctx.body
    given = body.get("id")
    flavor_id = new_uuid() if given in (None, "", "auto") else str(given)
    if ctx.session.scalar(select(Flavor.id).where(Flavor.name == body["name"])):
        raise Conflict(f"Flavor with name {body['name']} already exists.")
    if ctx.session.get(Flavor, flavor_id) is not None:
        raise Conflict(f"Flavor with ID {flavor_id} already exists.")
    flavor = Flavor(
        id=flavor_id,
        name=body["name"],
        description=body.get("description"),
        vcpus=body["vcpus"],
        ram_mb=body["ram"],
        disk_gb=body["disk"],
        ephemeral_gb=body.get("OS-FLV-EXT-DATA:ephemeral", 0),
        swap_mb=body.get("swap", 0),
        rxtx_factor=float(body.get("rxtx_factor", 1.0)),
        is_public=body.get("os-flavor-access:is_public", True),
    )
    ctx.session.add(flavor)
    ctx.session.flush()
    return flavor


def update(ctx: Context, flavor_id: str) -> Flavor:
    flavor = find_flavor(ctx, flavor_id)
    flavor.description = ctx.body["description"]
    return flavor


def delete(ctx: Context, flavor_id: str) -> None:
    ctx.session.delete(find_flavor(ctx, flavor_id))


def view_listed(ctx: Context, flavor: Flavor) -> dict:
    return {
        "id": flavor.id,
        "name": flavor.name,
        "description": flavor.description,
        "links": build_links(ctx, "flavors", flavor.id),
    }


def view_shown(ctx: Context, flavor: Flavor) -> dict:
    return {
        **view_listed(ctx, flavor),
        "ram": flavor.ram_mb,
        "vcpus": flavor.vcpus,
        "disk": flavor.disk_gb,
        "swap": flavor.swap_mb if flavor.swap_mb or ctx.version >= (2, 75) else "",
        "rxtx_factor": flavor.rxtx_factor,
        "OS-FLV-DISABLED:disabled": flavor.disabled,
        "OS-FLV-EXT-DATA:ephemeral": flavor.ephemeral_gb,
        "os-flavor-access:is_public": flavor.is_public,
        "extra_specs": flavor.extra_specs,
    }


LIST = rule("compute:flavors:index", ANYONE)
SHOW = rule("compute:flavors:show", ANYONE)
CREATE = rule("compute:flavors:create", ADMIN)
UPDATE = rule("compute:flavors:update", ADMIN)
DELETE = rule("compute:flavors:delete", ADMIN)
ROUTES = [
    Route("GET", "/flavors", LIST, None, index, view_listed, key="flavors", view_fields=VIEW_FIELDS),
    Route("GET", "/flavors/detail", LIST, None, index, view_shown, key="flavors", view_fields=VIEW_FIELDS),
    Route("GET", "/flavors/{flavor_id}", SHOW, None, show, view_shown, key="flavor", view_fields=VIEW_FIELDS),
    Route("POST", "/flavors", CREATE, FIELDS, create, view_shown, 200, key="flavor", view_fields=VIEW_FIELDS),
    Route(
        "PUT",
        "/flavors/{flavor_id}",
        UPDATE,
        UPDATE_FIELDS,
        update,
        view_shown,
        200,
        key="flavor",
        view_fields=VIEW_FIELDS,
        since="2.55",
    ),
    Route("DELETE", "/flavors/{flavor_id}", DELETE, None, delete, None, 202),
]
