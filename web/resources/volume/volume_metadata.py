"""Metadata of volumes, pair by pair. Source: Block Storage API reference, "Volumes". Next room: `volumes.py`."""

from __future__ import annotations

from ...errors import NotFound
from ...fields import METADATA, field
from ...http import Context
from ...policy import MEMBER, READER, rule
from ...routes import Reply, Route
from .volume_rows import find_volume

META = {"metadata": field(METADATA, required=True)}


def index_metadata(ctx: Context, volume_id: str) -> Reply:
    return Reply({"metadata": dict(find_volume(ctx, volume_id).metadata_)})


def add_metadata(ctx: Context, volume_id: str) -> Reply:
    volume = find_volume(ctx, volume_id)
    volume.metadata_ = {**volume.metadata_, **ctx.body["metadata"]}
    return Reply({"metadata": dict(volume.metadata_)})


def replace_metadata(ctx: Context, volume_id: str) -> Reply:
    volume = find_volume(ctx, volume_id)
    volume.metadata_ = dict(ctx.body["metadata"])
    return Reply({"metadata": dict(volume.metadata_)})


def show_metadata(ctx: Context, volume_id: str, key: str) -> Reply:
    found = find_volume(ctx, volume_id).metadata_
    if key not in found:
        raise NotFound(f"Volume {volume_id} has no metadata with key {key[:255]}.")
    return Reply({"meta": {key: found[key]}})


def delete_metadata(ctx: Context, volume_id: str, key: str) -> Reply:
    volume = find_volume(ctx, volume_id)
    if key not in volume.metadata_:
        raise NotFound(f"Volume {volume_id} has no metadata with key {key[:255]}.")
    volume.metadata_ = {name: value for name, value in volume.metadata_.items() if name != key}
    return Reply("")


SHOW = rule("volume:volumes:show", READER)
UPDATE = rule("volume:volumes:update", MEMBER)
PATH = "/volumes/{volume_id}/metadata"
ROUTES = [
    Route("GET", PATH, SHOW, None, index_metadata),
    Route("POST", PATH, UPDATE, META, add_metadata),
    Route("PUT", PATH, UPDATE, META, replace_metadata),
    Route("GET", PATH + "/{key}", SHOW, None, show_metadata),
    Route("DELETE", PATH + "/{key}", UPDATE, None, delete_metadata, None, 200),
]
