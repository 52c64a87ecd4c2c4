"""Imports of images: what was asked, and how far it is. The worker's only memory of them (`web/image_imports.py`)."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, Text
from sqlalchemy.orm import Mapped, mapped_column

from .base import Base, new_uuid, now


class ImageTask(Base):
    """One import. Nobody works on it unless the part file that its image's ``upload_id`` names is locked."""

    __tablename__ = "image_tasks"

    id: Mapped[str] = mapped_column(primary_key=True, default=new_uuid)
    image_id: Mapped[str] = mapped_column(ForeignKey("images.id", ondelete="CASCADE"), index=True)
    project_id: Mapped[str | None]
    user_id: Mapped[str | None]
    request_id: Mapped[str | None]
    type: Mapped[str]  # api_image_import, or import where POST /tasks made it
    input: Mapped[dict] = mapped_column(default=dict)  # as clients see it
    uri: Mapped[str | None] = mapped_column(Text)  # None: the bytes are staged
    status: Mapped[str] = mapped_column(default="pending", index=True)  # pending processing success failure
    message: Mapped[str] = mapped_column(Text, default="")
    attempts: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime] = mapped_column(default=now)
    updated_at: Mapped[datetime] = mapped_column(default=now, onupdate=now)
    expires_at: Mapped[datetime | None]  # of one that ended: when its row goes
