"""A user's own password: changed by whoever knows the old one, which is all that is asked for, as in the reference.

Where a user must log in with several methods together, the token of such a login is needed, too (and none that
was handed on). Admins set others' passwords with PATCH (`users.py`). Source: Identity API reference, "Change
password for user". Security cases 30 and 34. Next room: `logins.py`, which counts wrong ones.
"""

from __future__ import annotations

from sqlalchemy import select

from ...auth import REFUSED, hash_password
from ...errors import Forbidden, Unauthorized
from ...fields import field, text
from ...http import Context, build_log
from ...models import Domain, User
from ...routes import Reply, Route
from .logins import check_secret, forget_failures, name_account
from .user_options import check_factors
from .users import PASSWORD, store_password

FIELDS = {
    "password": field(PASSWORD, secret=True, required=True),
    "original_password": field(text(4096), secret=True, required=True),
}


def create(ctx: Context, user_id: str) -> Reply:
    """Ends every token of the user. 401 for a wrong old password and for whoever could not log in, nobody included."""
    with ctx.database.read() as session:
        row = session.get(User, user_id)
    checked = row.password_hash if row is not None else None
    check_secret(ctx, name_account(row, user_id), checked, ctx.body["original_password"])
    hashed = hash_password(ctx.body["password"], ctx.settings.identity.password_rounds)
    with ctx.write() as session:
        row = session.execute(select(User).where(User.id == user_id).with_for_update()).scalar()
        if row is None or row.password_hash != checked or not row.enabled:
            raise Unauthorized(REFUSED)
        if not session.get(Domain, row.domain_id).enabled:
            raise Unauthorized(REFUSED)
        own = ctx.token is not None and ctx.token.user_id == user_id and ctx.token.delegation is None
        check_factors(row, {"password", *(ctx.token.methods if own else ())})
        if row.options.get("lock_password"):
            raise Forbidden("The password of this user can only be changed by an admin (lock_password).")
        forget_failures(ctx, session, row.id)
        store_password(row, hashed)
        session.add(build_log(ctx, "POST", 204))
    return Reply(None, 204)


ROUTES = [Route("POST", "/users/{user_id}/password", None, FIELDS, create, key="user", transaction=False)]
