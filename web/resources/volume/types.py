"""Volume types, their extra specs, and who may use those that are not public.

Source: Block Storage API reference, "Volume types (types)". The extra spec ``volume_backend_name`` chooses the
backend. API only.
"""

from __future__ import annotations

from sqlalchemy import or_, select

from ...errors import BadRequest, Conflict, NotFound
from ...fields import BOOL, FALSE, TRUE, field, nullable, text
from ...http import Context
from ...models import Volume, VolumeType, VolumeTypeAccess, now
from ...paging import Page, read_page
from ...policy import ADMIN, ANYONE, rule
from ...routes import Reply, Route
from .volume_rows import find_type, may_use
from .volumes import read_default_type

NAME = {**text(255, 1), "format": "name"}
SPECS = {
    "type": "object",
    "propertyNames": {"minLength": 1, "maxLength": 255, "pattern": r"^[a-zA-Z0-9\-_:. ]+\Z"},
    "additionalProperties": {"anyOf": [text(255), {"type": "number"}, {"type": "boolean"}]},
    "maxProperties": 128,
}
FIELDS = {
    "name": field(NAME, required=True),
    "description": field(nullable(text(255))),
    "os-volume-type-access:is_public": field(BOOL),
    "is_public": field(BOOL),
    "extra_specs": field(SPECS),
}
UPDATE_FIELDS = {name: field(dict(one.schema)) for name, one in FIELDS.items() if name != "extra_specs"}
SPECS_FIELDS = {"extra_specs": field(SPECS, required=True)}
PROJECT = {"project": field(text(64, 1), required=True)}
SORT_COLUMNS = {"id": VolumeType.id, "name": VolumeType.name, "created_at": VolumeType.created_at}


def _find(ctx: Context, type_id: str) -> VolumeType:
    row = ctx.session.get(VolumeType, type_id)
    if row is None or not may_use(ctx, row):
        raise NotFound(f"Volume type {type_id[:255]} could not be found.")
    return row


def index(ctx: Context) -> Page:
    """Those the project may use; an admin's ``is_public`` narrows, none is all."""
    statement = select(VolumeType)
    given = ctx.query.get("is_public", "true")
    if ctx.is_admin:
        if given.lower() != "none":
            statement = statement.where(VolumeType.is_public == (given in TRUE))
    else:
        granted = select(VolumeTypeAccess.volume_type_id).where(VolumeTypeAccess.project_id == ctx.token.project_id)
        statement = statement.where(or_(VolumeType.is_public, VolumeType.id.in_(granted)))
    return read_page(
        ctx.session,
        statement,
        ctx.query,
        columns=SORT_COLUMNS,
        identity=VolumeType.id,
        default=[("created_at", "desc")],
        maximum=ctx.settings.api.max_limit,
    )


def show(ctx: Context, type_id: str) -> VolumeType:
    if type_id == "default":
        row = read_default_type(ctx)
        if row is None:
            raise NotFound("Default volume type can not be found.")
        return row
    return find_type(ctx, type_id)


def _read_public(body: dict, before: bool = True) -> bool:
    return body.get("os-volume-type-access:is_public", body.get("is_public", before)) not in FALSE


def _check_name(ctx: Context, name: str, besides: str | None = None) -> None:
    found = ctx.session.scalar(select(VolumeType.id).where(VolumeType.name == name))
    if found is not None and found != besides:
        raise Conflict(f"Volume Type {name} already exists.")


def create(ctx: Context) -> VolumeType:
    body = ctx.body
    _check_name(ctx, body["name"])
    specs = {name: str(value) for name, value in body.get("extra_specs", {}).items()}
    row = VolumeType(
        name=body["name"], description=body.get("description"), is_public=_read_public(body), extra_specs=specs
    )
    ctx.session.add(row)
    ctx.session.flush()
    return row


def update(ctx: Context, type_id: str) -> VolumeType:
    row, body = _find(ctx, type_id), ctx.body
    if not body:
        raise BadRequest("Specify volume type name, description, is_public or a combination thereof.")
    if "name" in body:
        _check_name(ctx, body["name"], row.id)
        row.name = body["name"]
    row.description = body.get("description", row.description)
    row.is_public = _read_public(body, row.is_public)
    row.updated_at = now()
    return row


def delete(ctx: Context, type_id: str) -> None:
    row = _find(ctx, type_id)
    if ctx.session.scalar(select(Volume.id).where(Volume.volume_type_id == row.id, Volume.gone_at.is_(None)).limit(1)):
        raise BadRequest("Target volume type is still in use.")
    for volume in ctx.session.scalars(select(Volume).where(Volume.volume_type_id == row.id)):
        volume.volume_type_id = None
    ctx.session.flush()
    ctx.session.delete(row)


def index_specs(ctx: Context, type_id: str) -> Reply:
    return Reply({"extra_specs": dict(_find(ctx, type_id).extra_specs)})


def add_specs(ctx: Context, type_id: str) -> Reply:
    row = _find(ctx, type_id)
    given = {name: str(value) for name, value in ctx.body["extra_specs"].items()}
    row.extra_specs = {**row.extra_specs, **given}
    return Reply({"extra_specs": given})


def show_spec(ctx: Context, type_id: str, key: str) -> Reply:
    specs = _find(ctx, type_id).extra_specs
    if key not in specs:
        raise NotFound(f"Volume Type {type_id} has no extra specs with key {key[:255]}.")
    return Reply({key: specs[key]})


def delete_spec(ctx: Context, type_id: str, key: str) -> None:
    row = _find(ctx, type_id)
    if key not in row.extra_specs:
        raise NotFound(f"Volume Type {type_id} has no extra specs with key {key[:255]}.")
    row.extra_specs = {name: value for name, value in row.extra_specs.items() if name != key}


def index_access(ctx: Context, type_id: str) -> Reply:
    row = _find(ctx, type_id)
    if row.is_public:
        raise NotFound("Access list not available for public volume types.")
    found = ctx.session.scalars(select(VolumeTypeAccess).where(VolumeTypeAccess.volume_type_id == row.id))
    views = [{"volume_type_id": row.id, "project_id": one.project_id} for one in found]
    return Reply({"volume_type_access": views})


def add_access(ctx: Context, type_id: str) -> None:
    row, project = _find(ctx, type_id), ctx.body["project"]
    if row.is_public:
        raise Conflict("Type access modification is not applicable to public volume type.")
    if ctx.session.get(VolumeTypeAccess, (row.id, project)) is not None:
        raise Conflict(f"Volume type access for {row.id} / {project} combination already exists.")
    ctx.session.add(VolumeTypeAccess(volume_type_id=row.id, project_id=project))


def remove_access(ctx: Context, type_id: str) -> None:
    found = ctx.session.get(VolumeTypeAccess, (_find(ctx, type_id).id, ctx.body["project"]))
    if found is None:
        raise NotFound(f"Volume type access not found for {type_id} / {ctx.body['project']} combination.")
    ctx.session.delete(found)


def view_changed(ctx: Context, row: VolumeType) -> dict:
    """What a change of it answers."""
    view = {"id": row.id, "name": row.name, "description": row.description, "is_public": row.is_public}
    if ctx.is_admin:
        view["extra_specs"] = dict(row.extra_specs)
    return view


def view_made(ctx: Context, row: VolumeType) -> dict:
    return {**view_changed(ctx, row), "os-volume-type-access:is_public": row.is_public}


def view(ctx: Context, row: VolumeType) -> dict:
    return {**view_made(ctx, row), "qos_specs_id": None}


READ = rule("volume:types:read", ANYONE)
SPECS_READ = rule("volume:types:extra_specs:read", ADMIN)
WRITE = rule("volume:types:write", ADMIN)
ONE = "/types/{type_id}"
SHOWN = {"key": "volume_type"}
ROUTES = [
    Route("GET", "/types", READ, None, index, view, key="volume_types"),
    Route("POST", "/types", WRITE, FIELDS, create, view_made, **SHOWN),
    Route("GET", ONE, READ, None, show, view, **SHOWN),
    Route("PUT", ONE, WRITE, UPDATE_FIELDS, update, view_changed, **SHOWN),
    Route("DELETE", ONE, WRITE, None, delete, None, 202),
    Route("GET", ONE + "/extra_specs", SPECS_READ, None, index_specs),
    Route("POST", ONE + "/extra_specs", WRITE, SPECS_FIELDS, add_specs),
    Route("GET", ONE + "/extra_specs/{key}", SPECS_READ, None, show_spec),
    Route("DELETE", ONE + "/extra_specs/{key}", WRITE, None, delete_spec, None, 202),
    Route("GET", ONE + "/os-volume-type-access", SPECS_READ, None, index_access),
    Route("POST", ONE + "/action", WRITE, PROJECT, add_access, None, 202, action="addProjectAccess"),
    Route("POST", ONE + "/action", WRITE, PROJECT, remove_access, None, 202, action="removeProjectAccess"),
]
