"""Worker processes: who they are, and when they last said that they live.

A worker writes its row with its own clean-up, once a minute; a new one on a machine takes over the row of one that is
known to have ended there, so that a restart makes no further service. Next rooms: `web/reconcile/alive.py`, which
writes; `web/resources/compute/services.py`, which shows.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy.orm import Mapped, mapped_column

from .base import Base, new_uuid, now

HEARD = timedelta(minutes=3)  # three times the interval at which workers write


class WorkerProcess(Base):
    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(primary_key=True, default=new_uuid)
    name: Mapped[str] = mapped_column(unique=True)  # machine:pid:start time (reconcile/lease.py)
    machine: Mapped[str]
    zones: Mapped[list] = mapped_column(default=list)  # whose hosts it takes; empty: all
    started_at: Mapped[datetime] = mapped_column(default=now)
    seen_at: Mapped[datetime] = mapped_column(default=now)

    def is_up(self, at: datetime) -> bool:
        """Whether it was heard of lately."""
        return at - self.seen_at <= HEARD
