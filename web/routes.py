"""The rows of a resource's table, and what a handler may answer with as it is.

Owns `Route`, `Service` and `Reply`: data without behaviour. Next room: `http.py`, the pipeline they are for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from .versions import FOREVER, Version, parse_version


@dataclass(frozen=True)
class Route:
    """One row of a resource's table.

    HEAD is answered as GET is, unless it has a row of its own.

    ``permission`` is None for what needs no token. ``fields`` is the body's table (None: no body).
    ``key`` wraps the request's body and, unless ``reply_key`` says otherwise, the answer; an empty
    text is no wrapping. ``action`` is the only key of the body of `POST …/action`. ``bulk`` is the
    plural key under which a list of bodies may come instead. ``outer`` are fields beside ``key``.
    ``extra`` lets fields through that the table does not know.
    """

    method: str
    path: str
    permission: str | None
    fields: dict | None = None
    handler: Callable | None = None
    view: Callable | None = None
    status: int = 200
    key: str = ""
    reply_key: str | None = None
    action: str | None = None
    bulk: str | None = None
    outer: dict | None = None
    extra: bool = False
    view_fields: dict | None = None
    since: str = "0.0"
    until: str = ""
    stream: bool = False
    transaction: bool = True
    root: bool = False  # outside the service's version prefix (version documents)

    def exists(self, version: Version | None) -> bool:
        if version is None:
            return True
        low = (0, 0) if self.since == "0.0" else parse_version(self.since)
        high = parse_version(self.until) if self.until else FOREVER
        return low <= version <= high


@dataclass(frozen=True)
class Service:
    """One API: where it is mounted and what it serves. ``project_paths``: /v2.1/{project_id}/… too.

    ``slashes``: a path with a slash at its end is the same path; else it names a thing without a name, which is none.
    """

    name: str
    type: str
    title: str
    prefix: str
    version_path: str
    port: int
    routes: list[Route]
    project_paths: bool = False
    catalog_path: str | None = None  # what the catalog adds to the prefix; None: version_path
    slashes: bool = True


@dataclass
class Reply:
    """An answer sent as it is: ``body`` is a dict (JSON), text, bytes or an iterable of bytes."""

    body: object = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    content_type: str = "application/json"
