"""A host is leased to one run at a time: compare-and-set, heartbeat, a fencing number that hosts check."""

from __future__ import annotations

import os
import socket
from datetime import timedelta

from sqlalchemy import or_, update
from sqlalchemy.orm import Session

from ..models import Host, now


def build_worker_name() -> str:
    """This process, as others can tell whether it lives: host:pid:start time (in ticks since boot)."""
    return f"{socket.gethostname()}:{os.getpid()}:{_start_time(os.getpid())}"


def _start_time(pid: int) -> str | None:
    try:
        with open(f"/proc/{pid}/stat") as stream:
            return stream.read().rsplit(")", 1)[1].split()[19]
    except OSError:
        return None


def is_dead(worker: str) -> bool:
    """Whether a worker of this machine is known to have ended (one of another machine never is)."""
    name, pid, started = worker.rsplit(":", 2)
    return name == socket.gethostname() and _start_time(int(pid)) != started


def take_lease(session: Session, host_id: str, worker: str, seconds: int) -> int | None:
    """The fencing number under which ``worker`` now holds the host; None where another one does."""
    holder = session.get(Host, host_id).lease_owner
    free = [Host.lease_owner.is_(None), Host.lease_expires_at < now()]
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


def renew_leases(session: Session, worker: str, seconds: int) -> None:
    """The heartbeat of all the hosts that ``worker`` holds."""
    session.execute(
        update(Host)
        .where(Host.lease_owner == worker)
        .values(lease_expires_at=now() + timedelta(seconds=seconds))
        .execution_options(synchronize_session=False)
    )
