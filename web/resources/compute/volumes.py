"""os-volumes and os-snapshots (until 2.35): older words for the volume service's volumes and snapshots.

Source: Compute API reference, "Volume extension (os-volumes, os-snapshots) (DEPRECATED)". Next room:
`web/neighbours.py`; `server_volumes.py` has the volumes of a server.
"""

from __future__ import annotations

from ...fields import BOOL, METADATA, UUID, field, nullable, text, whole
from ...http import Context
from ...neighbours import ask
from ...policy import MEMBER, READER, rule
from ...routes import Route

NAMED = {"display_name": field(nullable(text(255))), "display_description": field(nullable(text(255)))}
FIELDS = {
    **NAMED,
    "size": field(whole(1), required=True),
    "volume_type": field(nullable(text(255))),
    "metadata": field(nullable(METADATA)),
    "snapshot_id": field(nullable(UUID)),
    "availability_zone": field(nullable(text(255))),
}
SNAPSHOT_FIELDS = {**NAMED, "volume_id": field(UUID, required=True), "force": field(nullable(BOOL))}
PAGES = ("limit", "offset", "marker")
VOLUME, SNAPSHOT = "/volumes/{volume_id}", "/snapshots/{snapshot_id}"


def _read_query(ctx: Context) -> list[tuple[str, str]]:
    return [(name, ctx.query[name]) for name in PAGES if name in ctx.query]


def index(ctx: Context) -> list[dict]:
    return ask(ctx, "volume", "GET", "/volumes/detail", query=_read_query(ctx))


def show(ctx: Context, volume_id: str) -> dict:
    return ask(ctx, "volume", "GET", VOLUME, volume_id=volume_id)


def create(ctx: Context) -> dict:
    made = ask(ctx, "volume", "POST", "/volumes", ctx.body)
    return show(ctx, made["volume"]["id"])


def delete(ctx: Context, volume_id: str) -> None:
    ask(ctx, "volume", "DELETE", VOLUME, volume_id=volume_id)


def index_snapshots(ctx: Context) -> list[dict]:
    return ask(ctx, "volume", "GET", "/snapshots/detail", query=_read_query(ctx))


def show_snapshot(ctx: Context, snapshot_id: str) -> dict:
    return ask(ctx, "volume", "GET", SNAPSHOT, snapshot_id=snapshot_id)


def create_snapshot(ctx: Context) -> dict:
    return ask(ctx, "volume", "POST", "/snapshots", ctx.body)


def delete_snapshot(ctx: Context, snapshot_id: str) -> None:
    ask(ctx, "volume", "DELETE", SNAPSHOT, snapshot_id=snapshot_id)


def view(ctx: Context, volume: dict) -> dict:
    attached = [
        {
            "id": one["volume_id"],
            "volumeId": one["volume_id"],
            "serverId": one["server_id"],
            "device": one["device"],
        }
        for one in volume.get("attachments") or []
    ]
    return {
        "id": volume["id"],
        "status": volume["status"],
        "size": volume["size"],
        "displayName": volume["name"],
        "displayDescription": volume["description"],
        "availabilityZone": volume["availability_zone"],
        "volumeType": volume["volume_type"],
        "snapshotId": volume["snapshot_id"],
        "metadata": volume["metadata"],
        "createdAt": volume["created_at"],
        "attachments": attached or [{}],
    }


def view_snapshot(ctx: Context, snapshot: dict) -> dict:
    return {
        "id": snapshot["id"],
        "volumeId": snapshot["volume_id"],
        "status": snapshot["status"],
        "size": snapshot["size"],
        "displayName": snapshot["name"],
        "displayDescription": snapshot["description"],
        "createdAt": snapshot["created_at"],
    }


LIST = rule("compute:volumes:index", READER)
SHOW = rule("compute:volumes:show", READER)
CREATE = rule("compute:volumes:create", MEMBER)
DELETE = rule("compute:volumes:delete", MEMBER)
PATH, ONE = "/os-volumes", "/os-volumes/{volume_id}"
SNAPSHOTS, ONE_SNAPSHOT = "/os-snapshots", "/os-snapshots/{snapshot_id}"
LAST = {"until": "2.35"}
ROUTES = [
    Route("GET", PATH, LIST, None, index, view, reply_key="volumes", **LAST),
    Route("GET", PATH + "/detail", LIST, None, index, view, reply_key="volumes", **LAST),
    Route("POST", PATH, CREATE, FIELDS, create, view, key="volume", **LAST),
    Route("GET", ONE, SHOW, None, show, view, reply_key="volume", **LAST),
    Route("DELETE", ONE, DELETE, None, delete, None, 202, **LAST),
    Route("GET", SNAPSHOTS, LIST, None, index_snapshots, view_snapshot, reply_key="snapshots", **LAST),
    Route("GET", SNAPSHOTS + "/detail", LIST, None, index_snapshots, view_snapshot, reply_key="snapshots", **LAST),
    Route("POST", SNAPSHOTS, CREATE, SNAPSHOT_FIELDS, create_snapshot, view_snapshot, key="snapshot", **LAST),
    Route("GET", ONE_SNAPSHOT, SHOW, None, show_snapshot, view_snapshot, reply_key="snapshot", **LAST),
    Route("DELETE", ONE_SNAPSHOT, DELETE, None, delete_snapshot, None, 202, **LAST),
]
