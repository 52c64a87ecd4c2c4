"""Who may act: domains, projects, users, roles, assignments, revoked tokens, wrong passwords.

Owns the rows only; tokens are made and checked in `web/auth.py`.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from .base import Base, new_hex_id, now


class Domain(Base):
    __tablename__ = "domains"

    id: Mapped[str] = mapped_column(primary_key=True, default=new_hex_id)
    name: Mapped[str] = mapped_column(unique=True)
    description: Mapped[str] = mapped_column(Text, default="")
    enabled: Mapped[bool] = mapped_column(default=True)


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
    extra: Mapped[dict] = mapped_column(default=dict)
    options: Mapped[dict] = mapped_column(default=dict)


class Role(Base):
    __tablename__ = "roles"

    id: Mapped[str] = mapped_column(primary_key=True, default=new_hex_id)
    name: Mapped[str] = mapped_column(unique=True)
    domain_id: Mapped[str | None]
    description: Mapped[str | None] = mapped_column(Text)


class Assignment(Base):
    """A role of a user on a project, on a domain, or on the system (both empty)."""

    __tablename__ = "assignments"
    __table_args__ = (UniqueConstraint("user_id", "role_id", "target_kind", "target_id"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    role_id: Mapped[str] = mapped_column(ForeignKey("roles.id", ondelete="CASCADE"))
    target_kind: Mapped[str]  # project | domain | system
    target_id: Mapped[str] = mapped_column(default="", index=True)


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
