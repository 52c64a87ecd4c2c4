"""Server groups: servers that are to be together, or apart, and the rule that says so.

A member is what asked for the group when it was created; one that is being deleted counts no more.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from .base import Base, new_uuid, now

AFFINITY, ANTI_AFFINITY, SOFT_AFFINITY, SOFT_ANTI_AFFINITY = POLICIES = (
    "affinity", "anti-affinity", "soft-affinity", "soft-anti-affinity",
)  # fmt: skip


class ServerGroup(Base):
    __tablename__ = "server_groups"

    id: Mapped[str] = mapped_column(primary_key=True, default=new_uuid)
    project_id: Mapped[str] = mapped_column(index=True)
    user_id: Mapped[str]
    name: Mapped[str]
    policy: Mapped[str]  # one of POLICIES
    most_per_host: Mapped[int] = mapped_column(default=1)  # of anti-affinity
    created_at: Mapped[datetime] = mapped_column(default=now)


class ServerGroupMember(Base):
    __tablename__ = "server_group_members"

    server_id: Mapped[str] = mapped_column(ForeignKey("servers.id", ondelete="CASCADE"), primary_key=True)
    group_id: Mapped[str] = mapped_column(ForeignKey("server_groups.id", ondelete="CASCADE"), index=True)
