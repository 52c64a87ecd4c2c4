"""Tags of projects, one by one. Source: Identity API reference, "Project Tags". Next room: `projects.py`."""

from __future__ import annotations

from ...errors import BadRequest, NotFound
from ...fields import field
from ...http import Context
from ...models import Domain, Project
from ...policy import ADMIN, ANYONE, rule
from ...routes import Reply, Route
from . import projects
from .lists import TAGS
from .projects import find_any

FIELDS = {"tags": field(TAGS, required=True)}
MOST = TAGS["maxItems"]


def _tell(ctx: Context, row: Project | Domain, status: int = 200) -> Reply:
    return Reply({"tags": list(row.tags), "links": {"self": ctx.url(f"/projects/{row.id}/tags")}}, status)


def _check_tagged(ctx: Context, row: Project | Domain, tag: str) -> None:
    if tag not in row.tags:
        raise NotFound(f"Could not find project tag: {tag}.")


def index(ctx: Context, project_id: str) -> Reply:
    return _tell(ctx, projects.show(ctx, project_id))


def show(ctx: Context, project_id: str, tag: str) -> Reply:
    """204 where the project has the tag, 404 where not."""
    _check_tagged(ctx, projects.show(ctx, project_id), tag)
    return Reply(None, 204)


def update(ctx: Context, project_id: str) -> Reply:
    """These tags and no others."""
    row = find_any(ctx.session, project_id)
    row.tags = sorted(ctx.body["tags"])
    return _tell(ctx, row)


def create(ctx: Context, project_id: str, tag: str) -> Reply:
    """One more; one that is there stays."""
    row = find_any(ctx.session, project_id)
    tags = sorted({*row.tags, tag})
    if len(tag) > 255 or "," in tag or len(tags) > MOST:
        raise BadRequest(f"Invalid input for field/attribute tags: at most {MOST}, of 255 characters without a comma")
    row.tags = tags
    return Reply(None, 201, {"Location": ctx.url(f"/projects/{row.id}/tags")})


def delete(ctx: Context, project_id: str, tag: str) -> None:
    row = find_any(ctx.session, project_id)
    _check_tagged(ctx, row, tag)
    row.tags = [one for one in row.tags if one != tag]


def delete_all(ctx: Context, project_id: str) -> None:
    find_any(ctx.session, project_id).tags = []


READ = rule("identity:project_tags:read", ANYONE)
WRITE = rule("identity:project_tags:write", ADMIN)
ALL = "/projects/{project_id}/tags"
ROUTES = [
    Route("GET", ALL, READ, None, index),
    Route("PUT", ALL, WRITE, FIELDS, update),
    Route("DELETE", ALL, WRITE, None, delete_all),
    Route("GET", ALL + "/{tag}", READ, None, show),
    Route("PUT", ALL + "/{tag}", WRITE, None, create),
    Route("DELETE", ALL + "/{tag}", WRITE, None, delete),
]
