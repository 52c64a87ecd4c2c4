"""Secrets that services need in plain: EC2 key pairs, one-time passwords' seeds and whatever users keep there.

Owns the rows only. Next room: `resources/identity/credentials.py`.
"""

from __future__ import annotations

from sqlalchemy import ForeignKey, Text
from sqlalchemy.orm import Mapped, mapped_column

from .base import Base, new_hex_id


class Credential(Base):
    """``sealed`` is the blob under the token keys (`TokenKeys`).

    ``access_hash`` is the SHA-256 of an EC2 one's access key, by which it is found; its id is that of its first one.
    """

    __tablename__ = "credentials"

    id: Mapped[str] = mapped_column(primary_key=True, default=new_hex_id)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    project_id: Mapped[str | None] = mapped_column(index=True)
    type: Mapped[str]
    access_hash: Mapped[str | None] = mapped_column(index=True, unique=True)
    sealed: Mapped[str] = mapped_column(Text)
    extra: Mapped[dict] = mapped_column(default=dict)  # further attributes, as clients gave them
    last_counter: Mapped[int] = mapped_column(default=0)  # of a one-time password: the newest that was used
