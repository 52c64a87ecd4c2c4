"""Images that are to be made of servers' disks: what is wanted of a host, and how far it was seen to be.

A row lives until its image has its bytes, or will never have them; the image itself is the image service's
(`images.py`). Next room: `web/server_images.py`.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, Text
from sqlalchemy.orm import Mapped, mapped_column

from .base import Base, now


class ServerImage(Base):
    __tablename__ = "server_images"

    image_id: Mapped[str] = mapped_column(ForeignKey("images.id", ondelete="CASCADE"), primary_key=True)
    server_id: Mapped[str] = mapped_column(index=True)
    host_id: Mapped[str] = mapped_column(ForeignKey("hosts.id", ondelete="CASCADE"), index=True)  # that makes it
    backup_type: Mapped[str | None]  # of a backup
    rotation: Mapped[int | None]  # how many backups of that type are kept
    attempt: Mapped[int] = mapped_column(default=1)
    created_at: Mapped[datetime] = mapped_column(default=now)

    observed_state: Mapped[str | None]  # waiting copying uploading uploaded failed, of this attempt
    observed_progress: Mapped[float] = mapped_column(default=0.0)
    observed_error: Mapped[str | None] = mapped_column(Text)  # of the last attempt that failed
    progressed_at: Mapped[datetime] = mapped_column(default=now)  # last seen to have gone on
