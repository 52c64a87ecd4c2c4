"""Tokens that lead to a guest's console once: what they are for, never what they are.

A row goes when its token is used, when the server is gone, and by `reconcile/pruning.py` once it has expired. Next
room: `web/console_tokens.py`, which makes them and takes them.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from .base import Base, now


class ConsoleToken(Base):
    """``host_id`` and ``port`` are where the console was when it was asked for: elsewhere the token leads nowhere."""

    __tablename__ = "console_tokens"

    digest: Mapped[str] = mapped_column(primary_key=True)  # SHA-256 of the token, hexadecimal
    server_id: Mapped[str] = mapped_column(ForeignKey("servers.id", ondelete="CASCADE"), index=True)
    host_id: Mapped[str] = mapped_column(ForeignKey("hosts.id", ondelete="CASCADE"))
    kind: Mapped[str]  # novnc | serial
    port: Mapped[int]
    user_id: Mapped[str]
    request_id: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(default=now)
    expires_at: Mapped[datetime] = mapped_column(index=True)
