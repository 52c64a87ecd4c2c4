"""Moves of servers from host to host (and resizes on one): what is wanted of each, and what both hosts were seen to do.

A row is in one phase at a time; `web/reconcile/migration_status.py` says which follows which, and documents are
built from it (docs/moving-guests.md). Next room: `web/desired/moves.py`.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, Index, Text
from sqlalchemy.orm import Mapped, mapped_column

from .base import Base, new_uuid, now

LIVE, COLD, RESIZE, EVACUATION = KINDS = "live-migration", "migration", "resize", "evacuation"
UNDER_WAY = ("preparing", "sending")  # phases in which a guest belongs to its source and room is made for it elsewhere


class Migration(Base):
    __tablename__ = "migrations"
    __table_args__ = (Index("ix_migrations_server_phase", "server_id", "phase"),)

    # what is wanted
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    uuid: Mapped[str] = mapped_column(unique=True, default=new_uuid)
    server_id: Mapped[str] = mapped_column(ForeignKey("servers.id", ondelete="CASCADE"))
    project_id: Mapped[str]
    user_id: Mapped[str]
    kind: Mapped[str]  # live-migration | migration | resize | evacuation
    source_host_id: Mapped[str] = mapped_column(ForeignKey("hosts.id"), index=True)
    dest_host_id: Mapped[str | None] = mapped_column(ForeignKey("hosts.id"), index=True)  # empty: none was found
    old_flavor_id: Mapped[str]
    old_flavor: Mapped[dict]
    new_flavor_id: Mapped[str]
    new_flavor: Mapped[dict]
    abort_wanted: Mapped[bool] = mapped_column(default=False)
    force_wanted: Mapped[bool] = mapped_column(default=False)  # complete it, at the price of a longer pause
    unattended: Mapped[bool] = mapped_column(default=False)  # nobody is asked: confirmed once seen at the destination
    created_at: Mapped[datetime] = mapped_column(default=now)
    updated_at: Mapped[datetime | None]

    # how far it is
    phase: Mapped[str] = mapped_column(default="preparing", index=True)
    outcome: Mapped[str | None]  # completed | failed | cancelled | confirmed | reverted
    error: Mapped[str | None] = mapped_column(Text)
    phase_at: Mapped[datetime] = mapped_column(default=now)  # since then, or since it was last seen to go on
    # Only documents from these generations on know of the phase; what older ones led to says nothing of it.
    source_generation: Mapped[int] = mapped_column(default=0)
    dest_generation: Mapped[int] = mapped_column(default=0)

    # migration_status.compute_status of it, stored with it
    status: Mapped[str] = mapped_column(default="preparing", index=True)

    # what was seen; also {phase, at, running, fenced, failures}, see reconcile/observe_migrations.py
    observed_source: Mapped[dict] = mapped_column(default=dict)  # {state, error, progress, address, port, name}
    observed_dest: Mapped[dict] = mapped_column(default=dict)  # {state, error, progress}
