"""The form of a host document: as much of JSON Schema as `web/desired/document.py` uses.

A host has no package for it, and a run has no time for one: `document.json` is that schema, written at install.
Next room: `policy.py`, which looks at the values.
"""

import re

TYPES = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None), "integer": int}
KNOWN = {
    "$schema", "title", "description", "default", "examples",
    "type", "enum", "const", "pattern", "properties", "required", "additionalProperties", "items", "anyOf", "minimum",
}  # fmt: skip


class SchemaError(Exception):
    """The document is not of this form: where, and what it should be."""


def is_type(value, name: str) -> bool:
    """Whether a value is of a schema's type (True is no number)."""
    return isinstance(value, TYPES[name]) and not (name == "integer" and isinstance(value, bool))


def check(value, schema, where: str) -> None:
    """SchemaError where ``value`` is not as ``schema`` has it; a keyword that is not known here refuses too."""
    if not isinstance(schema, dict) or not set(schema) <= KNOWN:
        raise SchemaError(f"{where}: this helper does not understand its schema; run `kumo host prepare`")
    if "anyOf" in schema:
        return _check_any(value, schema["anyOf"], where)
    if "enum" in schema and not any(value == known and type(value) is type(known) for known in schema["enum"]):
        raise SchemaError(f"{where} is none of {schema['enum']}")
    if "const" in schema and value != schema["const"]:
        raise SchemaError(f"{where} is not {schema['const']!r}")
    if "type" in schema:
        names = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        if not any(is_type(value, name) for name in names):
            raise SchemaError(f"{where} is no {' or '.join(names)}")
    if isinstance(value, str):
        # `$` in Python also matches before a last newline.
        if "pattern" in schema and (not re.search(schema["pattern"], value) or value.endswith("\n")):
            raise SchemaError(f"{where} is not like {schema['pattern']}")
    elif isinstance(value, dict):
        _check_object(value, schema, where)
    elif isinstance(value, list) and "items" in schema:
        for index, item in enumerate(value):
            check(item, schema["items"], f"{where}[{index}]")
    elif "minimum" in schema and value < schema["minimum"]:
        raise SchemaError(f"{where} is below {schema['minimum']}")
    return None


def _check_any(value, schemas: list, where: str) -> None:
    problems = []
    for schema in schemas:
        try:
            return check(value, schema, where)
        except SchemaError as error:
            problems.append(str(error))
    # The longest names the deepest place: the form that was meant.
    raise SchemaError(max(problems, key=len))


def _check_object(value: dict, schema: dict, where: str) -> None:
    properties = schema.get("properties", {})
    for name in schema.get("required", ()):
        if name not in value:
            raise SchemaError(f"{where}.{name} is missing")
    others = schema.get("additionalProperties", True)
    for name, item in value.items():
        if name in properties:
            check(item, properties[name], f"{where}.{name}")
        elif others is False:
            raise SchemaError(f"{where}.{name[:40]!r} is not known to this host")
        elif isinstance(others, dict):
            check(item, others, f"{where}.{name[:40]}")
