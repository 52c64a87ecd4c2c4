"""The catalog: which services there are and where.

Built in is what this cloud serves, as its settings say: it needs no row and follows the settings. Over it lie
the rows that operators made by the API: further regions, services and endpoints, and built-in ones changed or
taken out (from then on they are as the row says). Ids of built-in ones are derived from names and stay.
Source: Identity API reference, "Service catalog and endpoints". Next rooms: `regions.py`, `services.py`,
`endpoints.py`, which write the rows; `endpoint_filters.py`: what projects see of it; `tokens.py`, whose answers
carry the catalog.
"""

from __future__ import annotations

import re
import uuid

from sqlalchemy import delete, select

from ...auth import Token
from ...errors import Forbidden, NotFound
from ...http import Context, build_base_url
from ...models import CatalogService, Endpoint, ProjectEndpoint, Region
from ...policy import ANYONE, rule
from ...routes import Reply, Route
from .endpoint_filters import choose_endpoints
from .extras import merge_extra
from .lists import build_link

INTERFACES = ("admin", "internal", "public")
_NAMES = {  # of an object, as the API names it
    Region: ("id", "description", "parent_region_id", "extra"),
    CatalogService: ("id", "type", "name", "description", "enabled", "extra"),
    Endpoint: ("id", "service_id", "region_id", "interface", "url", "enabled", "extra"),
}
_TOLD = {Region: "region", CatalogService: "service", Endpoint: "endpoint"}


def _build_id(*names: str) -> str:
    return uuid.uuid5(uuid.NAMESPACE_URL, "kumo/" + "/".join(names)).hex


def _build_in(ctx: Context, model) -> list[dict]:
    """The built-in objects of a kind."""
    region = ctx.settings.kumo.region
    if model is Region:
        return [{"id": region, "description": "", "parent_region_id": None, "extra": {}}]
    if model is CatalogService:
        return [
            {
                "id": _build_id(service.type),
                "type": service.type,
                "name": service.name,
                "description": service.title,
                "enabled": True,
                "extra": {},
            }
            for service in ctx.services
        ]
    return [
        {
            "id": _build_id(region, service.type, interface),
            "service_id": _build_id(service.type),
            "region_id": region,
            "interface": interface,
            "url": build_base_url(ctx.settings, service)
            + (service.version_path if service.catalog_path is None else service.catalog_path),
            "enabled": True,
            "extra": {},
        }
        for service in ctx.services
        for interface in INTERFACES
    ]


def read_objects(ctx: Context, model) -> dict[str, dict]:
    """All there are of a kind, built-in ones first, by id."""
    found = {one["id"]: one for one in _build_in(ctx, model)}
    for row in ctx.session.scalars(select(model).order_by(model.id)):
        if row.removed:
            found.pop(row.id, None)
        else:
            found[row.id] = {name: getattr(row, name) for name in _NAMES[model]}
    return found


def find_object(ctx: Context, model, object_id: str) -> dict:
    """The one of this id; NotFound."""
    found = read_objects(ctx, model).get(object_id)
    if found is None:
        raise NotFound(f"Could not find {_TOLD[model]}: {object_id}.")
    return found


def store_object(ctx: Context, model, values: dict, removed: bool = False) -> dict:
    """Keep it as a row, new or in place of what has its id."""
    row = ctx.session.get(model, values["id"])
    if row is None:
        row = model(id=values["id"])
        ctx.session.add(row)
    for name in _NAMES[model]:
        setattr(row, name, values[name])
    row.removed = removed
    ctx.session.flush()
    return values


def remove_object(ctx: Context, model, object_id: str) -> None:
    """Take it out: a row of the operator's own is gone, a built-in one is covered."""
    values = find_object(ctx, model, object_id)
    if any(one["id"] == object_id for one in _build_in(ctx, model)):
        store_object(ctx, model, values, removed=True)
    else:
        ctx.session.delete(ctx.session.get(model, object_id))
        ctx.session.flush()
    if model is Endpoint:
        ctx.session.execute(delete(ProjectEndpoint).where(ProjectEndpoint.endpoint_id == object_id))


def merge_values(values: dict, body: dict, known: dict) -> dict:
    """The object with what the body says: fields that are known, and further attributes."""
    given = {name: value for name, value in body.items() if name in known}
    return {**values, **given, "extra": merge_extra(values["extra"], body, known)}


def view_object(ctx: Context, row: dict, kind: str) -> dict:
    """The object as it is told; ``kind`` is the plural in its path."""
    known = {name: value for name, value in row.items() if name != "extra"}
    return {**row["extra"], **known, "links": {"self": build_link(ctx, kind, row["id"])}}


def filter_objects(ctx: Context, objects: dict[str, dict], *names: str) -> list[dict]:
    """Those that the query's filters by these names fit."""
    return [one for one in objects.values() if all(ctx.query.get(name) in (None, one[name] or "") for name in names)]


def _fill_url(url: str, token: Token) -> str | None:
    """The URL for this token: `$(project_id)s` and `%(user_id)s` and the like filled in; None where one cannot be."""
    values = {"project_id": token.project_id, "tenant_id": token.project_id, "user_id": token.user_id}
    names = re.findall(r"[$%]\((\w+)\)s", url)
    if any(values.get(name) is None for name in names):
        return None
    return re.sub(r"[$%]\((\w+)\)s", lambda match: values[match[1]], url)


def build_catalog(ctx: Context, token: Token) -> list[dict]:
    """The catalog of a token: [{id, type, name, endpoints: [{id, interface, region_id, region, url}]}].

    Of a project that endpoints are associated with, these; where none is, or none is left of them, all.
    """
    places: dict[str, list[dict]] = {}
    endpoints = read_objects(ctx, Endpoint)
    if token.project_id is not None:
        endpoints = choose_endpoints(ctx.session, token.project_id, endpoints) or endpoints
    for one in endpoints.values():
        url = _fill_url(one["url"], token) if one["enabled"] else None
        if url is not None:
            told = {"id": one["id"], "interface": one["interface"], "region_id": one["region_id"]}
            places.setdefault(one["service_id"], []).append({**told, "region": one["region_id"], "url": url})
    return [
        {"id": one["id"], "type": one["type"], "name": one["name"], "endpoints": places[one["id"]]}
        for one in read_objects(ctx, CatalogService).values()
        if one["enabled"] and one["id"] in places
    ]


def show(ctx: Context) -> Reply:
    if not ctx.token.scope:
        raise Forbidden("The catalog needs a token that is scoped to a project, a domain or the system.")
    return Reply({"catalog": build_catalog(ctx, ctx.token), "links": {"self": ctx.url("/auth/catalog")}})


CATALOG = rule("identity:catalog:show", ANYONE)
ROUTES = [Route("GET", "/auth/catalog", CATALOG, None, show)]
