"""The catalog: which services there are and where, and the same as services, endpoints and regions.

Made from the services this cloud serves and its settings, so nothing of it is stored and nothing can be
written; ids are derived from names and stay. Source: Identity API reference, "Service catalog and
endpoints". Next room: `tokens.py`, whose answers carry the catalog.
"""

from __future__ import annotations

import uuid

from ...errors import Forbidden, NotFound
from ...http import Context, build_base_url
from ...policy import ADMIN, ANYONE, rule
from ...routes import Reply, Route, Service
from .lists import build_link, build_list

INTERFACES = ("admin", "internal", "public")


def _build_id(*names: str) -> str:
    return uuid.uuid5(uuid.NAMESPACE_URL, "kumo/" + "/".join(names)).hex


def _build_endpoints(ctx: Context, service: Service) -> list[dict]:
    region = ctx.settings.kumo.region
    path = service.version_path if service.catalog_path is None else service.catalog_path
    return [
        {
            "id": _build_id(region, service.type, interface),
            "interface": interface,
            "region_id": region,
            "region": region,
            "url": build_base_url(ctx.settings, service) + path,
        }
        for interface in INTERFACES
    ]


def build_catalog(ctx: Context) -> list[dict]:
    """The catalog of a token: [{id, type, name, endpoints: [{id, interface, region_id, region, url}]}]."""
    return [
        {
            "id": _build_id(service.type),
            "type": service.type,
            "name": service.name,
            "endpoints": _build_endpoints(ctx, service),
        }
        for service in ctx.services
    ]


def show(ctx: Context) -> Reply:
    if not ctx.token.scope:
        raise Forbidden("The catalog needs a token that is scoped to a project, a domain or the system.")
    return Reply({"catalog": build_catalog(ctx), "links": {"self": ctx.url("/auth/catalog")}})


def _list_services(ctx: Context) -> list[dict]:
    return [
        {
            "id": _build_id(service.type),
            "type": service.type,
            "name": service.name,
            "description": service.title,
            "enabled": True,
            "links": {"self": build_link(ctx, "services", _build_id(service.type))},
        }
        for service in ctx.services
    ]


def _list_endpoints(ctx: Context) -> list[dict]:
    return [
        {
            **endpoint,
            "service_id": _build_id(service.type),
            "enabled": True,
            "links": {"self": build_link(ctx, "endpoints", endpoint["id"])},
        }
        for service in ctx.services
        for endpoint in _build_endpoints(ctx, service)
    ]


def _list_regions(ctx: Context) -> list[dict]:
    region = ctx.settings.kumo.region
    return [
        {
            "id": region,
            "description": "",
            "parent_region_id": None,
            "links": {"self": build_link(ctx, "regions", region)},
        }
    ]


def _filter(ctx: Context, rows: list[dict], *names: str) -> list[dict]:
    return [row for row in rows if all(ctx.query.get(name) in (None, row[name]) for name in names)]


def _find(rows: list[dict], what: str, wanted: str) -> dict:
    for row in rows:
        if row["id"] == wanted:
            return row
    raise NotFound(f"Could not find {what}: {wanted}.")


def index_services(ctx: Context) -> Reply:
    return build_list(ctx, "services", _filter(ctx, _list_services(ctx), "type", "name"))


def show_service(ctx: Context, service_id: str) -> Reply:
    return Reply({"service": _find(_list_services(ctx), "service", service_id)})


def index_endpoints(ctx: Context) -> Reply:
    return build_list(
        ctx, "endpoints", _filter(ctx, _list_endpoints(ctx), "interface", "service_id", "region_id", "region")
    )


def show_endpoint(ctx: Context, endpoint_id: str) -> Reply:
    return Reply({"endpoint": _find(_list_endpoints(ctx), "endpoint", endpoint_id)})


def index_regions(ctx: Context) -> Reply:
    return build_list(ctx, "regions", _filter(ctx, _list_regions(ctx), "parent_region_id"))


def show_region(ctx: Context, region_id: str) -> Reply:
    return Reply({"region": _find(_list_regions(ctx), "region", region_id)})


CATALOG = rule("identity:catalog:show", ANYONE)
SERVICES = rule("identity:services:read", ADMIN)
ENDPOINTS = rule("identity:endpoints:read", ADMIN)
REGIONS = rule("identity:regions:read", ANYONE)
ROUTES = [
    Route("GET", "/auth/catalog", CATALOG, None, show, transaction=False),
    Route("GET", "/services", SERVICES, None, index_services, transaction=False),
    Route("GET", "/services/{service_id}", SERVICES, None, show_service, transaction=False),
    Route("GET", "/endpoints", ENDPOINTS, None, index_endpoints, transaction=False),
    Route("GET", "/endpoints/{endpoint_id}", ENDPOINTS, None, show_endpoint, transaction=False),
    Route("GET", "/regions", REGIONS, None, index_regions, transaction=False),
    Route("GET", "/regions/{region_id}", REGIONS, None, show_region, transaction=False),
]
