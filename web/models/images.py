"""Images: what the image service knows of each; the bytes lie in the store directory by id."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from .base import Base, new_uuid, now


class Image(Base):
    __tablename__ = "images"

    id: Mapped[str] = mapped_column(primary_key=True, default=new_uuid)
    project_id: Mapped[str | None] = mapped_column(index=True)  # "owner" in the API
    name: Mapped[str | None]
    status: Mapped[str] = mapped_column(
        default="queued"
    )  # queued saving uploading importing active deactivated deleted
    visibility: Mapped[str] = mapped_column(default="shared")
    disk_format: Mapped[str | None]
    container_format: Mapped[str | None]
    size: Mapped[int | None] = mapped_column(BigInteger)
    virtual_size: Mapped[int | None] = mapped_column(BigInteger)
    checksum: Mapped[str | None]  # MD5, as the API has it
    os_hash_algo: Mapped[str | None]
    os_hash_value: Mapped[str | None]
    min_disk: Mapped[int] = mapped_column(default=0)
    min_ram: Mapped[int] = mapped_column(default=0)
    protected: Mapped[bool] = mapped_column(default=False)
    os_hidden: Mapped[bool] = mapped_column(default=False)
    properties: Mapped[dict] = mapped_column(default=dict)
    tags: Mapped[list] = mapped_column(default=list)
    failed_import: Mapped[str | None]  # None: never imported; else the stores that its last import failed for
    upload_id: Mapped[str | None]  # the upload under way, so that a later one cannot finish it
    created_at: Mapped[datetime] = mapped_column(default=now)
    updated_at: Mapped[datetime] = mapped_column(default=now, onupdate=now)
    deleted_at: Mapped[datetime | None] = mapped_column(index=True)


class ImageMember(Base):
    """A project that a shared image is offered to; it lists the image once it accepted."""

    __tablename__ = "image_members"

    image_id: Mapped[str] = mapped_column(ForeignKey("images.id", ondelete="CASCADE"), primary_key=True)
    member_id: Mapped[str] = mapped_column(primary_key=True, index=True)  # a project
    status: Mapped[str] = mapped_column(default="pending")  # pending accepted rejected
    created_at: Mapped[datetime] = mapped_column(default=now)
    updated_at: Mapped[datetime] = mapped_column(default=now, onupdate=now)
