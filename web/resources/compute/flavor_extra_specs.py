"""A flavor's extra specs: pairs of texts that say more than sizes.

Source: Compute API reference, "Flavors extra-specs"; names are checked from 2.86 on. Of the reference's own namespaces
those alone are accepted then that hosts realise (`web/models/hardware.py`): others would promise what is not done.
"""

from __future__ import annotations

from ...errors import BadRequest, NotFound
from ...fields import field
from ...http import Context
from ...models.hardware import FIXED_SPECS, SPECS, find_unsupported
from ...policy import ADMIN, ANYONE, rule
from ...routes import Reply, Route
from .flavors import find_flavor

KEY = r"^[a-zA-Z0-9\-_:. ]+\Z"
SCHEMA = {
    "type": "object",
    "propertyNames": {"minLength": 1, "maxLength": 255, "pattern": KEY},
    "additionalProperties": {"type": ["string", "number", "boolean"], "maxLength": 255},
}
FIELDS = {"extra_specs": field(SCHEMA, required=True)}
RESERVED = {
    "accel", "aggregate_instance_extra_specs", "capabilities", "hide_hypervisor_id", "hw", "hw_rng", "hw_video", "os",
    "pci_passthrough", "powervm", "quota", "resources", "trait", "vmware",
}  # fmt: skip


def _check_names(ctx: Context, specs: dict) -> dict[str, str]:
    """The specs as texts; from 2.86 on BadRequest for one that nothing here realises."""
    if ctx.version >= (2, 86):
        for name in specs:
            if name in SPECS or name in FIXED_SPECS:
                found = find_unsupported({}, {name: specs[name]})
                if found is not None:
                    raise BadRequest(f"Validation failed; extra spec '{name}' is {found[1]!r}: {found[2]}")
                continue
            space = name.split(":")[0]
            if space in RESERVED or space.startswith(("resources", "trait")):
                raise BadRequest(f"Validation failed; extra spec '{name}' is not realised by any host here")
    return {name: value if isinstance(value, str) else str(value) for name, value in specs.items()}


def index(ctx: Context, flavor_id: str) -> dict:
    return find_flavor(ctx, flavor_id).extra_specs


def create(ctx: Context, flavor_id: str) -> dict:
    flavor = find_flavor(ctx, flavor_id)
    specs = _check_names(ctx, ctx.body["extra_specs"])
    flavor.extra_specs = {**flavor.extra_specs, **specs}
    return specs


def show(ctx: Context, flavor_id: str, key: str) -> dict:
    return {key: _find(ctx, flavor_id, key)}


def update(ctx: Context, flavor_id: str, key: str) -> dict:
    if list(ctx.body) != [key]:
        raise BadRequest(f"Request body and URI mismatch: the body's only key must be {key!r}")
    value = ctx.body[key]
    if not isinstance(value, str | int | float | bool) or len(str(value)) > 255 or len(key) > 255:
        raise BadRequest(f"Invalid input for field/attribute {key[:255]}. It is no text of at most 255 characters.")
    flavor = find_flavor(ctx, flavor_id)
    specs = _check_names(ctx, {key: value})
    flavor.extra_specs = {**flavor.extra_specs, **specs}
    return specs


def delete(ctx: Context, flavor_id: str, key: str) -> Reply:
    """The reference answers 200 with no body."""
    _find(ctx, flavor_id, key)
    flavor = find_flavor(ctx, flavor_id)
    flavor.extra_specs = {name: value for name, value in flavor.extra_specs.items() if name != key}
    return Reply(None, 200)


def _find(ctx: Context, flavor_id: str, key: str) -> str:
    specs = find_flavor(ctx, flavor_id).extra_specs
    if key not in specs:
        raise NotFound(f"Flavor {flavor_id} has no extra specs with key {key}.")
    return specs[key]


def view(ctx: Context, specs: dict) -> dict:
    return specs


LIST = rule("compute:flavor_extra_specs:index", ANYONE)
SHOW = rule("compute:flavor_extra_specs:show", ANYONE)
CREATE = rule("compute:flavor_extra_specs:create", ADMIN)
UPDATE = rule("compute:flavor_extra_specs:update", ADMIN)
DELETE = rule("compute:flavor_extra_specs:delete", ADMIN)
PATH = "/flavors/{flavor_id}/os-extra_specs"
ROUTES = [
    Route("GET", PATH, LIST, None, index, view, reply_key="extra_specs"),
    Route("POST", PATH, CREATE, FIELDS, create, view, reply_key="extra_specs"),
    Route("GET", PATH + "/{key}", SHOW, None, show, view),
    Route("PUT", PATH + "/{key}", UPDATE, {}, update, view, extra=True),
    Route("DELETE", PATH + "/{key}", DELETE, None, delete, None, 200),
]
