"""Further attributes: what a client says of an object beyond the fields that are known here, kept and told again.

The reference's schemas leave its objects open. Known fields stay checked and always win in answers; what is
kept is bounded (security case 32). Touches no row. Next rooms: the resources that have an `extra` column.
"""

from __future__ import annotations

import json

from ...errors import BadRequest

MOST = 100  # attributes of one object
LONGEST = 255  # characters of a name
LARGEST = 16384  # characters of all of them as JSON
DEEPEST = 16  # lists and objects in each other
TOLD = {"id", "links", "password_expires_at"}  # by this service; clients send them back with what they were shown


def _is_deep(value, left: int) -> bool:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return left < 0 or any(_is_deep(part, left - 1) for part in parts)


def merge_extra(kept: dict, body: dict, known: dict) -> dict:
    """What is kept with the body's attributes that are not in ``known``; null takes one away. BadRequest: too much."""
    given = {name: value for name, value in body.items() if name not in known and name not in TOLD}
    merged = {name: value for name, value in {**kept, **given}.items() if value is not None}
    if not given:
        return merged
    if len(merged) > MOST or any(not 0 < len(name) <= LONGEST for name in given):
        raise BadRequest(f"Invalid input: at most {MOST} further attributes, of names of up to {LONGEST} characters")
    try:
        fits = not _is_deep(merged, DEEPEST) and len(json.dumps(merged, allow_nan=False)) <= LARGEST
    except ValueError:  # NaN and the infinities, which are no JSON
        fits = False
    if not fits:
        raise BadRequest(
            f"Invalid input: further attributes are JSON of at most {LARGEST} characters, {DEEPEST} levels deep"
        )
    return merged


def check_id(body: dict, object_id: str) -> None:
    """BadRequest where the body names another id than the path does."""
    if body.get("id", object_id) != object_id:
        raise BadRequest("Invalid input for field/attribute id: it is another one than in the path")
