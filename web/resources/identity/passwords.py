"""A user's own password: changed by whoever knows the old one.

Admins set others' passwords with PATCH (`users.py`). Source: Identity API reference, "Change password
for user". Security cases 30 and 34. Next room: `logins.py`, which counts wrong ones.
"""

from __future__ import annotations

from ...auth import REFUSED, hash_password
from ...errors import Forbidden, Unauthorized
from ...fields import field, text
from ...http import Context, build_log
from ...policy import ANYONE, rule
from ...routes import Reply, Route
from .logins import check_secret, forget_failures
from .users import PASSWORD, find_user, store_password

FIELDS = {
    "password": field(PASSWORD, secret=True, required=True),
    "original_password": field(text(4096), secret=True, required=True),
}


def create(ctx: Context, user_id: str) -> Reply:
    """Ends every token of the user, the one this was asked with included; a wrong old password is a 401."""
    if user_id != ctx.token.user_id:
        raise Forbidden("Only a user itself can change its password this way; admins set it with PATCH.")
    with ctx.database.read() as session:
        row = find_user(session, user_id)
    if row.options.get("lock_password"):
        raise Forbidden("The password of this user can only be changed by an admin (lock_password).")
    checked = row.password_hash
    check_secret(ctx, row.id, checked, ctx.body["original_password"])
    hashed = hash_password(ctx.body["password"], ctx.settings.identity.password_rounds)
    with ctx.write() as session:
        row = find_user(session, user_id, lock=True)
        if row.password_hash != checked:
            raise Unauthorized(REFUSED)
        forget_failures(ctx, session, row.id)
        store_password(row, hashed)
        session.add(build_log(ctx, "POST", 204))
    return Reply(None, 204)


CREATE = rule("identity:passwords:create", ANYONE)
ROUTES = [Route("POST", "/users/{user_id}/password", CREATE, FIELDS, create, key="user", transaction=False)]
