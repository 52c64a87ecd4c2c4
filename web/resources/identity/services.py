"""Services of the catalog. Source: Identity API reference, "Service catalog and endpoints". Next room: `catalog.py`."""

from __future__ import annotations

from ...fields import field, nullable, text
from ...http import Context
from ...models import CatalogService, Endpoint, new_hex_id
from ...policy import ADMIN, rule
from ...routes import Reply, Route
from .catalog import (
    filter_objects,
    find_object,
    merge_values,
    read_objects,
    remove_object,
    store_object,
    view_object,
)
from .extras import check_id
from .lists import build_list

_COMMON = {
    "name": field(nullable(text(255))),
    "description": field(nullable(text(4096))),
    "enabled": field({"type": "boolean"}),
}
FIELDS = {"type": field(text(255, 1), required=True), **_COMMON}
CHANGES = {"type": field(text(255, 1)), **_COMMON}


def index(ctx: Context) -> Reply:
    return build_list(ctx, "services", filter_objects(ctx, read_objects(ctx, CatalogService), "type", "name"), view)


def show(ctx: Context, service_id: str) -> dict:
    return find_object(ctx, CatalogService, service_id)


def create(ctx: Context) -> dict:
    """It is in the catalog as soon as it has an endpoint."""
    return _store(ctx, {"id": new_hex_id(), "name": "", "description": "", "enabled": True, "extra": {}})


def _store(ctx: Context, values: dict) -> dict:
    given = {name: "" if value is None and name in FIELDS else value for name, value in ctx.body.items()}
    return store_object(ctx, CatalogService, merge_values(values, given, FIELDS))


def update(ctx: Context, service_id: str) -> dict:
    """A disabled one is in no catalog."""
    check_id(ctx.body, service_id)
    return _store(ctx, find_object(ctx, CatalogService, service_id))


def delete(ctx: Context, service_id: str) -> None:
    """Its endpoints go along."""
    find_object(ctx, CatalogService, service_id)
    for one in read_objects(ctx, Endpoint).values():
        if one["service_id"] == service_id:
            remove_object(ctx, Endpoint, one["id"])
    remove_object(ctx, CatalogService, service_id)


def view(ctx: Context, row: dict) -> dict:
    return view_object(ctx, row, "services")


READ = rule("identity:services:read", ADMIN)
WRITE = rule("identity:services:write", ADMIN)
ROUTES = [
    Route("GET", "/services", READ, None, index),
    Route("POST", "/services", WRITE, FIELDS, create, view, 201, key="service", extra=True),
    Route("GET", "/services/{service_id}", READ, None, show, view, key="service"),
    Route("PATCH", "/services/{service_id}", WRITE, CHANGES, update, view, key="service", extra=True),
    Route("DELETE", "/services/{service_id}", WRITE, None, delete),
]
