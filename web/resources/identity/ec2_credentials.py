"""EC2 credentials: an access key and a secret of a user for a project.

Rows of `credentials.py` in another form. Source: Identity API reference, "OS-EC2". Next room: `ec2_tokens.py`.
"""

from __future__ import annotations

import json
import secrets

from sqlalchemy import select

from ...errors import NotFound
from ...fields import HEX_ID, field
from ...http import Context
from ...models import Credential
from ...policy import ANYONE, rule
from ...routes import Reply, Route
from .credentials import check_owner, find_by_access, hash_access
from .lists import build_link, build_list

FIELDS = {"tenant_id": field(HEX_ID, required=True)}


def _find(ctx: Context, user_id: str, access: str) -> Credential:
    check_owner(ctx, user_id, None)
    row = find_by_access(ctx.session, access)
    if row is None or row.user_id != user_id:
        raise NotFound(f"Could not find credential: {access}.")
    return row


def index(ctx: Context, user_id: str) -> Reply:
    check_owner(ctx, user_id, None)
    statement = select(Credential).where(Credential.user_id == user_id, Credential.type == "ec2")
    return build_list(ctx, "credentials", list(ctx.session.scalars(statement.order_by(Credential.id))), view)


def show(ctx: Context, user_id: str, access: str) -> Reply:
    return Reply({"credential": view(ctx, _find(ctx, user_id, access))})


def create(ctx: Context, user_id: str) -> Reply:
    """For a project that the user has a role on; the keys are made here."""
    project_id = ctx.body["tenant_id"]
    check_owner(ctx, user_id, project_id)
    access, secret = secrets.token_hex(16), secrets.token_hex(16)
    row = Credential(
        id=hash_access(access),
        access_hash=hash_access(access),
        user_id=user_id,
        project_id=project_id,
        type="ec2",
        sealed=ctx.keys.seal_text(json.dumps({"access": access, "secret": secret})),
    )
    ctx.session.add(row)
    ctx.session.flush()
    return Reply({"credential": view(ctx, row)}, 201)


def delete(ctx: Context, user_id: str, access: str) -> None:
    ctx.session.delete(_find(ctx, user_id, access))


def view(ctx: Context, row: Credential) -> dict:
    blob = json.loads(ctx.keys.open_text(row.sealed))
    return {
        "user_id": row.user_id,
        "tenant_id": row.project_id,
        "access": blob["access"],
        "secret": blob["secret"],
        "trust_id": None,
        "links": {"self": build_link(ctx, "users", row.user_id, "credentials", "OS-EC2", blob["access"])},
    }


READ = rule("identity:ec2_credentials:read", ANYONE)
CREATE = rule("identity:ec2_credentials:create", ANYONE)
DELETE = rule("identity:ec2_credentials:delete", ANYONE)
ALL = "/users/{user_id}/credentials/OS-EC2"
ROUTES = [
    Route("GET", ALL, READ, None, index),
    Route("POST", ALL, CREATE, FIELDS, create),
    Route("GET", ALL + "/{access}", READ, None, show),
    Route("DELETE", ALL + "/{access}", DELETE, None, delete),
]
