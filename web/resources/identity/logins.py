"""Wrong passwords: counted per account and address, and answered with a pause.

Owns the LoginFailure rows. bcrypt runs outside every transaction, so a slow check never holds the
database. Security case 34: whoever guesses at one address never locks the account for another one.
Next room: `tokens.py` and `passwords.py`, which ask here before they believe a password.
"""

from __future__ import annotations

import hashlib
import math
from datetime import timedelta

from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError

from ...auth import REFUSED, check_password
from ...errors import TooMany, Unauthorized
from ...http import Context
from ...models import AppCredential, LoginFailure, User, now

FORGET = 10  # failures are forgotten after this many pauses


def name_account(row: User | AppCredential | None, named: str) -> str:
    """What failures are counted under: the account's id, or a digest of the name where there is no such account."""
    return row.id if row is not None else hashlib.sha256(named.encode()).hexdigest()


def check_pause(ctx: Context, session, account: str) -> None:
    """TooMany, with Retry-After, where this account had too many wrong passwords from this address."""
    settings = ctx.settings.identity
    row = session.get(LoginFailure, (account, ctx.address))
    if row is None or row.failures < settings.lockout_attempts:
        return
    left = (row.last_at + timedelta(seconds=settings.lockout_s) - now()).total_seconds()
    if left > 0:
        raise TooMany(
            "Too many wrong passwords for this account from this address; try again later.",
            headers={"Retry-After": str(math.ceil(left))},
        )


def store_failure(ctx: Context, account: str) -> None:
    """Count one more wrong password."""
    for attempt in (1, 2, 3):
        try:
            with ctx.write() as session:
                forgotten = now() - timedelta(seconds=FORGET * ctx.settings.identity.lockout_s)
                session.execute(delete(LoginFailure).where(LoginFailure.last_at < forgotten))
                row = session.execute(
                    select(LoginFailure)
                    .where(LoginFailure.account == account, LoginFailure.address == ctx.address)
                    .with_for_update()
                ).scalar()
                if row is None:
                    row = LoginFailure(account=account, address=ctx.address, failures=0)
                    session.add(row)
                row.failures += 1
                row.last_at = now()
            return
        except IntegrityError:  # two first failures at once: count this one on the other's row
            if attempt == 3:
                raise


def check_secret(ctx: Context, account: str, hashed: str | None, secret: str) -> None:
    """Nothing where the secret is the hash's; Unauthorized (counted) where it is not, TooMany during a pause.

    ``hashed`` None is an account that does not exist: it takes as long and counts as much. The caller
    compares the hash with the row again in the transaction that acts on it, and calls `forget_failures`.
    """
    with ctx.database.read() as session:
        check_pause(ctx, session, account)
    if not check_password(secret, hashed):
        store_failure(ctx, account)
        raise Unauthorized(REFUSED)


def forget_failures(ctx: Context, session, account: str) -> None:
    """A right secret ends the row of wrong ones, unless others made it a pause meanwhile (TooMany)."""
    check_pause(ctx, session, account)
    row = session.get(LoginFailure, (account, ctx.address))
    if row is not None:
        session.delete(row)
