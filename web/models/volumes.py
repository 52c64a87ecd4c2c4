"""Volumes, their snapshots, types and attachments: what is wanted and what was seen, side by side.

Storage hosts keep volumes and export them, one iSCSI target per attachment; hypervisors connect guests to
those. `web/reconcile/volume_status.py` computes every status from these columns. Next room: `servers.py`.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, Index, Text
from sqlalchemy.orm import Mapped, mapped_column

from .base import Base, new_uuid, now


class VolumeType(Base):
    __tablename__ = "volume_types"

    id: Mapped[str] = mapped_column(primary_key=True, default=new_uuid)
    name: Mapped[str] = mapped_column(unique=True)
    description: Mapped[str | None] = mapped_column(Text)
    is_public: Mapped[bool] = mapped_column(default=True)
    extra_specs: Mapped[dict] = mapped_column(default=dict)  # volume_backend_name chooses the backend
    created_at: Mapped[datetime] = mapped_column(default=now)
    updated_at: Mapped[datetime | None]


class VolumeTypeAccess(Base):
    """A project that may use a type that is not public."""

    __tablename__ = "volume_type_access"

    volume_type_id: Mapped[str] = mapped_column(ForeignKey("volume_types.id", ondelete="CASCADE"), primary_key=True)
    project_id: Mapped[str] = mapped_column(primary_key=True)


class Stored:
    """What volumes and snapshots have in common: an object on a storage host, made and removed by its runs."""

    id: Mapped[str] = mapped_column(primary_key=True, default=new_uuid)
    project_id: Mapped[str] = mapped_column(index=True)
    user_id: Mapped[str]
    name: Mapped[str | None]
    description: Mapped[str | None] = mapped_column(Text)
    metadata_: Mapped[dict] = mapped_column("metadata", default=dict)
    size_gb: Mapped[int]
    host_id: Mapped[str | None] = mapped_column(ForeignKey("hosts.id"), index=True)
    created_at: Mapped[datetime] = mapped_column(default=now)
    updated_at: Mapped[datetime] = mapped_column(default=now)
    deleted_at: Mapped[datetime | None]  # the tombstone: delete was asked

    observed_state: Mapped[str | None]  # creating available; empty: not there
    observed_size_gb: Mapped[int | None]
    observed_progress: Mapped[float | None]  # 0..1 of the task under way
    observed_error: Mapped[str | None] = mapped_column(Text)
    observed_failures: Mapped[int] = mapped_column(default=0)
    observed_at: Mapped[datetime | None]
    built_at: Mapped[datetime | None]  # first seen whole
    gone_at: Mapped[datetime | None]  # seen gone after the tombstone
    fault_message: Mapped[str | None] = mapped_column(Text)
    status: Mapped[str] = mapped_column(default="creating", index=True)  # volume_status's answer, stored with it


class Volume(Stored, Base):
    __tablename__ = "volumes"
    __table_args__ = (Index("ix_volumes_host_gone", "host_id", "gone_at"),)

    volume_type_id: Mapped[str | None] = mapped_column(ForeignKey("volume_types.id"))
    availability_zone: Mapped[str | None]  # as asked; the host's zone is what it has
    image_id: Mapped[str | None]  # made from it
    snapshot_id: Mapped[str | None]
    source_volume_id: Mapped[str | None]
    bootable: Mapped[bool] = mapped_column(default=False)
    read_only: Mapped[bool] = mapped_column(default=False)
    image_metadata: Mapped[dict] = mapped_column(default=dict)  # volume_image_metadata
    # Its content made anew from `image_id` (docs/compute.md, "A root disk that is a volume"): wanted is a count.
    reimage_wanted: Mapped[int] = mapped_column(default=0, server_default="0")
    reimage_begun: Mapped[int] = mapped_column(default=0, server_default="0")  # up to here nobody uses it any more
    observed_reimage_ready: Mapped[int] = mapped_column(default=0, server_default="0")  # for it the image is there
    observed_reimage_done: Mapped[int] = mapped_column(default=0, server_default="0")

    @property
    def is_reimaged(self) -> bool:
        """Whether its content is to be made anew, or being so."""
        return (self.reimage_wanted or 0) > (self.observed_reimage_done or 0)

    @property
    def is_withheld(self) -> bool:
        """Whether its content is being made anew, so that nobody may open it."""
        return (self.reimage_begun or 0) > (self.observed_reimage_done or 0)

    @property
    def is_kept_from_guests(self) -> bool:
        """Whether its guest is to be off: its content is being made anew, or could be, its image being there."""
        return self.is_withheld or (self.is_reimaged and self.observed_reimage_ready >= self.reimage_wanted)


class Snapshot(Stored, Base):
    __tablename__ = "volume_snapshots"

    volume_id: Mapped[str] = mapped_column(ForeignKey("volumes.id"), index=True)


class VolumeAttachment(Base):
    """One use of a volume: by a guest (``server_id``), or by a host outside that a client speaks for.

    The order of things is conditions, never a chain: exported once wanted; in the guest's document once seen
    exported; no more exported once wanted no more and seen out of the guest; the row goes once that is seen.
    """

    __tablename__ = "volume_attachments"

    id: Mapped[str] = mapped_column(primary_key=True, default=new_uuid)
    volume_id: Mapped[str] = mapped_column(ForeignKey("volumes.id"), index=True)
    project_id: Mapped[str]
    server_id: Mapped[str | None] = mapped_column(index=True)
    connector: Mapped[dict] = mapped_column(default=dict)  # as a client outside of compute gave it
    wanted: Mapped[bool] = mapped_column(default=True)  # False: reserved only, nothing is exported
    completed: Mapped[bool] = mapped_column(
        default=False
    )  # os-complete, or of a shelved server: it counts as connected
    device: Mapped[str | None]  # vdb: the name that users see; also the guest's target
    read_only: Mapped[bool] = mapped_column(default=False)
    boot_index: Mapped[int | None]  # 0: the guest's root disk
    delete_with_server: Mapped[bool] = mapped_column(default=False)
    tag: Mapped[str | None]
    username: Mapped[str]  # CHAP, of this attachment alone
    password: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(default=now)
    deleted_at: Mapped[datetime | None]  # detach was asked
    # The guest's host was lost: none runs before the target of then is closed, and the one in its place is open.
    replaced: Mapped[bool] = mapped_column(default=False)
    # Its server was seen gone: nobody can write by it any more, and its target is closed next. The volume is free.
    released: Mapped[bool] = mapped_column(default=False)

    observed_export: Mapped[dict | None]  # {iqn, portal, lun} as the storage host has it; empty: not exported
    observed_attached: Mapped[bool] = mapped_column(default=False)  # seen in the guest
    attached_at: Mapped[datetime | None]
    observed_error: Mapped[str | None] = mapped_column(Text)
