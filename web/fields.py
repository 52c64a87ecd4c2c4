"""One field, written once: its JSON Schema, since and until when it exists, in requests and in views.

`build_schema` derives the schema of a request body for one version, `trim` a view. Validation is
jsonschema's. Sources of limits: the API references. Touches no database and no request.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from types import MappingProxyType

import jsonschema
import netaddr

from .errors import BadRequest
from .versions import FOREVER, Version, parse_version


@dataclass(frozen=True)
class Field:
    """``schema`` is JSON Schema; the field exists from ``since`` to ``until`` (both included).

    What was given in a ``secret`` field is in no message: errors are answered and recorded.
    """

    schema: MappingProxyType
    since: Version = (0, 0)
    until: Version = FOREVER
    required: bool = False
    secret: bool = False

    def exists(self, version: Version | None) -> bool:
        return version is None or self.since <= version <= self.until


def since(text: str) -> tuple[str, Version]:
    """The first version that has the field."""
    return "since", parse_version(text)


def until(text: str) -> tuple[str, Version]:
    """The last version that has the field."""
    return "until", parse_version(text)


def field(schema: dict, *bounds: tuple[str, Version], required: bool = False, secret: bool = False) -> Field:
    """A field of that schema, within the bounds."""
    return Field(MappingProxyType(schema), required=required, secret=secret, **dict(bounds))


def nullable(schema: dict) -> dict:
    """The same, or null."""
    return {"anyOf": [schema, {"type": "null"}]}


def text(most: int, least: int = 0) -> dict:
    """A text of ``least`` to ``most`` characters."""
    return {"type": "string", "minLength": least, "maxLength": most}


def whole(least: int, most: int = 2147483647) -> dict:
    """A whole number, also as decimal text (as clients send it)."""
    return {"type": ["integer", "string"], "format": "whole", "x-range": [least, most]}


def one_of(*values) -> dict:
    """One of these values."""
    return {"enum": list(values)}


def items(schema: dict, most: int = 1000, unique: bool = False) -> dict:
    """A list of up to ``most`` of the schema."""
    return {"type": "array", "items": schema, "maxItems": most, "uniqueItems": unique}


def mapping(fields: dict[str, dict], required: tuple = (), extra: bool = False) -> dict:
    """An object of these properties and, without ``extra``, no others."""
    return {
        "type": "object",
        "properties": fields,
        "required": list(required),
        "additionalProperties": extra,
    }


NAME = {"type": "string", "minLength": 1, "maxLength": 255, "format": "name"}
LABEL = text(255)  # a name that may be empty, as in the Network API
TEXT = text(65535)
DESCRIPTION = {"type": ["string", "null"], "maxLength": 255, "format": "printable"}
BOOL = {"type": ["boolean", "string"], "format": "bool"}
UUID = {"type": "string", "format": "uuid"}
HEX_ID = text(64, 1)
IP = {"type": "string", "format": "ip"}
IPV4 = {"type": "string", "format": "ip4"}
IPV6 = {"type": "string", "format": "ip6"}
CIDR = {"type": "string", "format": "cidr"}
MAC = {"type": "string", "format": "mac"}
BASE64 = {"type": "string", "format": "base64", "maxLength": 65535}
METADATA = {
    "type": "object",
    "propertyNames": {"minLength": 1, "maxLength": 255, "pattern": r"^[a-zA-Z0-9\-_:. ]+\Z"},
    "additionalProperties": text(255),
}
NULL = {"type": "null"}
OBJECT = {"type": "object"}
ANY: dict = {}

CHECKER = jsonschema.FormatChecker(formats=[])
TRUE = {True, "true", "True", "TRUE", "1", "t", "T", "yes", "on"}
FALSE = {False, "false", "False", "FALSE", "0", "f", "F", "no", "off"}


def _check(name: str, raises=()):
    return CHECKER.checks(name, raises)


@_check("name")
def _is_name(value) -> bool:
    return not isinstance(value, str) or (bool(value.strip()) and value == value.strip() and value.isprintable())


@_check("printable")
def _is_printable(value) -> bool:
    return not isinstance(value, str) or all(c.isprintable() or c in "\n\r\t" for c in value)


@_check("bool")
def _is_bool(value) -> bool:
    return value in TRUE or value in FALSE


@_check("whole")
def _is_whole(value) -> bool:
    return not isinstance(value, str) or bool(re.fullmatch(r"-?\d{1,18}", value))


@_check("uuid")
def _is_uuid(value) -> bool:
    return not isinstance(value, str) or bool(
        re.fullmatch(r"[0-9a-fA-F]{8}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{12}", value)
    )


@_check("ip")
def _is_ip(value) -> bool:
    return not isinstance(value, str) or bool(netaddr.valid_ipv4(value, 1) or netaddr.valid_ipv6(value))


@_check("ip4")
def _is_ip4(value) -> bool:
    return not isinstance(value, str) or bool(netaddr.valid_ipv4(value, 1))


@_check("ip6")
def _is_ip6(value) -> bool:
    return not isinstance(value, str) or bool(netaddr.valid_ipv6(value))


@_check("cidr", raises=(netaddr.AddrFormatError, ValueError))
def _is_cidr(value) -> bool:
    return not isinstance(value, str) or (netaddr.IPNetwork(value) is not None and "/" in value)


@_check("mac")
def _is_mac(value) -> bool:
    return not isinstance(value, str) or bool(re.fullmatch(r"([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}", value))


@_check("base64")
def _is_base64(value) -> bool:
    return not isinstance(value, str) or bool(re.fullmatch(r"[A-Za-z0-9+/\s]*={0,2}\s*", value))


def as_bool(value) -> bool:
    """True or false of what BOOL lets through."""
    return value in TRUE


def _check_range(validator, bounds, instance, schema):
    if isinstance(instance, bool):
        yield jsonschema.ValidationError(f"{instance!r} is not a whole number")
    elif isinstance(instance, int) or (isinstance(instance, str) and re.fullmatch(r"-?\d{1,18}", instance)):
        number = int(instance)
        if not bounds[0] <= number <= bounds[1]:
            yield jsonschema.ValidationError(f"{number} is not between {bounds[0]} and {bounds[1]}")


Validator = jsonschema.validators.extend(jsonschema.Draft202012Validator, {"x-range": _check_range})


def build_schema(fields: dict[str, Field], version: Version | None, extra: bool = False) -> dict:
    """The JSON Schema of an object with the fields that exist at ``version``."""
    present = {name: one for name, one in fields.items() if one.exists(version)}
    return {
        "type": "object",
        "properties": {name: dict(one.schema) for name, one in present.items()},
        "required": [name for name, one in present.items() if one.required],
        "additionalProperties": extra,
    }


@functools.lru_cache(maxsize=4096)
def _validator(key: tuple, version: Version | None, extra: bool):
    return Validator(build_schema(_TABLES[key[0]], version, extra), format_checker=CHECKER)


_TABLES: dict[int, dict[str, Field]] = {}


def check(fields: dict[str, Field], value, version: Version | None, where: str, extra: bool = False) -> dict:
    """``value`` where it fits the fields at ``version``; BadRequest naming the first field that does not.

    Booleans and whole numbers that came as text are turned into what they mean.
    """
    _TABLES.setdefault(id(fields), fields)
    validator = _validator((id(fields),), version, extra)
    error = next(iter(sorted(validator.iter_errors(value), key=lambda e: [str(part) for part in e.path])), None)
    if error is not None:
        raise BadRequest(_describe(error, where, fields))
    return {name: _turn(dict(fields[name].schema), item) if name in fields else item for name, item in value.items()}


def _describe(error, where: str, fields: dict[str, Field]) -> str:
    if not error.absolute_path and error.validator == "type":
        return f"Invalid input for field/attribute {where}: it is no object"
    while error.context:  # the branch of anyOf that came nearest says most
        error = max(error.context, key=lambda e: len(e.path))
    path = "/".join(str(part) for part in error.absolute_path)
    if error.validator == "additionalProperties":
        return f"Invalid input in {path or where}: {error.message}"
    if error.validator == "required":
        return f"Invalid input in {path or where}: {error.message}"
    first = error.absolute_path[0] if error.absolute_path else None
    if first in fields and fields[first].secret:
        return f"Invalid input for field/attribute {path}: it fails the check {error.validator!r}"
    value = repr(error.instance)
    value = value if len(value) <= 120 else value[:117] + "…"
    message = error.message if len(error.message) < 300 else f"it fails the check {error.validator!r}"
    if error.validator == "maxLength":
        message = f"{len(error.instance)} characters are too long, at most {error.validator_value} are allowed"
    elif error.validator == "format":
        message = f"it is no valid {error.validator_value}"
    return f"Invalid input for field/attribute {path or where}. Value: {value}. {message}"


def _turn(schema: dict, value):
    options = schema.get("anyOf", [schema])
    formats = {option.get("format") for option in options}
    if "bool" in formats and (value in TRUE or value in FALSE):
        return as_bool(value)
    if "whole" in formats and isinstance(value, str) and value:
        return int(value)
    return value


def trim(fields: dict[str, Field], view: dict, version: Version | None) -> dict:
    """A view without the fields that do not exist at ``version``; names the table does not know stay."""
    if version is None:
        return view
    return {name: item for name, item in view.items() if name not in fields or fields[name].exists(version)}
