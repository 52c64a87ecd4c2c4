"""Credentials: secrets of users that services need in plain (EC2, one-time passwords), sealed under the token keys.

Everybody has one's own; admins have all. What was made through something handed on sees none of it, if it is
restricted: an EC2 secret would be more than it was given. Source: Identity API reference, "Credentials".
Security case 29. Next rooms: `ec2_credentials.py`, `ec2_tokens.py`, `login_methods.py`.
"""

from __future__ import annotations

import hashlib
import json

from sqlalchemy import or_, select

from ...delegations import check_unrestricted
from ...errors import BadRequest, Conflict, Forbidden, NotFound
from ...fields import HEX_ID, field, nullable, text
from ...grants import read_roles
from ...http import Context
from ...models import Credential, User
from ...paging import read_page
from ...policy import ADMIN, ANYONE, rule
from ...routes import Reply, Route
from .extras import check_id, merge_extra
from .lists import build_link, build_list
from .projects import find_project
from .users import find_user

_FIELDS = {"user_id": field(nullable(HEX_ID)), "project_id": field(nullable(HEX_ID))}
BLOB = text(16384, 1)
FIELDS = {**_FIELDS, "type": field(text(255, 1), required=True), "blob": field(BLOB, secret=True, required=True)}
CHANGES = {**_FIELDS, "type": field(text(255, 1)), "blob": field(BLOB, secret=True)}


def hash_access(access: str) -> str:
    """What an EC2 credential is found by; also its id, for as long as it has the access key it was made with."""
    return hashlib.sha256(access.encode()).hexdigest()


def find_by_access(session, access: str) -> Credential | None:
    """The EC2 credential with that access key."""
    return session.scalar(select(Credential).filter_by(access_hash=hash_access(access)))


def _check_access(ctx: Context, digest: str, but: str = "") -> None:
    taken = or_(Credential.access_hash == digest, Credential.id == digest)
    if ctx.session.scalar(select(Credential.id).where(taken, Credential.id != but)):
        raise Conflict("Conflict occurred attempting to store credential - Duplicate entry found with its access.")


def check_owner(ctx: Context, user_id: str, project_id: str | None, any_project: bool = False) -> User:
    """The user; Forbidden for another one's where the caller is no admin, and for a project the user has no role on.

    With ``any_project`` admins make one for any project there is: it is worth what roles its user has at its use.
    """
    check_unrestricted(ctx.token.delegation)
    if user_id != ctx.token.user_id and not ctx.allows(OTHERS):
        raise Forbidden(f"Policy doesn't allow {OTHERS} to be performed.")
    user = find_user(ctx.session, user_id)
    if project_id is not None:
        admin = ctx.allows(OTHERS)
        if admin:
            find_project(ctx.session, project_id)
        if not (admin and any_project) and not read_roles(ctx.session, user_id, "project", project_id):
            raise Forbidden("A credential can only be for a project that its user has a role on.")
    return user


def _parse_ec2(blob: str, project_id: str | None) -> str:
    """The access key in an EC2 blob; BadRequest where it is none."""
    try:
        parsed = json.loads(blob)
        access, secret = parsed["access"], parsed["secret"]
    except (ValueError, TypeError, KeyError, RecursionError):
        access = secret = None
    if not isinstance(access, str) or not isinstance(secret, str) or not access or not secret:
        raise BadRequest(
            "Invalid input for field/attribute blob: of an ec2 credential it is JSON with access and secret"
        )
    if project_id is None:
        raise BadRequest("Invalid input for field/attribute project_id: an ec2 credential needs one")
    return access


def find_credential(ctx: Context, credential_id: str) -> Credential:
    """One's own, or any for admins; NotFound."""
    check_unrestricted(ctx.token.delegation)
    row = ctx.session.get(Credential, credential_id)
    if row is None or (row.user_id != ctx.token.user_id and not ctx.allows(OTHERS)):
        raise NotFound(f"Could not find credential: {credential_id}.")
    return row


def index(ctx: Context) -> Reply:
    check_unrestricted(ctx.token.delegation)
    statement = select(Credential)
    if not ctx.allows(OTHERS):
        statement = statement.where(Credential.user_id == ctx.token.user_id)
    for name in ("user_id", "type"):
        if ctx.query.get(name):
            statement = statement.where(getattr(Credential, name) == ctx.query[name])
    page = read_page(
        ctx.session,
        statement,
        ctx.query,
        columns={"type": Credential.type, "id": Credential.id},
        identity=Credential.id,
        default=[("id", "asc")],
        maximum=ctx.settings.api.max_limit,
    )
    return build_list(ctx, "credentials", page, view)


def show(ctx: Context, credential_id: str) -> Credential:
    return find_credential(ctx, credential_id)


def create(ctx: Context) -> Credential:
    body = ctx.body
    user_id, project_id = body.get("user_id") or ctx.token.user_id, body.get("project_id")
    check_owner(ctx, user_id, project_id, any_project=True)
    row = Credential(
        user_id=user_id,
        project_id=project_id,
        type=body["type"],
        sealed=ctx.keys.seal_text(body["blob"]),
        extra=merge_extra({}, body, FIELDS),
    )
    if body["type"] == "ec2":
        row.id = row.access_hash = hash_access(_parse_ec2(body["blob"], project_id))
        _check_access(ctx, row.id)
    ctx.session.add(row)
    ctx.session.flush()
    return row


def update(ctx: Context, credential_id: str) -> Credential:
    """A new blob, with another access key, too; whose it is, what for and its type stay (400), and so does its id."""
    row, body = find_credential(ctx, credential_id), ctx.body
    check_id(body, credential_id)
    for name in ("user_id", "project_id", "type"):
        if name in body and body[name] != getattr(row, name):
            raise BadRequest(f"Invalid input for field/attribute {name}: of a credential it cannot be changed")
    if "blob" in body:
        if row.type == "ec2":
            row.access_hash = hash_access(_parse_ec2(body["blob"], row.project_id))
            _check_access(ctx, row.access_hash, but=row.id)
        row.sealed = ctx.keys.seal_text(body["blob"])
    row.extra = merge_extra(row.extra, body, FIELDS)
    ctx.session.flush()
    return row


def delete(ctx: Context, credential_id: str) -> None:
    ctx.session.delete(find_credential(ctx, credential_id))


def view(ctx: Context, row: Credential) -> dict:
    return {
        **row.extra,
        "id": row.id,
        "user_id": row.user_id,
        "project_id": row.project_id,
        "type": row.type,
        "blob": ctx.keys.open_text(row.sealed),
        "links": {"self": build_link(ctx, "credentials", row.id)},
    }


OTHERS = rule("identity:credentials:others", ADMIN)
READ = rule("identity:credentials:read", ANYONE)
CREATE = rule("identity:credentials:create", ANYONE)
UPDATE = rule("identity:credentials:update", ANYONE)
DELETE = rule("identity:credentials:delete", ANYONE)
ROUTES = [
    Route("GET", "/credentials", READ, None, index),
    Route("POST", "/credentials", CREATE, FIELDS, create, view, 201, key="credential", extra=True),
    Route("GET", "/credentials/{credential_id}", READ, None, show, view, key="credential"),
    Route("PATCH", "/credentials/{credential_id}", UPDATE, CHANGES, update, view, key="credential", extra=True),
    Route("DELETE", "/credentials/{credential_id}", DELETE, None, delete),
]
