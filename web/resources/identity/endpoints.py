"""Endpoints: where a service of the catalog is reached.

Source: Identity API reference, "Service catalog and endpoints". Next room: `catalog.py`.
"""

from __future__ import annotations

import re

from ...errors import BadRequest
from ...fields import HEX_ID, field, nullable, one_of, text
from ...http import Context
from ...models import CatalogService, Endpoint, Region, new_hex_id
from ...policy import ADMIN, rule
from ...routes import Reply, Route
from .catalog import (
    INTERFACES,
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
    "region_id": field(nullable(text(255, 1))),
    "region": field(nullable(text(255, 1))),
    "enabled": field({"type": "boolean"}),
}
_DESCRIBED = {"name": field(text(255)), "description": field(nullable(text(4096)))}  # checked, kept as any attribute
_NEEDED = {
    "service_id": HEX_ID,
    "interface": one_of(*INTERFACES),
    "url": {**text(4096, 1), "pattern": r"^https?://\S+$"},
}
FIELDS = {**{name: field(schema, required=True) for name, schema in _NEEDED.items()}, **_COMMON, **_DESCRIBED}
CHANGES = {**{name: field(schema) for name, schema in _NEEDED.items()}, **_COMMON, **_DESCRIBED}
PLACEHOLDERS = ("project_id", "tenant_id", "user_id")


def index(ctx: Context) -> Reply:
    names = ("interface", "service_id", "region_id")
    found = filter_objects(ctx, read_objects(ctx, Endpoint), *names)
    if ctx.query.get("region"):
        found = [one for one in found if one["region_id"] == ctx.query["region"]]
    return build_list(ctx, "endpoints", found, view)


def show(ctx: Context, endpoint_id: str) -> dict:
    return find_object(ctx, Endpoint, endpoint_id)


def _store(ctx: Context, values: dict) -> dict:
    """The endpoint with the body's values; a region named the old way (`region`) is made where it is missing."""
    body = dict(ctx.body)
    region, old = body.get("region_id"), body.pop("region", None)
    regions = read_objects(ctx, Region)
    if region is None and old is not None:
        body["region_id"] = old
        if old not in regions:
            store_object(ctx, Region, {"id": old, "description": "", "parent_region_id": None, "extra": {}})
    elif region is not None and region not in regions:
        raise BadRequest(f"Invalid input for field/attribute region_id: there is no region {region}")
    if "service_id" in body and body["service_id"] not in read_objects(ctx, CatalogService):
        raise BadRequest(f"Invalid input for field/attribute service_id: there is no service {body['service_id']}")
    unknown = set(re.findall(r"[$%]\(([^)]*)\)", body.get("url", ""))) - set(PLACEHOLDERS)
    if unknown:
        raise BadRequest(f"Invalid input for field/attribute url: it can hold {', '.join(PLACEHOLDERS)} only")
    return store_object(ctx, Endpoint, merge_values(values, body, {**_NEEDED, **_COMMON}))


def create(ctx: Context) -> dict:
    return _store(ctx, {"id": new_hex_id(), "region_id": None, "enabled": True, "extra": {}})


def update(ctx: Context, endpoint_id: str) -> dict:
    """A built-in one that was changed follows the settings no longer."""
    check_id(ctx.body, endpoint_id)
    return _store(ctx, find_object(ctx, Endpoint, endpoint_id))


def delete(ctx: Context, endpoint_id: str) -> None:
    remove_object(ctx, Endpoint, endpoint_id)


def view(ctx: Context, row: dict) -> dict:
    return {**view_object(ctx, row, "endpoints"), "region": row["region_id"]}


READ = rule("identity:endpoints:read", ADMIN)
WRITE = rule("identity:endpoints:write", ADMIN)
ROUTES = [
    Route("GET", "/endpoints", READ, None, index),
    Route("POST", "/endpoints", WRITE, FIELDS, create, view, 201, key="endpoint", extra=True),
    Route("GET", "/endpoints/{endpoint_id}", READ, None, show, view, key="endpoint"),
    Route("PATCH", "/endpoints/{endpoint_id}", WRITE, CHANGES, update, view, key="endpoint", extra=True),
    Route("DELETE", "/endpoints/{endpoint_id}", WRITE, None, delete),
]
