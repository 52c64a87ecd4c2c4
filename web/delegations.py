"""Tokens that were made through something handed on: what still holds of it, and which requests it is for.

Read at every check of such a token, so that its end is the token's (security case 30). Source: Identity API
reference, "Application Credentials", "OS-TRUST". Knows no HTTP. Next room: `auth.py`, which asks here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

from sqlalchemy import Row, bindparam, select
from sqlalchemy.orm import Session

from .errors import Forbidden, Unauthorized
from .models import AppCredential, Domain, Trust, User, now

APP = "application_credential"
TRUST = "trust"
# What a service is called in access rules beside its type: its official type and the one of its name.
NAMES = {"volumev3": ("block-storage", "block-store", "volume")}


@dataclass(frozen=True)
class Delegation:
    """``holder_id`` is whose roles count, of which only ``role_ids``; ``view`` is its part of the token's body."""

    kind: str
    id: str
    holder_id: str
    role_ids: frozenset[str]
    restricted: bool  # it may not hand on, nor make what lives longer
    access_rules: tuple[tuple[str, str, str], ...]  # service type, method, path; none: every request
    view: dict


# Written once and on tables, as every check of such a token reads them (see `auth.py`).
_apps, _trusts, _users, _domains = (model.__table__ for model in (AppCredential, Trust, User, Domain))
_READ_APP = select(_apps).where(_apps.c.id == bindparam("id"))
_READ_TRUST = select(_trusts).where(_trusts.c.id == bindparam("id"))
_READ_ALIVE = (
    select(_users.c.id)
    .join(_domains, _domains.c.id == _users.c.domain_id)
    .where(
        _users.c.id.in_(bindparam("users", expanding=True)),
        _users.c.enabled,
        _domains.c.enabled,
        _users.c.tokens_valid_after <= bindparam("issued_at"),
    )
)


def read_delegation(
    session: Session, via: tuple, user_id: str, project_id: str, issued_at: datetime, refused: str
) -> Delegation:
    """That of a token of this user on this project; Unauthorized (``refused``) where it has ended."""
    kind, delegation_id = via
    read = _read_trust if kind == TRUST else _read_app_credential
    found = read(session, delegation_id, user_id, project_id, issued_at)
    if found is None:
        raise Unauthorized(refused)
    return found


def _read_app_credential(session: Session, credential_id, user_id, project_id, issued_at) -> Delegation | None:
    row = session.execute(_READ_APP, {"id": credential_id}).first()
    if row is None or row.user_id != user_id or row.project_id != project_id:
        return None
    if row.expires_at is not None and row.expires_at <= now():
        return None
    view = {"id": row.id, "name": row.name, "restricted": not row.unrestricted}
    if row.access_rules:
        view["access_rules"] = row.access_rules
    return Delegation(
        kind=APP,
        id=row.id,
        holder_id=user_id,
        role_ids=frozenset(row.role_ids),
        restricted=not row.unrestricted,
        access_rules=tuple((rule["service"], rule["method"], rule["path"]) for rule in row.access_rules),
        view={APP: view},
    )


def read_chain(session: Session, trust_id: str) -> list[Row]:
    """The trust and those it was made through, up to the first; empty where it or one of them has ended."""
    found: list[Row] = []
    wanted: str | None = trust_id
    while wanted is not None:
        row = session.execute(_READ_TRUST, {"id": wanted}).first()
        if row is None or (row.expires_at is not None and row.expires_at <= now()):
            return []
        found.append(row)
        wanted = row.parent_id
    return found


def _read_trust(session: Session, trust_id, user_id, project_id, issued_at) -> Delegation | None:
    chain = read_chain(session, trust_id)
    if not chain or chain[0].project_id != project_id:
        return None
    row, first = chain[0], chain[-1]
    if user_id != (row.trustor_id if row.impersonation else row.trustee_id):
        return None
    parties = {one for each in chain for one in (each.trustor_id, each.trustee_id)}
    if set(session.scalars(_READ_ALIVE, {"users": list(parties), "issued_at": issued_at})) != parties:
        return None
    view = {
        "id": row.id,
        "trustor_user": {"id": row.trustor_id},
        "trustee_user": {"id": row.trustee_id},
        "impersonation": row.impersonation,
    }
    return Delegation(
        kind=TRUST,
        id=row.id,
        holder_id=first.trustor_id,
        role_ids=frozenset(row.role_ids),
        restricted=True,
        access_rules=(),
        view={"OS-TRUST:trust": view},
    )


@lru_cache(maxsize=1024)
def _parse_pattern(path: str) -> tuple[str, ...]:
    """Its characters, and "one", "some", "any" for what stands for others."""
    found: list[str] = []
    for part in re.split(r"(\*\*|\*|{[^/}]*})", path):
        found += {"**": ["any"], "*": ["some"]}.get(part) or (["one", "some"] if part[:1] == "{" else list(part))
    return tuple(found)


def _fits(pattern: tuple[str, ...], path: str) -> bool:
    # Every place in the pattern at once: no rule takes longer than its length times the path's.
    def skip(places: set[int]) -> set[int]:
        for place in list(places):
            while place < len(pattern) and pattern[place] in ("some", "any"):
                place += 1
                places.add(place)
        return places

    places = skip({0})
    for one in path:
        found = set()
        for place in places - {len(pattern)}:
            wanted = pattern[place]
            if wanted == "any" or (wanted == "some" and one != "/"):
                found.add(place)
            elif wanted == one or (wanted == "one" and one != "/"):
                found.add(place + 1)
        places = skip(found)
        if not places:
            return False
    return len(pattern) in places


def is_allowed(delegation: Delegation | None, service_type: str, method: str, path: str) -> bool:
    """Whether the request is one that the delegation is for. ``path`` begins with the API's version.

    In a rule's path `*` is anything within a segment, `**` anything, `{name}` one whole segment.
    """
    if delegation is None or not delegation.access_rules:
        return True
    names = (service_type, *NAMES.get(service_type, ()))
    return any(
        rule[0] in names and rule[1] == method and _fits(_parse_pattern(rule[2]), path)
        for rule in delegation.access_rules
    )


def check_unrestricted(delegation: Delegation | None) -> None:
    """Forbidden where what the caller's token was made through may not make or end anything of this kind."""
    if delegation is not None and delegation.restricted:
        raise Forbidden(f"A token that was made through a restricted {delegation.kind} cannot be used for this.")
