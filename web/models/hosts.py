"""Hosts, the runs against them and the requests that asked for those runs.

`touch` is how any transaction says that a host's document has changed. Leases are compare-and-set
with a fencing number (`fence`) that hosts check.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, Index, Text, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from .base import Base, new_uuid, now


class Host(Base):
    __tablename__ = "hosts"

    id: Mapped[str] = mapped_column(primary_key=True, default=new_uuid)
    name: Mapped[str] = mapped_column(unique=True)
    zone: Mapped[str] = mapped_column(default="nova")
    roles: Mapped[list] = mapped_column(default=list)  # ["hypervisor"], ["storage"] …
    connection: Mapped[dict] = mapped_column(default=dict)  # Ansible's ansible_* variables
    enabled: Mapped[bool] = mapped_column(default=True)
    disabled_reason: Mapped[str | None] = mapped_column(Text)
    forced_down: Mapped[bool] = mapped_column(default=False)
    settings: Mapped[dict] = mapped_column(default=dict)  # overrides of the document's settings
    created_at: Mapped[datetime] = mapped_column(default=now)

    generation: Mapped[int] = mapped_column(default=1)
    observed_generation: Mapped[int] = mapped_column(default=0)
    observed_at: Mapped[datetime | None]  # last run that reached it
    observed_pending: Mapped[bool] = mapped_column(default=False)  # the host has something under way
    observed: Mapped[dict] = mapped_column(default=dict)  # host facts, orphans, tasks
    failures: Mapped[int] = mapped_column(default=0)  # runs in a row that failed as a whole
    error: Mapped[str | None] = mapped_column(Text)
    next_run_at: Mapped[datetime | None]  # not before (back-off), or timer

    fence: Mapped[int] = mapped_column(default=0)
    lease_owner: Mapped[str | None]
    lease_expires_at: Mapped[datetime | None]


class Aggregate(Base):
    """A group of hypervisors that admins make; one with ``availability_zone`` in its metadata is a zone."""

    __tablename__ = "aggregates"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    uuid: Mapped[str] = mapped_column(unique=True, default=new_uuid)
    name: Mapped[str] = mapped_column(unique=True)
    metadata_: Mapped[dict] = mapped_column("metadata", default=dict)
    created_at: Mapped[datetime] = mapped_column(default=now)
    updated_at: Mapped[datetime | None]


class AggregateHost(Base):
    __tablename__ = "aggregate_hosts"

    aggregate_id: Mapped[int] = mapped_column(ForeignKey("aggregates.id", ondelete="CASCADE"), primary_key=True)
    host_id: Mapped[str] = mapped_column(ForeignKey("hosts.id", ondelete="CASCADE"), primary_key=True)


class HostRequest(Base):
    """A request that dirtied a host: it is done when the host has observed this generation."""

    __tablename__ = "host_requests"
    __table_args__ = (Index("ix_host_requests_host_generation", "host_id", "generation"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    host_id: Mapped[str] = mapped_column(ForeignKey("hosts.id", ondelete="CASCADE"))
    generation: Mapped[int]
    request_id: Mapped[str] = mapped_column(index=True)
    run_id: Mapped[str | None] = mapped_column(index=True)  # the run that carried it
    created_at: Mapped[datetime] = mapped_column(default=now)


class Run(Base):
    """One play against one host."""

    __tablename__ = "runs"

    id: Mapped[str] = mapped_column(primary_key=True, default=new_uuid)
    host_id: Mapped[str] = mapped_column(ForeignKey("hosts.id", ondelete="CASCADE"), index=True)
    generation: Mapped[int]
    fence: Mapped[int]
    worker: Mapped[str]
    state: Mapped[str] = mapped_column(default="running")  # running succeeded failed cancelled lost
    cancel_wanted: Mapped[bool] = mapped_column(default=False)
    error: Mapped[str | None] = mapped_column(Text)
    changed: Mapped[bool] = mapped_column(default=False)
    actions: Mapped[list] = mapped_column(default=list)
    results: Mapped[dict] = mapped_column(default=dict)
    tasks: Mapped[list] = mapped_column(default=list)  # [{name, seconds, state}] of the play
    started_at: Mapped[datetime] = mapped_column(default=now, index=True)
    finished_at: Mapped[datetime | None]


class RequestLog(Base):
    """A request that changed something, or failed: what `kumo logs request` begins with."""

    __tablename__ = "request_log"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    request_id: Mapped[str] = mapped_column(index=True)
    service: Mapped[str]
    method: Mapped[str]
    path: Mapped[str] = mapped_column(Text)
    status: Mapped[int]
    user_id: Mapped[str | None]
    project_id: Mapped[str | None]
    error: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(default=now, index=True)


def touch(session: Session, host_id: str | None, request_id: str | None = None) -> None:
    """Say that the host's document has changed: one more generation, due at once, by this request."""
    if host_id is None:
        return
    row = session.execute(
        update(Host)
        .where(Host.id == host_id)
        .values(generation=Host.generation + 1, next_run_at=None)
        .returning(Host.generation, Host.zone)
        .execution_options(synchronize_session=False)
    ).first()
    if row is not None and request_id is not None:
        session.add(HostRequest(host_id=host_id, generation=row[0], request_id=request_id))
    mark_due(session, host_id, row[1] if row is not None else "")


def mark_due(session: Session, host_id: str, zone: str) -> None:
    """Have workers told of a host once the transaction is through: ``session.info["touched_hosts"]`` is {id: zone}."""
    session.info.setdefault("touched_hosts", {})[host_id] = zone
