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
from sqlalchemy import select
from sqlalchemy.orm import Session

from .errors import Unauthorized
from .models import Assignment, Domain, Project, RevokedToken, Role, User
from .policy import expand_roles

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

    def seal(self, user_id, scope, target, methods, issued_at: datetime, expires_at: datetime, audit_ids) -> str:
        """A token's text."""
        payload = [user_id, scope, target, methods, issued_at.timestamp(), expires_at.timestamp(), audit_ids]
        return self.fernet.encrypt(json.dumps(payload).encode()).decode().rstrip("=")

    def open(self, text: str) -> tuple:
        """(user id, scope, target id, methods, issued, expires, audit ids); Unauthorized where it is no token."""
        if not text or len(text) > 2048 or not text.isascii():
            raise Unauthorized(REFUSED)
        return self._open(text + "=" * (-len(text) % 4))


def build_audit_id() -> str:
    """A random audit id of a token."""
    return secrets.token_urlsafe(16)


def read_roles(session: Session, user_id: str, scope: str, target: str) -> tuple[tuple[str, str], ...]:
    """(id, name) of the user's roles on the target, with the implied ones, sorted by name."""
    named = session.execute(
        select(Role.name)
        .join(Assignment, Assignment.role_id == Role.id)
        .where(Assignment.user_id == user_id, Assignment.target_kind == scope, Assignment.target_id == target)
    ).scalars()
    names = expand_roles(named)
    if not names:
        return ()
    rows = session.execute(select(Role.id, Role.name).where(Role.name.in_(names)).order_by(Role.name))
    return tuple((row.id, row.name) for row in rows)


def read_token(session: Session, keys: TokenKeys, text: str) -> Token:
    """The token of that text, as rows have it now; Unauthorized where it is expired, revoked or no longer allowed."""
    user_id, scope, target, methods, issued, expires, audit_ids = keys.open(text)
    if expires <= datetime.now(UTC).timestamp():
        raise Unauthorized(REFUSED)
    if session.execute(select(RevokedToken.audit_id).where(RevokedToken.audit_id.in_(audit_ids))).first():
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
    )


def build_token(session, user_id, scope, target, methods, issued_at, expires_at, audit_ids) -> Token:
    """A token of what rows say of the user and the target now; Unauthorized where they do not allow it."""
    row = session.execute(
        select(User, Domain).join(Domain, Domain.id == User.domain_id).where(User.id == user_id)
    ).first()
    if row is None or not row.User.enabled or not row.Domain.enabled or issued_at < row.User.tokens_valid_after:
        raise Unauthorized(REFUSED)
    project = project_domain = domain = None
    roles: tuple = ()
    if scope == "project":
        found = session.execute(
            select(Project, Domain).join(Domain, Domain.id == Project.domain_id).where(Project.id == target)
        ).first()
        if found is None or not found.Project.enabled or not found.Domain.enabled:
            raise Unauthorized(REFUSED)
        project, project_domain = found.Project, (found.Domain.id, found.Domain.name)
    elif scope == "domain":
        found = session.get(Domain, target)
        if found is None or not found.enabled:
            raise Unauthorized(REFUSED)
        domain = (found.id, found.name)
    if scope:
        roles = read_roles(session, user_id, scope, target)
        if not roles:
            raise Unauthorized(REFUSED)
    return Token(
        user_id=user_id,
        user_name=row.User.name,
        user_domain=(row.Domain.id, row.Domain.name),
        methods=methods,
        audit_ids=audit_ids,
        issued_at=issued_at,
        expires_at=expires_at,
        scope=scope,
        project_id=project.id if project else None,
        project_name=project.name if project else None,
        project_domain=project_domain,
        domain=domain,
        roles=roles,
    )


def issue_token(
    session, keys: TokenKeys, user_id, scope, target, methods, lifetime_s: int, parent: Token | None = None
):
    """(text, Token) of a new token; made from another token, it never outlives that one."""
    issued_at = datetime.now(UTC)
    expires_at = issued_at + timedelta(seconds=lifetime_s)
    audit_ids = (build_audit_id(),)
    if parent is not None:
        expires_at = min(expires_at, parent.expires_at)
        audit_ids = (audit_ids[0], parent.audit_ids[-1])
        methods = tuple(dict.fromkeys((*parent.methods, *methods)))
    token = build_token(session, user_id, scope, target, tuple(methods), issued_at, expires_at, audit_ids)
    text = keys.seal(user_id, scope, target, list(methods), issued_at, expires_at, list(audit_ids))
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
