"""What can be set for a single user: that it keeps its password, and which methods it must log in with together.

Source: Identity API reference, "Resource options". Only options that do something here are known. Touches no
row. Next rooms: `users.py`, `tokens.py`, `passwords.py`.
"""

from __future__ import annotations

from ...auth import REFUSED
from ...delegations import APP
from ...errors import Unauthorized
from ...fields import items, mapping, nullable, one_of
from ...models import User

_RULE = {**items(one_of("password", "totp", "token"), 3, unique=True), "minItems": 1}
OPTIONS = mapping(
    {
        "lock_password": nullable({"type": "boolean"}),
        "multi_factor_auth_enabled": nullable({"type": "boolean"}),
        "multi_factor_auth_rules": nullable(items(_RULE, 20)),
    }
)


def merge_options(now_are: dict, given: dict | None) -> dict:
    """The options with those given; null takes one away."""
    merged = {**now_are, **(given or {})}
    return {name: value for name, value in merged.items() if value is not None}


def check_factors(user: User, methods: set[str]) -> None:
    """Unauthorized where the user must log in with several methods together and these are none such.

    An application credential is for programs, which have no second factor: it is a proof of its own.
    """
    rules = user.options.get("multi_factor_auth_rules") if user.options.get("multi_factor_auth_enabled") else None
    if rules and APP not in methods and not any(set(rule) <= methods for rule in rules):
        raise Unauthorized(REFUSED)
