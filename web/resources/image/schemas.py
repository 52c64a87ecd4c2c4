"""JSON schemas of images and members, as clients ask for them; made from the fields that requests are checked by.

Source: Image API reference, "Image schemas". Next room: `images.py`.
"""

from __future__ import annotations

from ...fields import build_schema
from ...http import Context
from ...policy import ANYONE, rule
from ...routes import Reply, Route
from .images import FIELDS
from .rows import BASE, READ_ONLY

_TIME = {"type": "string"}
_MEMBER = {
    "name": "member",
    "properties": {
        "image_id": {"type": "string"},
        "member_id": {"type": "string"},
        "status": {"type": "string", "enum": ["pending", "accepted", "rejected"]},
        "created_at": _TIME,
        "updated_at": _TIME,
        "schema": {"type": "string", "readOnly": True},
    },
}


_TASK = {
    "name": "task",
    "properties": {
        "id": {"type": "string"},
        "type": {"type": "string", "enum": ["import", "api_image_import"]},
        "status": {"type": "string", "enum": ["pending", "processing", "success", "failure"]},
        "input": {"type": ["null", "object"]},
        "result": {"type": ["null", "object"]},
        "message": {"type": "string"},
        "owner": {"type": ["null", "string"]},
        "created_at": _TIME,
        "updated_at": _TIME,
        "expires_at": {"type": ["null", "string"]},
        "self": {"type": "string", "readOnly": True},
        "schema": {"type": "string", "readOnly": True},
    },
}


def _build_property(name: str, known: dict) -> dict:
    schema = {key: value for key, value in known.get(name, {}).items() if key not in ("format", "x-range")}
    if name not in known:
        kind = "integer" if name in ("size", "virtual_size") else "string"
        schema = {"type": kind if name in ("id", "schema", "self", "file") else ["null", kind]}
    if name in READ_ONLY and name != "id":
        schema["readOnly"] = True
    return schema


def build_image_schema() -> dict:
    """The schema of one image: {name, properties, additionalProperties, links}."""
    known = build_schema(FIELDS, None)["properties"]
    names = [*sorted(BASE), "self", "file", "schema", "stores"]
    return {
        "name": "image",
        "properties": {name: _build_property(name, known) for name in names},
        "additionalProperties": {"type": "string"},
        "links": [
            {"rel": "self", "href": "{self}"},
            {"rel": "enclosure", "href": "{file}"},
            {"rel": "describedby", "href": "{schema}"},
        ],
    }


def _build_list(name: str, one: dict) -> dict:
    text = {"type": "string"}
    return {
        "name": name,
        "properties": {
            name: {"type": "array", "items": one},
            "first": text,
            "next": text,
            "schema": text,
        },
        "links": [{"rel": "first", "href": "{first}"}, {"rel": "next", "href": "{next}"}],
    }


def show_image(ctx: Context) -> Reply:
    return Reply(build_image_schema())


def show_images(ctx: Context) -> Reply:
    return Reply(_build_list("images", build_image_schema()))


def show_member(ctx: Context) -> Reply:
    return Reply(_MEMBER)


def show_members(ctx: Context) -> Reply:
    return Reply(_build_list("members", _MEMBER))


def show_task(ctx: Context) -> Reply:
    return Reply(_TASK)


def show_tasks(ctx: Context) -> Reply:
    return Reply(_build_list("tasks", _TASK))


READ = rule("image:schemas:show", ANYONE)
ROUTES = [
    Route("GET", "/schemas/image", READ, None, show_image, transaction=False),
    Route("GET", "/schemas/images", READ, None, show_images, transaction=False),
    Route("GET", "/schemas/member", READ, None, show_member, transaction=False),
    Route("GET", "/schemas/members", READ, None, show_members, transaction=False),
    Route("GET", "/schemas/task", READ, None, show_task, transaction=False),
    Route("GET", "/schemas/tasks", READ, None, show_tasks, transaction=False),
]
