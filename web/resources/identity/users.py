"""Users: accounts with a password; admins make and change them, everyone sees oneself.

Passwords are hashed outside every transaction, and neither they nor their hashes are in any answer.
Source: Identity API reference, "Users". Security case 30. Next room: `passwords.py`.
"""

from __future__ import annotations

from sqlalchemy import delete as sql_delete
from sqlalchemy import select

from ...auth import hash_password
from ...errors import BadRequest, Conflict, Forbidden, NotFound
from ...fields import BOOL, HEX_ID, NAME, OBJECT, field, items, nullable, text
from ...grants import read_targets
from ...http import Context, build_log
from ...models import (
    AccessRule,
    AppCredential,
    Assignment,
    Credential,
    Keypair,
    LoginFailure,
    Membership,
    Project,
    User,
    now,
)
from ...paging import read_page
from ...policy import ADMIN, ANYONE, rule
from ...routes import Reply, Route
from . import projects
from .domains import choose_domain_id
from .extras import check_id, merge_extra
from .lists import build_link, build_list, filter_texts, read_flag
from .user_options import OPTIONS, merge_options

PASSWORD = text(4096, 1)
_COMMON = {
    "password": field(nullable(PASSWORD), secret=True),
    "email": field(nullable(text(255))),
    "description": field(nullable(text(4096))),
    "enabled": field(BOOL),
    "default_project_id": field(nullable(HEX_ID)),
    "domain_id": field(nullable(HEX_ID)),
    "options": field(OPTIONS),
    "federated": field(items(OBJECT, 0)),  # there is no federation
    "original_password": field({"not": {}}, secret=True),  # of `passwords.py`; never to be kept as an attribute
}
FIELDS = {"name": field(NAME, required=True), **_COMMON}
CHANGES = {"name": field(NAME), **_COMMON}


def find_user(session, user_id: str, lock: bool = False) -> User:
    """The user of this id; NotFound. Locked: no login is under way for it until the transaction ends."""
    statement = select(User).where(User.id == user_id)
    row = session.execute(statement.with_for_update() if lock else statement).scalar()
    if row is None:
        raise NotFound(f"Could not find user: {user_id}.")
    return row


def check_own(ctx: Context, user_id: str) -> None:
    """Forbidden where the user is another one and the caller is no admin, whether it exists or not."""
    if user_id != ctx.token.user_id and not ctx.allows(READ):
        raise Forbidden(f"Policy doesn't allow {READ} to be performed.")


def store_password(row: User, hashed: str | None) -> None:
    """The user's new hash; every token made before is dead. The row must be locked (`find_user`)."""
    row.password_hash = hashed
    row.password_changed_at = row.tokens_valid_after = now()


def _hash(ctx: Context) -> str | None:
    given = ctx.body.get("password")
    return None if given is None else hash_password(given, ctx.settings.identity.password_rounds)


def _check_name(ctx: Context, name: str, domain_id: str, but: str = "") -> None:
    if ctx.session.scalar(select(User.id).where(User.domain_id == domain_id, User.name == name, User.id != but)):
        raise Conflict(
            "Conflict occurred attempting to store user - it is not permitted to have two users "
            f"in the same domain with the same name: {name}."
        )


def _check_project(ctx: Context) -> None:
    project_id = ctx.body.get("default_project_id")
    if project_id is not None and ctx.session.get(Project, project_id) is None:
        raise BadRequest(f"Invalid input for field/attribute default_project_id: there is no project {project_id}")


def index(ctx: Context) -> Reply:
    return build_page(ctx, select(User))


def build_page(ctx: Context, statement) -> Reply:
    """The page of those users that the query's filters leave."""
    statement = filter_texts(ctx, statement, {"name": User.name, "domain_id": User.domain_id, "email": User.email})
    if (enabled := read_flag(ctx, "enabled")) is not None:
        statement = statement.where(User.enabled == enabled)
    page = read_page(
        ctx.session,
        statement,
        ctx.query,
        columns={"name": User.name, "id": User.id},
        identity=User.id,
        default=[("name", "asc")],
        maximum=ctx.settings.api.max_limit,
    )
    return build_list(ctx, "users", page, view)


def show(ctx: Context, user_id: str) -> User:
    """Any user for admins; oneself for everyone."""
    check_own(ctx, user_id)
    return find_user(ctx.session, user_id)


def create(ctx: Context) -> User:
    """Without a password the account exists, and nobody can log in as it."""
    hashed = _hash(ctx)
    with ctx.write() as session:
        domain_id = choose_domain_id(ctx, ctx.body.get("domain_id"))
        _check_name(ctx, ctx.body["name"], domain_id)
        _check_project(ctx)
        row = User(
            domain_id=domain_id,
            name=ctx.body["name"],
            email=ctx.body.get("email"),
            description=ctx.body.get("description"),
            enabled=ctx.body.get("enabled", True),
            default_project_id=ctx.body.get("default_project_id"),
            options=merge_options({}, ctx.body.get("options")),
            extra=merge_extra({}, ctx.body, FIELDS),
            password_hash=hashed,
            password_changed_at=now() if hashed else None,
        )
        session.add(row)
        session.add(build_log(ctx, "POST", 201))
    return row


def update(ctx: Context, user_id: str) -> User:
    """A new password, and disabling, end every token of the user at once."""
    hashed = _hash(ctx)
    with ctx.write() as session:
        row = find_user(session, user_id, lock=True)
        check_id(ctx.body, user_id)
        if ctx.body.get("domain_id") not in (None, row.domain_id):
            raise Forbidden("domain_id of a user cannot be changed.")
        _check_project(ctx)
        if "name" in ctx.body:
            _check_name(ctx, ctx.body["name"], row.domain_id, but=row.id)
        for name in ("name", "email", "description", "default_project_id", "enabled"):
            if name in ctx.body:
                setattr(row, name, ctx.body[name])
        row.options = merge_options(row.options, ctx.body.get("options"))
        row.extra = merge_extra(row.extra, ctx.body, FIELDS)
        if "password" in ctx.body:
            store_password(row, hashed)
        if ctx.body.get("enabled") is False:
            row.tokens_valid_after = now()
        session.add(build_log(ctx, "PATCH", 200))
    return row


def delete(ctx: Context, user_id: str) -> None:
    """Its role assignments and key pairs go with it; servers it made belong to their project and stay."""
    delete_user(ctx.session, find_user(ctx.session, user_id, lock=True))


def delete_user(session, row: User) -> None:
    """The row with all that is the user's own."""
    session.execute(sql_delete(LoginFailure).where(LoginFailure.account == row.id))
    for model in (Keypair, Assignment, Membership, AppCredential, AccessRule, Credential):
        session.execute(sql_delete(model).where(model.user_id == row.id))
    session.delete(row)


def index_projects(ctx: Context, user_id: str) -> Reply:
    """Projects the user has a role on: one's own, or any user's for admins."""
    check_own(ctx, user_id)
    find_user(ctx.session, user_id)
    held = read_targets(ctx.session, user_id, "project")
    statement = select(Project).where(Project.id.in_(held)).order_by(Project.name, Project.id)
    statement = filter_texts(ctx, statement, {"name": Project.name, "domain_id": Project.domain_id})
    if (enabled := read_flag(ctx, "enabled")) is not None:
        statement = statement.where(Project.enabled == enabled)
    return build_list(ctx, "projects", list(ctx.session.scalars(statement)), projects.view)


def view(ctx: Context, row: User) -> dict:
    body = {
        **row.extra,
        "id": row.id,
        "name": row.name,
        "domain_id": row.domain_id,
        "enabled": row.enabled,
        "password_expires_at": None,
        "options": row.options,
        "links": {"self": build_link(ctx, "users", row.id)},
    }
    optional = {
        "email": row.email,
        "description": row.description,
        "default_project_id": row.default_project_id,
    }
    return body | {name: value for name, value in optional.items() if value is not None}


READ = rule("identity:users:read", ADMIN)
SHOW = rule("identity:users:show", ANYONE)
CREATE = rule("identity:users:create", ADMIN)
UPDATE = rule("identity:users:update", ADMIN)
DELETE = rule("identity:users:delete", ADMIN)
ROUTES = [
    Route("GET", "/users", READ, None, index),
    Route("POST", "/users", CREATE, FIELDS, create, view, 201, key="user", transaction=False, extra=True),
    Route("GET", "/users/{user_id}", SHOW, None, show, view, key="user"),
    Route("PATCH", "/users/{user_id}", UPDATE, CHANGES, update, view, key="user", transaction=False, extra=True),
    Route("DELETE", "/users/{user_id}", DELETE, None, delete),
    Route("GET", "/users/{user_id}/projects", SHOW, None, index_projects),
]
