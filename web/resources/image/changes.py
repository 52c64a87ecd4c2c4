"""PATCH of an image: a JSON patch of one level, in the media types of the Image API.

Source: Image API reference, "Update image" (application/openstack-images-v2.1-json-patch), RFC 6902 for
the operations, RFC 6901 for the paths; the older v2.0 form names the path in the operation's own member
({"replace": "/name", "value": …}, a draft of that RFC). Next room: `images.py`, whose FIELDS hold here too.
"""

from __future__ import annotations

import json

from ... import fields as web_fields
from ...errors import BadRequest, Conflict, Forbidden, TooLarge, UnsupportedMedia
from ...fields import Field
from ...http import Context, build_log
from ...models import Image
from ...policy import MEMBER, rule
from ...routes import Route
from .images import FIELDS, check_visibility
from .properties import check_properties, check_tags
from .rows import BASE, OTHERS, READ_ONLY, find_own, is_reserved, view

OLD_TYPE = "application/openstack-images-v2.0-json-patch"
MEDIA_TYPES = ("application/openstack-images-v2.1-json-patch", "application/json-patch+json", OLD_TYPE)
OPERATIONS = ("add", "replace", "remove")
CHANGEABLE: dict[str, Field] = {name: one for name, one in FIELDS.items() if name != "id"}
COLUMNS = {"owner": "project_id"}


def _read_changes(ctx: Context) -> list[tuple[str, str, object]]:
    """[(operation, name, value)] of the body; a Problem says what is malformed."""
    kind = (ctx.headers.get("Content-Type") or "").split(";")[0].strip().lower()
    if kind not in MEDIA_TYPES:
        raise UnsupportedMedia(
            f"Unsupported Content-Type {kind or '(none)'}: it must be {MEDIA_TYPES[0]}",
            headers={"Accept-Patch": f"{MEDIA_TYPES[0]}, {OLD_TYPE}"},
        )
    most = ctx.settings.api.max_body_bytes
    raw = ctx.stream.read(most + 1)
    if len(raw) > most:
        raise TooLarge(f"The body is larger than {most} bytes.")
    try:
        changes = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"Malformed request body: it is no JSON ({error})") from None
    if not isinstance(changes, list):
        raise BadRequest("Request body must be a JSON array of operation objects.")
    return [_read_change(_convert(change) if kind == OLD_TYPE else change) for change in changes]


def _convert(change):
    """An operation of the v2.0 form in today's."""
    if not isinstance(change, dict):
        return change
    found = [name for name in OPERATIONS if name in change]
    if len(found) != 1:
        raise BadRequest(f"Operation objects must contain exactly one of {', '.join(OPERATIONS)}.")
    return {"op": found[0], "path": change[found[0]], **{name: change[name] for name in ("value",) if name in change}}


def _read_change(change) -> tuple[str, str, object]:
    if not isinstance(change, dict):
        raise BadRequest("Operations must be JSON objects.")
    operation, path = change.get("op"), change.get("path")
    if operation not in OPERATIONS:
        raise BadRequest(f"Operations must be one of add, replace, remove: {operation!r:.60} is none")
    if isinstance(path, str) and path.startswith("/locations/"):
        raise Forbidden("Attribute 'locations' is read-only: where images' bytes are is not for clients to say.")
    if not isinstance(path, str) or not path.startswith("/") or path.count("/") != 1 or len(path) < 2:
        raise BadRequest(f"Pointer {path!r:.60} must have exactly one level, /name")
    if operation != "remove" and "value" not in change:
        raise BadRequest(f"Operation {operation} of {path} needs a value")
    name = path[1:].replace("~1", "/").replace("~0", "~")
    return operation, name, change.get("value")


def _apply(ctx: Context, row: Image, operation: str, name: str, value) -> None:
    if name in READ_ONLY:
        raise Forbidden(f"Attribute '{name}' is read-only.")
    if is_reserved(name):
        raise Forbidden(f"Attribute '{name}' is reserved.")
    if name in BASE:
        if operation == "remove":
            raise Forbidden(f"Property {name} may not be removed.")
        _apply_attribute(ctx, row, name, value)
        return
    known = name in row.properties
    if operation != "add" and not known:
        raise Conflict(f"Property {name} does not exist.")
    if operation == "remove":
        row.properties = {key: item for key, item in row.properties.items() if key != name}
        return
    check_properties({**row.properties, name: value}, ctx.settings.image.max_properties)
    row.properties = {**row.properties, name: value}


def _apply_attribute(ctx: Context, row: Image, name: str, value) -> None:
    value = web_fields.check(CHANGEABLE, {name: value}, None, name)[name]
    if name == "visibility" and value != row.visibility:
        check_visibility(ctx, value)
    if name == "owner" and value != row.project_id:
        ctx.policy.check(OTHERS, ctx.token.credentials(), {})
    if name in ("disk_format", "container_format") and value != getattr(row, name) and row.status != "queued":
        raise Forbidden(f"Attribute {name} can be replaced only for a queued image.")
    if name == "tags":
        value = check_tags(value, ctx.settings.image.max_tags)
    setattr(row, COLUMNS.get(name, name), value)


def update(ctx: Context, image_id: str) -> Image:
    """All the changes or none of them."""
    changes = _read_changes(ctx)
    with ctx.write() as session:
        row = find_own(ctx, image_id)
        for operation, name, value in changes:
            _apply(ctx, row, operation, name, value)
        session.add(build_log(ctx, "PATCH", 200))
    return row


UPDATE = rule("image:images:update", MEMBER)
ROUTES = [Route("PATCH", "/images/{image_id}", UPDATE, None, update, view, stream=True)]
