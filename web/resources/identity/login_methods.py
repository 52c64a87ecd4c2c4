"""Ways to a token: a password, a one-time password, an application credential; each is a proof of who the user is.

Slow hashes are computed outside every transaction; the proof is compared with the row again in the one that
makes the token. A refusal never says what was wrong. Source: Identity API reference, "Authentication and
token management". Next room: `logins.py`, which counts wrong secrets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import select

from ...auth import REFUSED
from ...delegations import APP
from ...errors import BadRequest, Unauthorized
from ...fields import HEX_ID, mapping, text
from ...http import Context
from ...models import AppCredential, Credential, Domain, User, now
from ...signatures import find_counter
from .logins import check_pause, check_secret, name_account, store_failure

DOMAIN = mapping({"id": HEX_ID, "name": text(255, 1)})
_USER = {"id": HEX_ID, "name": text(255, 1), "domain": DOMAIN}
PASSWORD = mapping({"user": mapping({**_USER, "password": text(4096)}, ("password",))}, ("user",))
APPLICATION_CREDENTIAL = mapping(
    {"id": HEX_ID, "name": text(255, 1), "secret": text(255), "user": mapping(_USER)}, ("secret",)
)
TOTP = mapping({"user": mapping({**_USER, "passcode": text(16, 1)}, ("passcode",))}, ("user",))


@dataclass(frozen=True)
class Proof:
    """Who it is, by which method; ``holds(session)`` says whether it still does, and uses up what is for one use."""

    user_id: str
    account: str  # what wrong secrets are counted under
    holds: Callable[[object], bool]
    via: tuple = ()
    project_id: str | None = None


def find_domain_named(session, given: dict | None, where: str) -> Domain | None:
    """The domain named by id or name; None where there is none; BadRequest where none is named."""
    if not given:
        raise BadRequest(f"Invalid input for field/attribute {where}: it needs the domain's id or name")
    if "id" in given:
        return session.get(Domain, given["id"])
    return session.scalar(select(Domain).where(Domain.name == given["name"]))


def find_user_named(session, given: dict, where: str) -> tuple[User | None, str]:
    """(the user, or None; the words it was named by)."""
    if "id" in given:
        return session.get(User, given["id"]), given["id"]
    if "name" not in given:
        raise BadRequest(f"Invalid input for field/attribute {where}: it needs the user's id or name")
    domain = find_domain_named(session, given.get("domain"), f"{where}/domain")
    words = f"{given['domain'].get('id')}/{given['domain'].get('name')}/{given['name']}"
    if domain is None:
        return None, words
    found = session.scalar(select(User).where(User.domain_id == domain.id, User.name == given["name"]))
    return found, f"{domain.id}/{given['name']}"


def check_password(ctx: Context, given: dict) -> Proof:
    """Unauthorized, TooMany as `logins.py` says."""
    asked = given["user"]
    with ctx.database.read() as session:
        user, named = find_user_named(session, asked, "identity/password/user")
    hashed = user.password_hash if user is not None else None
    check_secret(ctx, name_account(user, named), hashed, asked["password"])
    user_id = user.id
    return Proof(user_id, user_id, lambda session: session.get(User, user_id).password_hash == hashed)


def check_application_credential(ctx: Context, given: dict) -> Proof:
    """Named by its id, or by its name and its user."""
    with ctx.database.read() as session:
        if "id" in given:
            row, named = session.get(AppCredential, given["id"]), given["id"]
        elif "name" not in given or "user" not in given:
            raise BadRequest(
                "Invalid input for field/attribute identity/application_credential: its id, or its name and its user"
            )
        else:
            user, words = find_user_named(session, given["user"], "identity/application_credential/user")
            named = f"{words}/{given['name']}"
            query = select(AppCredential).where(AppCredential.user_id == (user.id if user else ""))
            row = session.scalar(query.where(AppCredential.name == given["name"]))
    hashed = row.secret_hash if row is not None else None
    account = name_account(row, named)
    check_secret(ctx, account, hashed, given["secret"])
    row_id = row.id

    def holds(session) -> bool:
        again = session.get(AppCredential, row_id)
        return again is not None and again.secret_hash == hashed

    return Proof(row.user_id, account, holds, (APP, row_id), row.project_id)


def check_totp(ctx: Context, given: dict) -> Proof:
    """A one-time password of any of the user's seeds; of each seed none twice, and none older than the last."""
    asked = given["user"]
    with ctx.database.read() as session:
        user, named = find_user_named(session, asked, "identity/totp/user")
        account = name_account(user, named)
        check_pause(ctx, session, account)
        query = select(Credential).where(Credential.type == "totp", Credential.user_id == (user.id if user else ""))
        fitting = [
            (row.id, counter)
            for row in session.scalars(query)
            if (counter := find_counter(ctx.keys.open_text(row.sealed), asked["passcode"], now())) is not None
            and counter > row.last_counter
        ]
    if not fitting:
        store_failure(ctx, account)
        raise Unauthorized(REFUSED)
    row_id, counter = fitting[0]

    def holds(session) -> bool:
        row = session.execute(select(Credential).where(Credential.id == row_id).with_for_update()).scalar()
        if row is None or row.last_counter >= counter:
            return False
        row.last_counter = counter
        return True

    return Proof(user.id, account, holds)


CHECKS = {"totp": check_totp, "password": check_password, APP: check_application_credential}


def check_methods(ctx: Context, given: dict) -> list[Proof]:
    """The proofs of all methods but `token`; BadRequest for a method without its part, Unauthorized."""
    methods = given["methods"]
    for method in methods:
        if method not in given:
            raise BadRequest(f"Invalid input for field/attribute identity: method {method} needs its part {method}")
    if APP in methods and len(methods) > 1:
        raise Unauthorized(REFUSED)
    return [check(ctx, given[method]) for method, check in CHECKS.items() if method in methods]
