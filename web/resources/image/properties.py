"""Properties and tags of images that their owners choose: names, values, and how many.

Source: Image API reference, "Properties"; how many is a setting. Touches no row.
"""

from __future__ import annotations

from ...errors import BadRequest, TooLarge

LONGEST_NAME = 255
LONGEST_VALUE = 65535


def check_tags(tags: list[str], most: int) -> list[str]:
    """The tags as they are stored; TooLarge beyond ``most`` of them."""
    found = sorted(set(tags))
    if len(found) > most:
        raise TooLarge(f"The limit of {most} tags of an image is exceeded: {len(found)}.")
    return found


def check_properties(properties: dict, most: int) -> None:
    """BadRequest naming the property that cannot be; TooLarge beyond ``most`` of them."""
    if len(properties) > most:
        raise TooLarge(f"The limit of {most} properties of an image is exceeded: {len(properties)}.")
    for name, value in properties.items():
        if not 0 < len(name) <= LONGEST_NAME or not name.isprintable():
            shown = name[:50] if name.isprintable() else repr(name[:50])
            raise BadRequest(
                f"Invalid input for property {shown}: its name must have 1 to {LONGEST_NAME} printable characters"
            )
        if not isinstance(value, str):
            raise BadRequest(f"Invalid input for property {name}: {value!r:.60} is no text")
        if len(value) > LONGEST_VALUE:
            raise BadRequest(f"Invalid input for property {name}: at most {LONGEST_VALUE} characters are allowed")
        if "\x00" in value:
            raise BadRequest(f"Invalid input for property {name}: it has a NUL character")
