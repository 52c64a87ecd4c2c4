"""Application credentials: a program's own secret for some of its user's roles on one project.

The secret is answered once and kept as passwords are. It ends with its user, its project, any of its roles,
its time or its deletion: `web/delegations.py` looks at every check. Source: Identity API reference,
"Application Credentials". Next room: `login_methods.py`, where it is a way to a token.
"""

from __future__ import annotations

import secrets

from sqlalchemy import select

from ...auth import hash_password
from ...delegations import check_unrestricted
from ...errors import BadRequest, Conflict, Forbidden, NotFound
from ...fields import BOOL, HEX_ID, NAME, field, items, mapping, nullable, text
from ...http import Context, build_log
from ...models import AppCredential, Role, now
from ...policy import ANYONE, rule
from ...routes import Reply, Route
from .access_rules import RULES, store_access_rules
from .lists import build_link, build_list, filter_texts, parse_time, write_bare_time
from .users import check_own, find_user

FIELDS = {
    "name": field(NAME, required=True),
    "description": field(nullable(text(4096))),
    "secret": field(nullable(text(255, 1)), secret=True),
    "expires_at": field(nullable(text(64))),
    "roles": field(items(mapping({"id": HEX_ID, "name": text(255, 1)}), 100)),
    "unrestricted": field(nullable(BOOL)),
    "access_rules": field(RULES),
}


def _choose_roles(ctx: Context, given: list[dict] | None) -> list[str]:
    """Ids of the roles asked for, or all the token has; BadRequest for one that the token does not have."""
    held = dict(ctx.token.roles)
    if not given:
        return sorted(held)
    chosen = set()
    for one in given:
        fitting = [i for i, name in held.items() if one.get("id", i) == i and one.get("name", name) == name]
        if len(fitting) != 1 or not one:
            raise BadRequest("Invalid application credential: roles can only be those of the token it is made with.")
        chosen.update(fitting)
    return sorted(chosen)


def find_application_credential(session, user_id: str, credential_id: str) -> AppCredential:
    """That of this user; NotFound."""
    row = session.get(AppCredential, credential_id)
    if row is None or row.user_id != user_id:
        raise NotFound(f"Could not find Application Credential: {credential_id}.")
    return row


def index(ctx: Context, user_id: str) -> Reply:
    """One's own, or any user's for admins."""
    check_own(ctx, user_id)
    statement = select(AppCredential).where(AppCredential.user_id == user_id).order_by(AppCredential.name)
    rows = ctx.session.scalars(filter_texts(ctx, statement, {"name": AppCredential.name}))
    return build_list(ctx, "application_credentials", list(rows), view)


def show(ctx: Context, user_id: str, application_credential_id: str) -> AppCredential:
    check_own(ctx, user_id)
    return find_application_credential(ctx.session, user_id, application_credential_id)


def create(ctx: Context, user_id: str) -> Reply:
    """For oneself, with a token of the project it is for. The secret is in this answer and in no other."""
    body = ctx.body
    if user_id != ctx.token.user_id:
        raise Forbidden("An application credential can only be made by the user it is of.")
    check_unrestricted(ctx.token.delegation)
    project_id, role_ids = ctx.project_id, _choose_roles(ctx, body.get("roles"))
    expires_at = parse_time(body.get("expires_at"), "expires_at")
    if expires_at is not None and expires_at <= now():
        raise BadRequest("Invalid input for field/attribute expires_at: it is in the past")
    secret = body.get("secret") or secrets.token_urlsafe(64)
    hashed = hash_password(secret, ctx.settings.identity.password_rounds)
    with ctx.write() as session:
        find_user(session, user_id, lock=True)
        if session.scalar(select(AppCredential.id).filter_by(user_id=user_id, name=body["name"])):
            raise Conflict(
                "Conflict occurred attempting to store application_credential - "
                f"Duplicate entry found with name {body['name']}."
            )
        row = AppCredential(
            user_id=user_id,
            project_id=project_id,
            name=body["name"],
            description=body.get("description"),
            secret_hash=hashed,
            role_ids=role_ids,
            unrestricted=bool(body.get("unrestricted")),
            expires_at=expires_at,
            access_rules=store_access_rules(session, user_id, body.get("access_rules", [])),
        )
        session.add(row)
        session.flush()
        session.add(build_log(ctx, "POST", 201))
        told = view(ctx, row)
    return Reply({"application_credential": {**told, "secret": secret}}, 201)


def delete(ctx: Context, user_id: str, application_credential_id: str) -> None:
    """Tokens made with it end at once."""
    check_own(ctx, user_id)
    check_unrestricted(ctx.token.delegation)
    ctx.session.delete(find_application_credential(ctx.session, user_id, application_credential_id))


def view(ctx: Context, row: AppCredential) -> dict:
    roles = ctx.session.scalars(select(Role).where(Role.id.in_(row.role_ids)).order_by(Role.name))
    body = {
        "id": row.id,
        "name": row.name,
        "description": row.description,
        "user_id": row.user_id,
        "project_id": row.project_id,
        "roles": [{"id": role.id, "name": role.name, "domain_id": role.domain_id} for role in roles],
        "unrestricted": row.unrestricted,
        "expires_at": write_bare_time(row.expires_at),
        "links": {"self": build_link(ctx, "users", row.user_id, "application_credentials", row.id)},
    }
    return body | ({"access_rules": row.access_rules} if row.access_rules else {})


READ = rule("identity:application_credentials:read", ANYONE)
CREATE = rule("identity:application_credentials:create", ANYONE)
DELETE = rule("identity:application_credentials:delete", ANYONE)
ALL = "/users/{user_id}/application_credentials"
ONE = ALL + "/{application_credential_id}"
KEY = "application_credential"
ROUTES = [
    Route("GET", ALL, READ, None, index),
    Route("POST", ALL, CREATE, FIELDS, create, key=KEY, transaction=False),
    Route("GET", ONE, READ, None, show, view, key=KEY),
    Route("DELETE", ONE, DELETE, None, delete),
]
