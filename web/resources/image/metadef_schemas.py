"""JSON schemas of metadata definitions, made from the fields that requests are checked by.

Source: Image API reference, "Metadata definition schemas". Next rooms: `metadef_fields.py`, `schemas.py`.
"""

from __future__ import annotations

from ...http import Context
from ...routes import Reply, Route
from .metadef_fields import ASSOCIATION, DEFINITION, NAMESPACE, NEEDED, OBJECT, PROPERTY, READ_ONLY, TAG
from .schemas import READ

INNER = ("format", "propertyNames", "x-range")  # what only the check of a request knows
_TEXT = {"type": "string"}
_TIMES = {name: {"type": "string", "format": "date-time", "readOnly": True} for name in ("created_at", "updated_at")}


def _clean(schema):
    """A schema in everyone's terms."""
    if isinstance(schema, list):
        return [_clean(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("format") == "bool":
        return {"type": "boolean"}
    if [one.get("type") for one in schema.get("anyOf", [])][1:] == ["null"]:
        return _clean(schema["anyOf"][0])
    return {
        name: value if name in ("enum", "required") else _clean_named(name, value)
        for name, value in schema.items()
        if name not in INNER and name != "pattern" and value != []  # no list may be empty before draft 6
    }


def _clean_named(name: str, value):
    if name == "properties":
        return {key: _clean(one) for key, one in value.items()}
    return _clean(value)


def build_one(name: str, fields: dict) -> dict:
    """The schema of one: {name, properties, required, additionalProperties}."""
    properties = {key: _clean(dict(one.schema)) for key, one in fields.items() if key not in READ_ONLY}
    for key in READ_ONLY:
        if key in fields:
            properties[key] = _TIMES.get(key, {**_TEXT, "readOnly": True})
    required = [key for key, one in fields.items() if one.required]
    return {"name": name, "properties": properties, "required": required, "additionalProperties": False}


def build_list(name: str, one: dict, named: bool = False) -> dict:
    """The schema of a list of them, or (``named``) of an object that has them by name."""
    many = {"type": "object", "additionalProperties": one} if named else {"type": "array", "items": one}
    return {
        "name": name,
        "properties": {name: many, "first": _TEXT, "next": _TEXT, "schema": _TEXT},
        "links": [{"rel": rel, "href": f"{{{href}}}"} for rel, href in LINKS],
    }


LINKS = (("first", "first"), ("next", "next"), ("describedby", "schema"))
_DEFINITION = {
    "name": "property",
    "type": "object",
    "properties": _clean_named("properties", DEFINITION),
    "required": list(NEEDED),
    "additionalProperties": False,
}
_ASSOCIATION = build_one("resource_type_association", ASSOCIATION)
SCHEMAS = {
    "namespace": build_one("namespace", NAMESPACE),
    "resource_type": _ASSOCIATION,
    "property": build_one("property", PROPERTY),
    "object": build_one("object", OBJECT),
    "tag": build_one("tag", TAG),
}
SCHEMAS |= {
    "namespaces": build_list("namespaces", SCHEMAS["namespace"]),
    "resource_types": build_list("resource_type_associations", _ASSOCIATION),
    "properties": build_list("properties", _DEFINITION, named=True),
    "objects": build_list("objects", SCHEMAS["object"]),
    "tags": build_list("tags", SCHEMAS["tag"]),
}


def _show(name: str):
    def show(ctx: Context) -> Reply:
        return Reply(SCHEMAS[name])

    return show


ROUTES = [
    Route("GET", f"/schemas/metadefs/{name}", READ, None, _show(name), transaction=False) for name in sorted(SCHEMAS)
]
