"""Answers that were given under an `Idempotency-Key`: a request that is sent again gets its answer, and is not done."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Text
from sqlalchemy.orm import Mapped, mapped_column

from .base import Base, now


class IdempotentAnswer(Base):
    """One answer, stored by the transaction that did the work; pruned after `[api] idempotency_s`."""

    __tablename__ = "idempotent_answers"

    user_id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(primary_key=True)  # empty: a token of no project
    key: Mapped[str] = mapped_column(primary_key=True)
    digest: Mapped[str]  # SHA-256 of the request (web/idempotency.py)
    request: Mapped[str] = mapped_column(Text)  # "POST /compute/v2.1/servers", for people
    status: Mapped[int]
    headers: Mapped[list] = mapped_column(default=list)  # [[name, value]]
    body: Mapped[str] = mapped_column(Text)  # encrypted with the cloud's token keys: it may hold a password
    created_at: Mapped[datetime] = mapped_column(default=now, index=True)
