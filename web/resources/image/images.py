"""Images: what is known of each; its bytes come and go through `files.py`.

Deleting ends an image for every caller at once (and a second delete is a 404); its bytes stay on disk
for as long as a server that uses it was never seen built, since its host may still have to fetch them.
`remove_unneeded` clears them: after each delete, and whenever the worker calls it. Source: Image API
reference, "Images". Next rooms: `changes.py` (PATCH), `rows.py` (who sees what).
"""

from __future__ import annotations

from ...errors import Conflict, Forbidden
from ...fields import BOOL, UUID, field, items, nullable, one_of, text, whole
from ...http import Context, build_log
from ...image_cleanup import remove_unneeded
from ...image_imports import STORE
from ...image_quotas import check_image_quota
from ...models import Image, now
from ...paging import build_next_link, read_page
from ...policy import ADMIN, MEMBER, READER, rule
from ...routes import Reply, Route
from ...server_images import forget_server_image
from .filters import apply_filters, check_sort, read_choice
from .properties import check_properties, check_tags
from .rows import OTHERS, READ_ONLY, find_image, find_own, free_abandoned, is_reserved, select_listed, view

VISIBILITIES = ("public", "community", "shared", "private")
DISK_FORMATS = ("ami", "ari", "aki", "raw", "qcow2", "iso", "vmdk", "vdi", "vhd", "vhdx")
CONTAINER_FORMATS = ("bare", "ami", "ari", "aki")
TAGS = items({**text(255, 1), "format": "printable"}, 100_000)  # how many: check_tags
FIELDS = {
    "id": field(UUID),
    "name": field(nullable({**text(255), "format": "printable"})),
    "visibility": field(one_of(*VISIBILITIES)),
    "owner": field(nullable(text(255, 1))),
    "protected": field(BOOL),
    "os_hidden": field(BOOL),
    "disk_format": field(one_of(*DISK_FORMATS, None)),
    "container_format": field(one_of(*CONTAINER_FORMATS, None)),
    "min_disk": field(whole(0)),
    "min_ram": field(whole(0)),
    "tags": field(TAGS),
}
SORT = {
    "name": Image.name,
    "status": Image.status,
    "container_format": Image.container_format,
    "disk_format": Image.disk_format,
    "size": Image.size,
    "id": Image.id,
    "created_at": Image.created_at,
    "updated_at": Image.updated_at,
}
PAGE = 25


def check_visibility(ctx: Context, visibility: str) -> None:
    """Forbidden where the caller may not make an image everyone's."""
    if visibility == "public":
        ctx.policy.check(PUBLICIZE, ctx.token.credentials(), {"project_id": ctx.token.project_id})


def index(ctx: Context) -> Reply:
    query = ctx.query
    check_sort(query)
    visibility = read_choice(query, "visibility", (*VISIBILITIES, "all"))
    member_status = read_choice(query, "member_status", ("pending", "accepted", "rejected", "all"))
    with ctx.database.read() as session:
        ctx.session = session
        statement = select_listed(ctx, visibility, member_status or "accepted")
        page = read_page(
            session,
            apply_filters(ctx, statement),
            query,
            columns=SORT,
            identity=Image.id,
            default=[("created_at", "desc"), ("id", "desc")],
            maximum=ctx.settings.api.max_limit,
            default_limit=PAGE,
        )
    free_abandoned(ctx, page.rows)
    body = {
        "images": [view(ctx, row) for row in page.rows],
        "schema": "/v2/schemas/images",
        "first": build_next_link("/v2/images", query, "").removesuffix("marker=").rstrip("?&"),
    }
    if page.next_marker:
        body["next"] = build_next_link("/v2/images", query, page.next_marker)
    return Reply(body)


def show(ctx: Context, image_id: str) -> Image:
    with ctx.database.read() as session:
        ctx.session = session
        row = find_image(ctx, image_id)
    free_abandoned(ctx, [row])
    return row


def create(ctx: Context) -> Reply:
    row = build_image(ctx, ctx.body)
    headers = {"Location": ctx.url(f"/images/{row.id}")}
    if ctx.settings.image.import_methods:
        headers["OpenStack-image-import-methods"] = ",".join(ctx.settings.image.import_methods)
        headers["OpenStack-image-store-ids"] = STORE
    return Reply(view(ctx, row), 201, headers)


def build_image(ctx: Context, body: dict) -> Image:
    """A queued image, without bytes, of a body that FIELDS has checked; in the caller's transaction."""
    properties = {name: value for name, value in body.items() if name not in FIELDS}
    for name in properties:
        if name in READ_ONLY or is_reserved(name):
            raise Forbidden(f"Attribute '{name}' is read-only or reserved.")
    check_properties(properties, ctx.settings.image.max_properties)
    tags = check_tags(body.get("tags", []), ctx.settings.image.max_tags)
    owner = body.get("owner") or ctx.project_id
    if owner != ctx.token.project_id:
        ctx.policy.check(OTHERS, ctx.token.credentials(), {})
    visibility = body.get("visibility", "shared")
    check_visibility(ctx, visibility)
    check_image_quota(ctx.session, owner)
    given = {name: body[name] for name in FIELDS if name in body and name not in ("id", "owner", "tags", "visibility")}
    row = Image(project_id=owner, visibility=visibility, properties=properties, tags=tags, **given)
    if "id" in body:
        row.id = _normalise(body["id"])
        if ctx.session.get(Image, row.id) is not None:
            raise Conflict(f"Image ID {row.id} already exists!")
    ctx.session.add(row)
    ctx.session.flush()
    return row


def _normalise(given: str) -> str:
    digits = given.replace("-", "").lower()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def delete(ctx: Context, image_id: str) -> Reply:
    """In every status, unless it is protected (403). An upload under way ends with 410."""
    with ctx.write() as session:
        row = find_own(ctx, image_id)
        if row.protected:
            raise Forbidden(f"Image {image_id} is protected and cannot be deleted.")
        row.status, row.deleted_at, row.upload_id = "deleted", now(), None
        session.add(build_log(ctx, "DELETE", 204))
    with ctx.write() as session:
        forget_server_image(session, image_id, ctx.request_id)
    remove_unneeded(ctx.database, ctx.settings.image.store_dir)
    return Reply(None, 204)


def _set_active(ctx: Context, image_id: str, source: str, target: str) -> Reply:
    row = find_own(ctx, image_id)
    if row.status not in (source, target):
        raise Forbidden(f"Not allowed to set image {image_id} from status {row.status} to {target}.")
    row.status = target
    return Reply(None, 204)


def deactivate(ctx: Context, image_id: str) -> Reply:
    """Nobody but admins can download it or build from it until it is reactivated."""
    return _set_active(ctx, image_id, "active", "deactivated")


def reactivate(ctx: Context, image_id: str) -> Reply:
    return _set_active(ctx, image_id, "deactivated", "active")


READ = rule("image:images:read", READER)
CREATE = rule("image:images:create", MEMBER)
DELETE = rule("image:images:delete", MEMBER)
PUBLICIZE = rule("image:images:publicize", ADMIN)
DEACTIVATE = rule("image:images:deactivate", MEMBER)
REACTIVATE = rule("image:images:reactivate", MEMBER)
ROUTES = [
    Route("GET", "/images", READ, None, index, transaction=False),
    Route("POST", "/images", CREATE, FIELDS, create, extra=True),
    Route("GET", "/images/{image_id}", READ, None, show, view, transaction=False),
    Route("DELETE", "/images/{image_id}", DELETE, None, delete, transaction=False),
    Route("POST", "/images/{image_id}/actions/deactivate", DEACTIVATE, None, deactivate),
    Route("POST", "/images/{image_id}/actions/reactivate", REACTIVATE, None, reactivate),
]
