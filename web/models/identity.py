"""Who may act: domains, projects, users, groups, roles, assignments, revoked tokens, wrong passwords.

Owns the rows only; tokens are made and checked in `web/auth.py`.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, Index, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from .base import Base, new_hex_id, now


class Domain(Base):
    __tablename__ = "domains"

    id: Mapped[str] = mapped_column(primary_key=True, default=new_hex_id)
    name: Mapped[str] = mapped_column(unique=True)
    description: Mapped[str] = mapped_column(Text, default="")
    enabled: Mapped[bool] = mapped_column(default=True)
    tags: Mapped[list] = mapped_column(default=list)
    extra: Mapped[dict] = mapped_column(default=dict)  # further attributes, as clients gave them
    tokens_valid_after: Mapped[datetime | None]  # set when it is disabled: older tokens are dead


class DomainOption(Base):
    """One option of a domain's configuration; a secret one is sealed. Nothing here acts on them."""

    __tablename__ = "domain_options"

    domain_id: Mapped[str] = mapped_column(ForeignKey("domains.id", ondelete="CASCADE"), primary_key=True)
    section: Mapped[str] = mapped_column(primary_key=True)  # "group" in the API: identity, ldap
    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[dict] = mapped_column(default=dict)  # {"value": any JSON}, or {"sealed": text}


class Project(Base):
    __tablename__ = "projects"
    __table_args__ = (UniqueConstraint("domain_id", "name"),)

    id: Mapped[str] = mapped_column(primary_key=True, default=new_hex_id)
    domain_id: Mapped[str] = mapped_column(ForeignKey("domains.id"))
    parent_id: Mapped[str | None]
    name: Mapped[str]
    description: Mapped[str] = mapped_column(Text, default="")
    enabled: Mapped[bool] = mapped_column(default=True)
    tags: Mapped[list] = mapped_column(default=list)
    options: Mapped[dict] = mapped_column(default=dict)
    extra: Mapped[dict] = mapped_column(default=dict)  # further attributes, as clients gave them
    tokens_valid_after: Mapped[datetime | None]  # set when it is disabled: older tokens are dead


class User(Base):
    __tablename__ = "users"
    __table_args__ = (UniqueConstraint("domain_id", "name"),)

    id: Mapped[str] = mapped_column(primary_key=True, default=new_hex_id)
    domain_id: Mapped[str] = mapped_column(ForeignKey("domains.id"))
    name: Mapped[str]
    email: Mapped[str | None]
    description: Mapped[str | None] = mapped_column(Text)
    enabled: Mapped[bool] = mapped_column(default=True)
    default_project_id: Mapped[str | None]
    password_hash: Mapped[str | None]
    password_changed_at: Mapped[datetime | None]
    tokens_valid_after: Mapped[datetime] = mapped_column(default=now)  # older tokens are dead
    extra: Mapped[dict] = mapped_column(default=dict)  # further attributes, as clients gave them
    options: Mapped[dict] = mapped_column(default=dict)


class Group(Base):
    """Users of any domain that are given roles together."""

    __tablename__ = "groups"
    __table_args__ = (UniqueConstraint("domain_id", "name"),)

    id: Mapped[str] = mapped_column(primary_key=True, default=new_hex_id)
    domain_id: Mapped[str] = mapped_column(ForeignKey("domains.id"))
    name: Mapped[str]
    description: Mapped[str] = mapped_column(Text, default="")
    extra: Mapped[dict] = mapped_column(default=dict)  # further attributes, as clients gave them


class Membership(Base):
    __tablename__ = "memberships"

    group_id: Mapped[str] = mapped_column(ForeignKey("groups.id", ondelete="CASCADE"), primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), primary_key=True, index=True)


_GLOBAL = text("domain_id IS NULL")


class Role(Base):
    """Of every domain (no domain_id: tokens carry it, policy looks at it), or of one: it counts by what it implies."""

    __tablename__ = "roles"
    __table_args__ = (
        UniqueConstraint("domain_id", "name"),
        Index("ix_roles_global_name", "name", unique=True, sqlite_where=_GLOBAL, postgresql_where=_GLOBAL),
    )

    id: Mapped[str] = mapped_column(primary_key=True, default=new_hex_id)
    name: Mapped[str]
    domain_id: Mapped[str | None]
    description: Mapped[str | None] = mapped_column(Text)
    extra: Mapped[dict] = mapped_column(default=dict)  # further attributes, as clients gave them


class Implication(Base):
    """Whoever has the prior role has the implied one, too."""

    __tablename__ = "implications"

    prior_id: Mapped[str] = mapped_column(ForeignKey("roles.id", ondelete="CASCADE"), primary_key=True)
    implied_id: Mapped[str] = mapped_column(ForeignKey("roles.id", ondelete="CASCADE"), primary_key=True)


class Assignment(Base):
    """A role of a user or of a group on a project, on a domain, or on the system (target_id empty).

    ``inherited``: not on the target itself, but on every project of the domain, or below the project.
    """

    __tablename__ = "assignments"
    __table_args__ = (
        UniqueConstraint("user_id", "role_id", "target_kind", "target_id", "inherited"),
        UniqueConstraint("group_id", "role_id", "target_kind", "target_id", "inherited"),
    )

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    user_id: Mapped[str | None] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    group_id: Mapped[str | None] = mapped_column(ForeignKey("groups.id", ondelete="CASCADE"), index=True)
    role_id: Mapped[str] = mapped_column(ForeignKey("roles.id", ondelete="CASCADE"))
    target_kind: Mapped[str]  # project | domain | system
    target_id: Mapped[str] = mapped_column(default="", index=True)
    inherited: Mapped[bool] = mapped_column(default=False)


class RevokedToken(Base):
    """A token revoked before its time, by audit id; pruned once it would have expired."""

    __tablename__ = "revoked_tokens"

    audit_id: Mapped[str] = mapped_column(primary_key=True)
    expires_at: Mapped[datetime]


class LoginFailure(Base):
    """Wrong passwords of one account from one address in a row."""

    __tablename__ = "login_failures"

    account: Mapped[str] = mapped_column(primary_key=True)
    address: Mapped[str] = mapped_column(primary_key=True)
    failures: Mapped[int] = mapped_column(default=0)
    last_at: Mapped[datetime] = mapped_column(default=now)
