"""What bodies of metadata definitions may have: the fields of namespaces and of what is in them.

What is shown may be sent back as it is: read-only attributes of a body are dropped. Source: Image API reference,
"Metadata definition schemas". Next rooms: `metadef_rows.py`, `metadef_schemas.py`.
"""

from __future__ import annotations

import json

from ...errors import BadRequest
from ...fields import BOOL, NAME, field, items, mapping, nullable, one_of, text

TYPES = ("array", "boolean", "integer", "number", "object", "string")
LABEL = {**NAME, "maxLength": 80, "pattern": r"^[^/]*\Z"}  # a name in a path
PROSE = {**text(65535), "format": "printable"}
COUNT = {"type": "integer", "minimum": 0, "maximum": 2147483647}
NAMES = items(text(255), unique=True)
FLAG = {"type": "boolean"}
DEFINITION = {
    "title": {**text(255), "format": "printable"},
    "description": PROSE,
    "type": one_of(*TYPES),
    "operators": items(text(255)),
    "required": NAMES,
    "minimum": {"type": "number"},
    "maximum": {"type": "number"},
    "minLength": COUNT,
    "maxLength": COUNT,
    "pattern": text(65535),
    "enum": items({}),
    "readonly": FLAG,
    "default": {},
    "items": mapping({"type": one_of(*TYPES), "enum": items({})}),
    "minItems": COUNT,
    "maxItems": COUNT,
    "uniqueItems": FLAG,
    "additionalItems": FLAG,
}
NEEDED = ("title", "type")
_DEFINITIONS = {
    "type": "object",
    "propertyNames": LABEL,
    "additionalProperties": mapping({"name": LABEL, **DEFINITION}, NEEDED),
    "maxProperties": 1000,
}
_STAMP = field(nullable(text(255)))
READ_ONLY = dict.fromkeys(("created_at", "updated_at", "self", "schema"), _STAMP)

PROPERTY = {
    "name": field(LABEL, required=True),
    **{name: field(schema, required=name in NEEDED) for name, schema in DEFINITION.items()},
}
OBJECT = {
    "name": field(LABEL, required=True),
    "description": field(nullable(PROSE)),
    "required": field(NAMES),
    "properties": field(_DEFINITIONS),
    **READ_ONLY,
}
TAG = {"name": field(LABEL, required=True), **READ_ONLY}
ASSOCIATION = {
    "name": field(LABEL, required=True),
    "prefix": field(nullable({**text(80), "format": "printable"})),
    "properties_target": field(nullable({**text(80), "format": "printable"})),
    **READ_ONLY,
}


def _nest(fields: dict) -> dict:
    """The schema of a list of such bodies."""
    required = tuple(name for name, one in fields.items() if one.required)
    return items(mapping({name: dict(one.schema) for name, one in fields.items()}, required))


TAGS = {"tags": field(_nest(TAG), required=True)}
NAMESPACE = {
    "namespace": field(LABEL, required=True),
    "display_name": field(nullable({**text(80), "format": "printable"})),
    "description": field(nullable({**text(500), "format": "printable"})),
    "visibility": field(one_of("public", "private")),
    "protected": field(BOOL),
    "owner": field(nullable(text(255, 1))),
    "resource_type_associations": field(_nest(ASSOCIATION)),
    "properties": field(_DEFINITIONS),
    "objects": field(_nest(OBJECT)),
    "tags": field(_nest(TAG)),
    **READ_ONLY,
}


def check_storable(value) -> None:
    """BadRequest where it has a number or a text that no database stores: NaN, infinity, half a character."""
    try:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except ValueError:
        raise BadRequest("Malformed request body: it has a number or a text that cannot be stored") from None
