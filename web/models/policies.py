"""Policies that services elsewhere keep here: text that Kumo stores and does not read. Owns the rows only."""

from __future__ import annotations

from sqlalchemy import Text
from sqlalchemy.orm import Mapped, mapped_column

from .base import Base, new_hex_id


class PolicyBlob(Base):
    __tablename__ = "policies"

    id: Mapped[str] = mapped_column(primary_key=True, default=new_hex_id)
    type: Mapped[str]  # a MIME type, application/json say
    blob: Mapped[str] = mapped_column(Text)
    extra: Mapped[dict] = mapped_column(default=dict)  # further attributes, as clients gave them
