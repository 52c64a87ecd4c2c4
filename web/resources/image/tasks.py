"""Tasks: how imports went, and the older way to ask for one.

An image's owner sees its tasks; the list of all and their making is admins', as the reference has it. Source: Image
API reference, "Tasks" and "Show tasks associated with image". Next room: `imports.py`.
"""

from __future__ import annotations

from sqlalchemy import select

from ... import fields as web_fields
from ...dispatch import nudge
from ...errors import BadRequest, NotFound
from ...fields import field, mapping, one_of, text
from ...http import Context, build_log
from ...image_sources import parse_uri
from ...models import ImageTask
from ...paging import build_next_link, read_page
from ...policy import ADMIN, READER, rule
from ...routes import Reply, Route
from .images import FIELDS as IMAGE_FIELDS
from .images import build_image
from .imports import start_import
from .rows import find_own, write_time

SORT = {"created_at": ImageTask.created_at, "status": ImageTask.status, "type": ImageTask.type, "id": ImageTask.id}
FIELDS = {
    "type": field(one_of("import"), required=True),
    "input": field(
        mapping(
            {
                "import_from": text(2048, 1),
                "import_from_format": text(64),
                "image_properties": {"type": "object"},
            },
            ("import_from", "image_properties"),
        ),
        required=True,
    ),
}


def index(ctx: Context) -> Reply:
    statement = select(ImageTask)
    for name, column in (("status", ImageTask.status), ("type", ImageTask.type)):
        if name in ctx.query:
            statement = statement.where(column == ctx.query[name])
    page = read_page(
        ctx.session,
        statement,
        ctx.query,
        columns=SORT,
        identity=ImageTask.id,
        default=[("created_at", "desc"), ("id", "desc")],
        maximum=ctx.settings.api.max_limit,
        default_limit=25,
    )
    body = {
        "tasks": [_view_short(row) for row in page.rows],
        "schema": "/v2/schemas/tasks",
        "first": build_next_link("/v2/tasks", ctx.query, "").removesuffix("marker=").rstrip("?&"),
    }
    if page.next_marker:
        body["next"] = build_next_link("/v2/tasks", ctx.query, page.next_marker)
    return Reply(body)


def show(ctx: Context, task_id: str) -> ImageTask:
    task = ctx.session.get(ImageTask, task_id)
    if task is None:
        raise NotFound(f"Failed to find task {task_id}")
    return task


def index_of_image(ctx: Context, image_id: str) -> Reply:
    row = find_own(ctx, image_id, lock=False)
    statement = select(ImageTask).where(ImageTask.image_id == row.id).order_by(ImageTask.created_at, ImageTask.id)
    more = ("image_id", "user_id", "request_id")
    return Reply(
        {
            "tasks": [
                {**view(ctx, task), **{name: getattr(task, name) for name in more}}
                for task in ctx.session.scalars(statement)
            ]
        }
    )


def create(ctx: Context) -> Reply:
    """An image of these properties is made, and imported from the address."""
    asked = ctx.body["input"]
    if "web-download" not in ctx.settings.image.import_methods:
        raise BadRequest("This cloud does not import from addresses.")
    parse_uri(asked["import_from"], ctx.settings)
    properties = web_fields.check(IMAGE_FIELDS, asked["image_properties"], None, "image_properties", True)
    with ctx.write() as session:
        row = build_image(ctx, properties)
        task = start_import(ctx, row, "import", asked, asked["import_from"])
        session.add(build_log(ctx, "POST", 201))
        answer = view(ctx, task)
    nudge(ctx.settings)
    return Reply(answer, 201, {"Location": ctx.url(f"/tasks/{answer['id']}")})


def _view_short(row: ImageTask) -> dict:
    return {
        "id": row.id,
        "type": row.type,
        "status": row.status,
        "owner": row.project_id,
        "created_at": write_time(row.created_at),
        "updated_at": write_time(row.updated_at),
        "expires_at": write_time(row.expires_at) if row.expires_at else None,
        "self": f"/v2/tasks/{row.id}",
        "schema": "/v2/schemas/task",
    }


def view(ctx: Context, row: ImageTask) -> dict:
    result = {"image_id": row.image_id} if row.status == "success" else None
    return {**_view_short(row), "input": row.input, "result": result, "message": row.message}


READ = rule("image:tasks:read", ADMIN)
CREATE = rule("image:tasks:create", ADMIN)
OF_IMAGE = rule("image:images:tasks", READER)
ROUTES = [
    Route("GET", "/tasks", READ, None, index),
    Route("POST", "/tasks", CREATE, FIELDS, create, transaction=False),
    Route("GET", "/tasks/{task_id}", READ, None, show, view),
    Route("GET", "/images/{image_id}/tasks", OF_IMAGE, None, index_of_image),
]
