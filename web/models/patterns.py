"""Regular expressions that clients may give: RE2's, whose time grows with the text alone, whatever the pattern.

SQLite asks this module for each row; PostgreSQL has an engine of its own, so that only what both understand is let
through. Source: Compute API reference, "List Servers" (``name`` and others "as a regular expression").
"""

from __future__ import annotations

import functools
import re

MOST_REPEATS = 255  # PostgreSQL's bound
PLAIN = re.compile(r"[\w\s:,;@/=%#~'\"<>&!-]*")
UNKNOWN = re.compile(
    r"\(\?(?!:)|\\[^dDsSwW\W]"
)  # groups that say more than (?:…), escapes but for classes of characters


def check_pattern(pattern: str) -> str | None:
    """Why a pattern is none that can be asked for; None where it can."""
    import re2

    options = re2.Options()
    options.log_errors = False
    try:
        re2.compile(pattern, options)
    except re2.error as error:
        reason = error.args[0]
        return f"It is no regular expression: {reason.decode() if isinstance(reason, bytes) else reason}."
    if found := UNKNOWN.search(pattern.replace("\\\\", "")):
        return f"{found[0]} is no part of the regular expressions that can be used here."
    if any(int(number) > MOST_REPEATS for number in re.findall(r"(?<=[{,])\d{1,9}(?=[,}])", pattern)):
        return f"Nothing can be repeated more than {MOST_REPEATS} times."
    return None


def build_match(column, pattern: str):
    """The condition that a text holds the pattern, whatever its case; for what `check_pattern` let through."""
    if PLAIN.fullmatch(pattern):
        return column.icontains(pattern, autoescape=True)
    return column.regexp_match(f"(?i){pattern}")


@functools.lru_cache(256)
def _compile(pattern: str):
    import re2

    return re2.compile(pattern)


def match(pattern: str, text: str | None) -> bool | None:
    """SQLite's ``text REGEXP pattern``."""
    return None if text is None else _compile(pattern).search(text) is not None
