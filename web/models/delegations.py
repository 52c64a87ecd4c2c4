"""What users hand on: application credentials with their access rules, and trusts.

Owns the rows only; `web/delegations.py` says what a token made through one may do.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from .base import Base, new_hex_id, now


class AccessRule(Base):
    """Requests that application credentials of the user may be confined to; never changed, so they keep copies."""

    __tablename__ = "access_rules"
    __table_args__ = (UniqueConstraint("user_id", "service", "method", "path"),)

    id: Mapped[str] = mapped_column(primary_key=True, default=new_hex_id)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    service: Mapped[str]
    method: Mapped[str]
    path: Mapped[str]


class AppCredential(Base):
    """A secret with which a program gets some of its user's roles on one project."""

    __tablename__ = "application_credentials"
    __table_args__ = (UniqueConstraint("user_id", "name"),)

    id: Mapped[str] = mapped_column(primary_key=True, default=new_hex_id)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"), index=True)
    name: Mapped[str]
    description: Mapped[str | None] = mapped_column(Text)
    secret_hash: Mapped[str]
    role_ids: Mapped[list] = mapped_column(default=list)
    unrestricted: Mapped[bool] = mapped_column(default=False)
    expires_at: Mapped[datetime | None]
    access_rules: Mapped[list] = mapped_column(default=list)  # [{id, service, method, path}]
    created_at: Mapped[datetime] = mapped_column(default=now)


class Trust(Base):
    """Some of the trustor's roles on one project, for the trustee; made through another trust where that allows it."""

    __tablename__ = "trusts"

    id: Mapped[str] = mapped_column(primary_key=True, default=new_hex_id)
    trustor_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    trustee_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"), index=True)
    impersonation: Mapped[bool]
    role_ids: Mapped[list] = mapped_column(default=list)
    expires_at: Mapped[datetime | None]
    remaining_uses: Mapped[int | None]  # empty: any number
    redelegation_count: Mapped[int] = mapped_column(default=0)  # how deep it may be handed on
    parent_id: Mapped[str | None] = mapped_column(ForeignKey("trusts.id", ondelete="CASCADE"), index=True)
