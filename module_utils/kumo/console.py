"""The last lines of a guest's serial console, as virtlogd writes them.

virtlogd turns ``console.log`` over into ``console.log.0``, ``.1`` …; only the newest two are looked at. What a
guest prints is anything: it is decoded with replacements and bounded, never interpreted.
"""

from __future__ import annotations

from pathlib import Path

LIMIT_BYTES = 64 * 1024


def read_tail(path: Path, lines: int | None) -> str:
    """At most the last ``lines`` lines (all where None), and never more than 64 KiB."""
    data = _read_end(path, LIMIT_BYTES)
    if len(data) < LIMIT_BYTES:
        data = _read_end(path.with_name(path.name + ".0"), LIMIT_BYTES - len(data)) + data
    text = data.decode("utf-8", errors="replace").replace("\r\n", "\n").replace("\x00", "")
    if lines is None:
        return text
    kept = text.splitlines(keepends=True)[-lines:] if lines > 0 else []
    return "".join(kept)


def _read_end(path: Path, count: int) -> bytes:
    try:
        with open(path, "rb") as stream:
            stream.seek(0, 2)
            stream.seek(max(0, stream.tell() - count))
            return stream.read(count)
    except FileNotFoundError:
        return b""
