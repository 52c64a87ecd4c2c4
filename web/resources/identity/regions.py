"""Regions: where endpoints are. Source: Identity API reference, "Regions". Next room: `catalog.py`."""

from __future__ import annotations

from ...errors import BadRequest, Conflict, Forbidden
from ...fields import field, nullable, text
from ...http import Context
from ...models import Endpoint, Region, new_hex_id
from ...policy import ADMIN, ANYONE, rule
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

CHANGES = {"description": field(nullable(text(4096))), "parent_region_id": field(nullable(text(255)))}
FIELDS = {"id": field(nullable(text(255))), **CHANGES}


def index(ctx: Context) -> Reply:
    return build_list(ctx, "regions", filter_objects(ctx, read_objects(ctx, Region), "parent_region_id"), view)


def show(ctx: Context, region_id: str) -> dict:
    return find_object(ctx, Region, region_id)


def _store(ctx: Context, values: dict) -> dict:
    """The region, with a parent that exists and is not below it."""
    regions, above = read_objects(ctx, Region), values["parent_region_id"]
    while above is not None:
        if above not in regions or above == values["id"]:
            raise BadRequest("Invalid input for field/attribute parent_region_id: no region that could be its parent")
        above = regions[above]["parent_region_id"]
    return store_object(ctx, Region, values)


def create(ctx: Context, region_id: str | None = None) -> dict:
    """With an id of the caller's choice, in the body or (PUT) in the path, or a random one."""
    body = ctx.body
    if region_id is not None and body.get("id") not in (None, region_id):
        raise BadRequest("Invalid input for field/attribute id: it is another one than in the path")
    chosen = region_id or body.get("id") or new_hex_id()
    if chosen in read_objects(ctx, Region):
        raise Conflict(f"Conflict occurred attempting to store region - Duplicate ID, {chosen}.")
    return _store(ctx, _merge({"id": chosen, "description": "", "parent_region_id": None, "extra": {}}, body))


def _merge(values: dict, body: dict) -> dict:
    """The region with the body's values; empty and null are no description and no parent."""
    merged = merge_values(values, body, CHANGES)
    return {
        **merged,
        "description": merged["description"] or "",
        "parent_region_id": merged["parent_region_id"] or None,
    }


def update(ctx: Context, region_id: str) -> dict:
    check_id(ctx.body, region_id)
    return _store(ctx, _merge(find_object(ctx, Region, region_id), ctx.body))


def delete(ctx: Context, region_id: str) -> None:
    """403 while there are regions below it or endpoints in it."""
    find_object(ctx, Region, region_id)
    below = any(one["parent_region_id"] == region_id for one in read_objects(ctx, Region).values())
    if below or any(one["region_id"] == region_id for one in read_objects(ctx, Endpoint).values()):
        raise Forbidden(
            f"Unable to delete region {region_id} because it or its child regions have associated endpoints."
        )
    remove_object(ctx, Region, region_id)


def view(ctx: Context, row: dict) -> dict:
    return view_object(ctx, row, "regions")


READ = rule("identity:regions:read", ANYONE)
WRITE = rule("identity:regions:write", ADMIN)
ROUTES = [
    Route("GET", "/regions", READ, None, index),
    Route("POST", "/regions", WRITE, FIELDS, create, view, 201, key="region", extra=True),
    Route("GET", "/regions/{region_id}", READ, None, show, view, key="region"),
    Route("PUT", "/regions/{region_id}", WRITE, FIELDS, create, view, 201, key="region", extra=True),
    Route("PATCH", "/regions/{region_id}", WRITE, CHANGES, update, view, key="region", extra=True),
    Route("DELETE", "/regions/{region_id}", WRITE, None, delete),
]
