"""Key pairs: public keys of a user, for the metadata of the servers it creates.

Source: Compute API reference, "Keypairs (keypairs)". API only: nothing of it is realised on hosts.
"""

from __future__ import annotations

from sqlalchemy import func, select

from ...errors import BadRequest, Conflict, NotFound, OverQuota
from ...fields import HEX_ID, NAME, field, one_of, since, text
from ...http import Context
from ...models import Keypair
from ...models.quotas import read_limit_of_user
from ...paging import Page
from ...paging import read_limit as read_page_limit
from ...policy import ANYONE, rule
from ...routes import Route
from .keypair_kinds import build_fingerprint, generate

KEY_NAME = {**NAME, "pattern": "^[a-zA-Z0-9 _-]+$"}
FIELDS = {
    "name": field(KEY_NAME, required=True),
    "public_key": field(text(16384, 1)),
    "type": field(one_of("ssh", "x509"), since("2.2")),
    "user_id": field(HEX_ID, since("2.10")),
}
# From 2.92 on keys are imported only, and names may have the letters of an address.
FIELDS_2_92 = {
    **FIELDS,
    "name": field({**KEY_NAME, "pattern": "^[a-zA-Z0-9 _@.-]+$"}, required=True),
    "public_key": field(text(16384, 1), required=True),
}
QUERY = {"user_id", "limit", "marker"}
VIEW_FIELDS = {"type": field({}, since("2.2"))}


def _user(ctx: Context, given: str | None) -> str:
    if given and given != ctx.token.user_id:
        ctx.policy.check("compute:keypairs:others", ctx.token.credentials(), {"user_id": given})
        return given
    return ctx.token.user_id


def _read_user(ctx: Context) -> str | None:
    """Whose keys the query asks for, which it can from 2.10 on."""
    return ctx.query.get("user_id") if ctx.version >= (2, 10) else None


def _find(ctx: Context, name: str) -> Keypair:
    user = _user(ctx, _read_user(ctx))
    row = ctx.session.execute(select(Keypair).where(Keypair.user_id == user, Keypair.name == name)).scalar()
    if row is None:
        raise NotFound(f"Keypair {name} not found for user {user}")
    return row


def index(ctx: Context) -> Page | list[Keypair]:
    """By name; in pages from 2.35 on."""
    for name in ctx.query:
        if name not in QUERY and ctx.version >= (2, 75):
            raise BadRequest(f"Invalid input for query parameter {name}: Additional properties are not allowed.")
    user = _user(ctx, _read_user(ctx))
    statement = select(Keypair).where(Keypair.user_id == user)
    if ctx.version < (2, 35):
        return list(ctx.session.scalars(statement.order_by(Keypair.name)))
    marker = ctx.query.get("marker")
    if marker and ctx.session.scalar(statement.where(Keypair.name == marker)) is None:
        raise BadRequest(f"Marker {marker[:255]} could not be found.")
    if marker:
        statement = statement.where(Keypair.name > marker)
    limit = read_page_limit(ctx.query, ctx.settings.api.max_limit)
    rows = ctx.session.scalars(statement.order_by(Keypair.name).limit(limit + 1)).all()
    return Page(list(rows[:limit]), rows[limit - 1].name if len(rows) > limit > 0 else None)


def show(ctx: Context, name: str) -> Keypair:
    return _find(ctx, name)


def create(ctx: Context):
    """Without a public key one is generated, and the private key is in this one answer only."""
    user = _user(ctx, ctx.body.get("user_id"))
    name = ctx.body["name"]
    kind = ctx.body.get("type", "ssh")
    used = ctx.session.scalar(select(func.count()).select_from(Keypair).where(Keypair.user_id == user))
    limit = read_limit_of_user(ctx.session, ctx.project_id, user, "key_pairs")
    if limit != -1 and used >= limit:
        raise OverQuota("Quota exceeded, too many key pairs.")
    if ctx.session.execute(select(Keypair.id).where(Keypair.user_id == user, Keypair.name == name)).first():
        raise Conflict(f"Key pair '{name}' already exists.")
    given = ctx.body.get("public_key")
    private, public = (None, given.strip()) if given else generate(kind, user)
    row = Keypair(user_id=user, name=name, type=kind, public_key=public, fingerprint=build_fingerprint(kind, public))
    ctx.session.add(row)
    ctx.session.flush()
    return row, private


def delete(ctx: Context, name: str) -> None:
    ctx.session.delete(_find(ctx, name))


def _view(row: Keypair) -> dict:
    return {
        "name": row.name,
        "public_key": row.public_key,
        "fingerprint": row.fingerprint,
        "type": row.type,
    }


def view_listed(ctx: Context, row: Keypair) -> dict:
    view = _view(row)
    if ctx.version < (2, 2):
        del view["type"]
    return {"keypair": view}


def view_created(ctx: Context, created) -> dict:
    row, private = created
    return {**_view(row), "user_id": row.user_id, **({"private_key": private} if private else {})}


def view_shown(ctx: Context, row: Keypair) -> dict:
    return {
        **_view(row),
        "user_id": row.user_id,
        "id": row.id,
        "created_at": row.created_at.strftime("%Y-%m-%dT%H:%M:%S.%f"),
        "updated_at": None,
        "deleted": False,
        "deleted_at": None,
    }


rule("compute:keypairs:others", "role:admin")
LIST = rule("compute:keypairs:index", ANYONE)
SHOW = rule("compute:keypairs:show", ANYONE)
CREATE = rule("compute:keypairs:create", ANYONE)
DELETE = rule("compute:keypairs:delete", ANYONE)
ROUTES = [
    Route("GET", "/os-keypairs", LIST, None, index, view_listed, reply_key="keypairs"),
    Route("GET", "/os-keypairs/{name}", SHOW, None, show, view_shown, key="keypair", view_fields=VIEW_FIELDS),
    Route(
        "POST",
        "/os-keypairs",
        CREATE,
        FIELDS,
        create,
        view_created,
        200,
        key="keypair",
        view_fields=VIEW_FIELDS,
        until="2.1",
    ),
    Route(
        "POST",
        "/os-keypairs",
        CREATE,
        FIELDS,
        create,
        view_created,
        201,
        key="keypair",
        view_fields=VIEW_FIELDS,
        since="2.2",
        until="2.91",
    ),
    Route(
        "POST",
        "/os-keypairs",
        CREATE,
        FIELDS_2_92,
        create,
        view_created,
        201,
        key="keypair",
        view_fields=VIEW_FIELDS,
        since="2.92",
    ),
    Route("DELETE", "/os-keypairs/{name}", DELETE, None, delete, None, 202, until="2.1"),
    Route("DELETE", "/os-keypairs/{name}", DELETE, None, delete, None, 204, since="2.2"),
]
