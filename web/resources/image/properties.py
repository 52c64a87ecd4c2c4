"""Properties of images that their owners choose: names, values, and how many.

Source: Image API reference, "Properties"; limits are those of a default installation. Touches no row.
"""

from __future__ import annotations

from ...errors import BadRequest, TooLarge

MOST = 128
LONGEST_NAME = 255
LONGEST_VALUE = 65535


def check_properties(properties: dict) -> None:
    """BadRequest naming the property that cannot be; TooLarge beyond MOST of them."""
    if len(properties) > MOST:
        raise TooLarge(f"The limit of {MOST} properties of an image is exceeded: {len(properties)}.")
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
