"""Tokens: Fernet, made at login, checked on every request; passwords' hashes.

A token holds ids and times, nothing that can go stale: user, project and roles are read from rows at
each check, so that disabling a user, changing a password or revoking a role takes effect at once
(security case 30). Knows no HTTP. Next room: `resources/identity/tokens.py`.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path

import bcrypt
from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from sqlalchemy import bindparam, exists, or_, select
from sqlalchemy.orm import Session

from .delegations import Delegation, read_delegation
from .errors import Unauthorized, Unavailable
from .grants import read_roles
from .models import Domain, Project, RevokedToken, User

REFUSED = "The request you have made requires authentication."


@dataclass(frozen=True)
class Token:
    """Who is calling, and on what: the ids and names that views and policy need."""

    user_id: str
    user_name: str
    user_domain: tuple[str, str]  # id, name
    methods: tuple[str, ...]
    audit_ids: tuple[str, ...]
    issued_at: datetime
    expires_at: datetime
    scope: str  # project | domain | system | "" (unscoped)
    project_id: str | None
    project_name: str | None
    project_domain: tuple[str, str] | None
    domain: tuple[str, str] | None
    roles: tuple[tuple[str, str], ...]  # id, name; implied ones included
    delegation: Delegation | None = None  # what it was made through, if not by the user's own proof

    @property
    def role_names(self) -> list[str]:
        return [name for _, name in self.roles]

    @property
    def is_admin(self) -> bool:
        return "admin" in self.role_names

    def credentials(self) -> dict:
        """What policy rules look at."""
        return {
            "user_id": self.user_id,
            "project_id": self.project_id,
            "domain_id": self.domain[0] if self.domain else None,
            "system_scope": "all" if self.scope == "system" else None,
            "roles": self.role_names,
        }


def apply_key(key_dir: str) -> None:
    """Make the first token key where there is none."""
    path = Path(key_dir)
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not any(name.isdigit() for name in os.listdir(path)):
        descriptor = os.open(path / "0", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(Fernet.generate_key())


class TokenKeys:
    """The keys in a directory; the highest number signs, all are tried."""

    def __init__(self, key_dir: str):
        try:
            names = sorted((name for name in os.listdir(key_dir) if name.isdigit()), key=int, reverse=True)
        except FileNotFoundError:
            names = []
        if not names:
            raise FileNotFoundError(f"no token key in {key_dir}: run `kumo bootstrap`")
        self.fernet = MultiFernet([Fernet(Path(key_dir, name).read_bytes().strip()) for name in names])
        self._open = lru_cache(maxsize=2048)(self._decrypt)

    def _decrypt(self, text: str) -> tuple:
        try:
            return tuple(json.loads(self.fernet.decrypt(text.encode())))
        except (InvalidToken, ValueError):
            raise Unauthorized(REFUSED) from None

    def seal(
        self, user_id, scope, target, methods, issued_at: datetime, expires_at: datetime, audit_ids, via: tuple = ()
    ) -> str:
        """A token's text; ``via`` is the kind and the id of what it was made through."""
        payload = [user_id, scope, target, methods, issued_at.timestamp(), expires_at.timestamp(), audit_ids]
        payload += [list(via)] if via else []
        return self.fernet.encrypt(json.dumps(payload).encode()).decode().rstrip("=")

    def open(self, text: str) -> tuple:
        """(user id, scope, target id, methods, issued, expires, audit ids[, via]); Unauthorized: it is no token."""
        if not text or len(text) > 2048 or not text.isascii():
            raise Unauthorized(REFUSED)
        return self._open(text + "=" * (-len(text) % 4))

    def seal_text(self, text: str) -> str:
        """A secret that is kept as a row; what stands before it makes it no token, whatever it says."""
        return self.fernet.encrypt(b"text " + text.encode()).decode()

    def open_text(self, sealed: str) -> str:
        """What `seal_text` got; Unavailable where the key that sealed it is gone."""
        try:
            return self.fernet.decrypt(sealed.encode())[5:].decode()
        except InvalidToken:
            raise Unavailable("The key that this was sealed with is gone: bring back the token keys.") from None


def build_audit_id() -> str:
    """A random audit id of a token."""
    return secrets.token_urlsafe(16)


# Every request reads this: written once, on tables and not on classes, which cost several times as much.
_users, _projects = User.__table__, Project.__table__
_user_domains, _project_domains = Domain.__table__.alias(), Domain.__table__.alias()
_revoked = RevokedToken.__table__.c.audit_id
_READ_USER = (
    select(
        _users.c.name,
        _users.c.enabled,
        _users.c.tokens_valid_after,
        _user_domains.c.id.label("domain_id"),
        _user_domains.c.name.label("domain_name"),
        _user_domains.c.enabled.label("domain_enabled"),
        _user_domains.c.tokens_valid_after.label("domain_valid_after"),
        _projects.c.id.label("project_id"),
        _projects.c.name.label("project_name"),
        _projects.c.enabled.label("project_enabled"),
        _projects.c.tokens_valid_after.label("project_valid_after"),
        _project_domains.c.id.label("target_domain_id"),
        _project_domains.c.name.label("target_domain_name"),
        _project_domains.c.enabled.label("target_domain_enabled"),
        _project_domains.c.tokens_valid_after.label("target_domain_valid_after"),
        exists().where(_revoked.in_((bindparam("audit"), bindparam("parent_audit")))).label("revoked"),
    )
    .join_from(_users, _user_domains, _user_domains.c.id == _users.c.domain_id)
    .outerjoin(_projects, _projects.c.id == bindparam("project"))
    .outerjoin(
        _project_domains,
        or_(_project_domains.c.id == _projects.c.domain_id, _project_domains.c.id == bindparam("domain")),
    )
    .where(_users.c.id == bindparam("user"))
)


def read_token(session: Session, keys: TokenKeys, text: str, expired_s: int = 0) -> Token:
    """The token of that text, as rows have it now; Unauthorized where it is expired, revoked or no longer allowed.

    One that expired less than ``expired_s`` ago counts as if it had not.
    """
    user_id, scope, target, methods, issued, expires, audit_ids, *via = keys.open(text)
    if expires + expired_s <= datetime.now(UTC).timestamp():
        raise Unauthorized(REFUSED)
    return build_token(
        session,
        user_id,
        scope,
        target,
        tuple(methods),
        datetime.fromtimestamp(issued, UTC),
        datetime.fromtimestamp(expires, UTC),
        tuple(audit_ids),
        tuple(via[0]) if via else (),
    )


def build_token(session, user_id, scope, target, methods, issued_at, expires_at, audit_ids, via=()) -> Token:
    """A token of what rows say of the user and the target now; Unauthorized where they do not allow it."""
    asked = {"user": user_id, "audit": audit_ids[0], "parent_audit": audit_ids[-1]}
    asked |= {"project": target if scope == "project" else None, "domain": target if scope == "domain" else None}
    row = session.execute(_READ_USER, asked).first()
    if row is None or row.revoked or not row.enabled or not row.domain_enabled or issued_at < row.tokens_valid_after:
        raise Unauthorized(REFUSED)
    if scope == "project" and not row.project_enabled:
        raise Unauthorized(REFUSED)
    if scope in ("project", "domain") and not row.target_domain_enabled:
        raise Unauthorized(REFUSED)
    ends = (row.domain_valid_after, row.project_valid_after, row.target_domain_valid_after)
    if any(end is not None and issued_at < end for end in ends):
        raise Unauthorized(REFUSED)
    target_domain = (row.target_domain_id, row.target_domain_name)
    delegation = read_delegation(session, via, user_id, target, issued_at, REFUSED) if via else None
    if delegation is not None:
        roles = read_roles(session, delegation.holder_id, scope, target, delegation.role_ids)
    else:
        roles = read_roles(session, user_id, scope, target) if scope else ()
    if scope and not roles:
        raise Unauthorized(REFUSED)
    return Token(
        user_id=user_id,
        user_name=row.name,
        user_domain=(row.domain_id, row.domain_name),
        methods=methods,
        audit_ids=audit_ids,
        issued_at=issued_at,
        expires_at=expires_at,
        scope=scope,
        project_id=row.project_id,
        project_name=row.project_name,
        project_domain=target_domain if scope == "project" else None,
        domain=target_domain if scope == "domain" else None,
        roles=roles,
        delegation=delegation,
    )


def issue_token(
    session,
    keys: TokenKeys,
    user_id,
    scope,
    target,
    methods,
    lifetime_s: int,
    parent: Token | None = None,
    via: tuple = (),
):
    """(text, Token) of a new token; made from another token, it never outlives that one."""
    issued_at = datetime.now(UTC)
    expires_at = issued_at + timedelta(seconds=lifetime_s)
    audit_ids = (build_audit_id(),)
    if parent is not None:
        expires_at = min(expires_at, parent.expires_at)
        audit_ids = (audit_ids[0], parent.audit_ids[-1])
        methods = tuple(dict.fromkeys((*parent.methods, *methods)))
    token = build_token(session, user_id, scope, target, tuple(methods), issued_at, expires_at, audit_ids, via)
    text = keys.seal(user_id, scope, target, list(methods), issued_at, expires_at, list(audit_ids), via)
    return text, token


def _prepare(password: str) -> bytes:
    # bcrypt reads 72 bytes: longer passwords count whole through a digest.
    raw = password.encode()
    return raw if len(raw) <= 72 else hashlib.sha512(raw).hexdigest()[:72].encode()


def hash_password(password: str, rounds: int) -> str:
    """bcrypt's hash of the password."""
    return bcrypt.hashpw(_prepare(password), bcrypt.gensalt(rounds)).decode()


def check_password(password: str, hashed: str | None) -> bool:
    """Whether the password is the hash's; takes as long where there is no hash (no telling which accounts exist)."""
    candidate = hashed or "$2b$12$C6UzMDM.H6dfI/f/IKcEeO7ZIGKDZpBAhXWOZ2ivqHRGgNFKfLXXW"
    try:
        return bcrypt.checkpw(_prepare(password), candidate.encode()) and hashed is not None
    except ValueError:
        return False
