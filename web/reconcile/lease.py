"""A host is leased to one run at a time: compare-and-set, heartbeat, a fencing number that hosts check."""

from __future__ import annotations

import os
import socket
from collections.abc import Collection
from datetime import timedelta

from sqlalchemy import or_, update
from sqlalchemy.orm import Session

from ..models import Host, now
from .processes import read_start_time


def build_worker_name() -> str:
    """This process, as others can tell whether it lives: host:pid:start time (in ticks since boot)."""
    return f"{socket.gethostname()}:{os.getpid()}:{read_start_time(os.getpid())}"


def is_dead(worker: str) -> bool:
    """Whether a worker of this machine is known to have ended (one of another machine never is)."""
    name, pid, started = worker.rsplit(":", 2)
    return name == socket.gethostname() and read_start_time(int(pid)) != started


def take_lease(session: Session, host_id: str, worker: str, seconds: int) -> int | None:
    """The fencing number under which ``worker`` now holds the host; None where another one does.

    A lease of its own is one that it could not give back (the database was gone): it runs no two runs of a host.
    """
    holder = session.get(Host, host_id).lease_owner
    free = [Host.lease_owner.is_(None), Host.lease_owner == worker, Host.lease_expires_at < now()]
    if holder is not None and is_dead(holder):
        free.append(Host.lease_owner == holder)
    row = session.execute(
        update(Host)
        .where(Host.id == host_id, or_(*free))
        .values(lease_owner=worker, lease_expires_at=now() + timedelta(seconds=seconds), fence=Host.fence + 1)
        .returning(Host.fence)
        .execution_options(synchronize_session=False)
    ).first()
    session.expire_all()
    return None if row is None else row[0]


def is_held(host: Host) -> bool:
    """Whether somebody holds the host: a lease that has not run out, of a worker that is not known to be dead."""
    return host.lease_owner is not None and host.lease_expires_at >= now() and not is_dead(host.lease_owner)


def renew_leases(session: Session, worker: str, host_ids: Collection[str], seconds: int) -> None:
    """The heartbeat of the hosts that ``worker`` is at work on, as far as it still holds them."""
    session.execute(
        update(Host)
        .where(Host.id.in_(list(host_ids)), Host.lease_owner == worker)
        .values(lease_expires_at=now() + timedelta(seconds=seconds))
        .execution_options(synchronize_session=False)
    )
