"""/images (until 2.35) and the metadata of images (until 2.38): older words for the image service's.

Source: Compute API reference, "Images (images) (DEPRECATED)". The image service's routes open transactions of their
own, so these have none. Next room: `web/neighbours.py`.
"""

from __future__ import annotations

import io
import json

from ...errors import BadRequest, NotFound
from ...fields import METADATA, field
from ...http import Context
from ...neighbours import ask
from ...policy import MEMBER, READER, rule
from ...routes import Route
from .server_requests import check_metadata
from .server_views import build_bookmark, build_links

ATTRIBUTES = {
    "stores",
    "id", "name", "status", "visibility", "owner", "protected", "os_hidden", "disk_format", "container_format", "size",
    "virtual_size", "checksum", "os_hash_algo", "os_hash_value", "min_disk", "min_ram", "created_at", "updated_at",
    "tags", "self", "file", "schema",
}  # fmt: skip
STATUSES = {"queued": "SAVING", "saving": "SAVING", "active": "ACTIVE", "killed": "ERROR", "deleted": "DELETED"}
PROGRESS = {"queued": 25, "saving": 50, "active": 100}
FILTERS = ("name", "limit", "marker")
META = field({**METADATA, "maxProperties": 1, "minProperties": 1}, required=True)
PATCH = {"Content-Type": "application/openstack-images-v2.1-json-patch"}
FIELDS = {"metadata": field(METADATA, required=True)}
FIELDS_OF_ONE = {"meta": META}


def index(ctx: Context) -> list[dict]:
    """In pages as the image service has them; by name, status, least disk and memory, time and server."""
    query = [(name, ctx.query[name]) for name in FILTERS if name in ctx.query]
    if "limit" not in ctx.query:
        query.append(("limit", str(ctx.settings.api.max_limit)))
    images = ask(ctx, "image", "GET", "/images", query=query)["images"]
    for name, column in (("minDisk", "min_disk"), ("minRam", "min_ram")):
        if name in ctx.query:
            images = [one for one in images if one[column] >= _parse_whole(name, ctx.query[name])]
    if "status" in ctx.query:
        images = [one for one in images if _choose_status(one) == ctx.query["status"].upper()]
    if "changes-since" in ctx.query:
        images = [one for one in images if one["updated_at"] >= ctx.query["changes-since"]]
    if "server" in ctx.query:
        server = ctx.query["server"].rstrip("/").rsplit("/", 1)[-1]
        images = [one for one in images if one.get("instance_uuid") == server]
    if "type" in ctx.query:
        images = [one for one in images if one.get("image_type", "base") == ctx.query["type"]]
    return images


def _parse_whole(name: str, given: str) -> int:
    if not given.isdigit() or len(given) > 9:
        raise BadRequest(f"Invalid input for query parameter {name}. Value: {given[:100]!r}. It is no whole number.")
    return int(given)


def _choose_status(image: dict) -> str:
    return STATUSES.get(image["status"], "UNKNOWN")


def show(ctx: Context, image_id: str) -> dict:
    return ask(ctx, "image", "GET", "/images/{image_id}", image_id=image_id)


def delete(ctx: Context, image_id: str) -> None:
    ask(ctx, "image", "DELETE", "/images/{image_id}", image_id=image_id)


def read_metadata(image: dict) -> dict:
    """The properties that its owner gave it."""
    return {name: value for name, value in image.items() if name not in ATTRIBUTES}


def index_metadata(ctx: Context, image_id: str) -> dict:
    return read_metadata(show(ctx, image_id))


def show_metadata(ctx: Context, image_id: str, key: str) -> dict:
    metadata = index_metadata(ctx, image_id)
    if key not in metadata:
        raise NotFound("Metadata item was not found")
    return {key: metadata[key]}


def merge_metadata(ctx: Context, image_id: str) -> dict:
    return _store(ctx, image_id, {**index_metadata(ctx, image_id), **ctx.body["metadata"]})


def replace_metadata(ctx: Context, image_id: str) -> dict:
    return _store(ctx, image_id, ctx.body["metadata"])


def update_metadata(ctx: Context, image_id: str, key: str) -> dict:
    if key not in ctx.body["meta"]:
        raise BadRequest("Request body and URI mismatch")
    _store(ctx, image_id, {**index_metadata(ctx, image_id), **ctx.body["meta"]})
    return ctx.body["meta"]


def delete_metadata(ctx: Context, image_id: str, key: str) -> None:
    metadata = index_metadata(ctx, image_id)
    if metadata.pop(key, None) is None:
        raise NotFound("Invalid metadata key")
    _store(ctx, image_id, metadata)


def _store(ctx: Context, image_id: str, wanted: dict) -> dict:
    """Bring the image's properties to ``wanted`` by one patch."""
    with ctx.database.read() as ctx.session:
        check_metadata(ctx, wanted)
    before = index_metadata(ctx, image_id)
    changes = [{"op": "remove", "path": _build_pointer(name)} for name in sorted(before.keys() - wanted.keys())]
    changes += [
        {"op": "add", "path": _build_pointer(name), "value": value}
        for name, value in sorted(wanted.items())
        if before.get(name) != value
    ]
    if changes:
        stream = io.BytesIO(json.dumps(changes).encode())
        path = "/images/{image_id}"
        ask(ctx, "image", "PATCH", path, image_id=image_id, stream=stream, headers=PATCH)
    return index_metadata(ctx, image_id)


def _build_pointer(name: str) -> str:
    return "/" + name.replace("~", "~0").replace("/", "~1")


def view_listed(ctx: Context, image: dict) -> dict:
    links = [
        *build_links(ctx, "images", image["id"]),
        {
            "rel": "alternate",
            "type": "application/vnd.openstack.image",
            "href": ctx.url(f"/images/{image['id']}", service="image"),
        },
    ]
    return {"id": image["id"], "name": image["name"], "links": links}


def view(ctx: Context, image: dict) -> dict:
    metadata = read_metadata(image)
    shown = {
        **view_listed(ctx, image),
        "status": _choose_status(image),
        "progress": PROGRESS.get(image["status"], 0),
        "created": image["created_at"],
        "updated": image["updated_at"],
        "minDisk": image["min_disk"] or 0,
        "minRam": image["min_ram"] or 0,
        "metadata": metadata,
        "OS-EXT-IMG-SIZE:size": image["size"] or 0,
    }
    if "instance_uuid" in metadata:
        server = metadata["instance_uuid"]
        self_link = {"rel": "self", "href": ctx.url(f"/servers/{server}")}
        shown["server"] = {"id": server, "links": [self_link, build_bookmark(ctx, "servers", server)]}
    return shown


def view_metadata(ctx: Context, metadata: dict) -> dict:
    return metadata


LIST = rule("compute:images:index", READER)
SHOW = rule("compute:images:show", READER)
DELETE = rule("compute:images:delete", MEMBER)
READ_META = rule("compute:image_metadata:show", READER)
CHANGE_META = rule("compute:image_metadata:change", MEMBER)
PATH, ONE = "/images", "/images/{image_id}"
META_PATH = ONE + "/metadata"
META_ONE = META_PATH + "/{key}"
LAST = {"until": "2.35", "transaction": False}
LAST_META = {"until": "2.38", "transaction": False}


def _meta(method: str, path: str, fields: dict | None, handler, reply: str) -> Route:
    permission = READ_META if method == "GET" else CHANGE_META
    return Route(method, path, permission, fields, handler, view_metadata, reply_key=reply, **LAST_META)


ROUTES = [
    Route("GET", PATH, LIST, None, index, view_listed, reply_key="images", **LAST),
    Route("GET", PATH + "/detail", LIST, None, index, view, reply_key="images", **LAST),
    Route("GET", ONE, SHOW, None, show, view, reply_key="image", **LAST),
    Route("DELETE", ONE, DELETE, None, delete, None, 204, **LAST),
    _meta("GET", META_PATH, None, index_metadata, "metadata"),
    _meta("POST", META_PATH, FIELDS, merge_metadata, "metadata"),
    _meta("PUT", META_PATH, FIELDS, replace_metadata, "metadata"),
    _meta("GET", META_ONE, None, show_metadata, "meta"),
    _meta("PUT", META_ONE, FIELDS_OF_ONE, update_metadata, "meta"),
    Route("DELETE", META_ONE, CHANGE_META, None, delete_metadata, None, 204, **LAST_META),
]
