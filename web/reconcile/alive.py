"""A worker's own row: that it lives, for whoever asks which services there are.

Called with the worker's clean-up. Nothing is decided by it: leases say who works on a host. Next rooms:
`web/models/workers.py`, `loop.py`.
"""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import select
from sqlalchemy.orm import Session

from ..models import WorkerProcess, now
from .lease import is_dead


def note_alive(session: Session, name: str, zones: Collection[str]) -> None:
    """Write that the worker ``name`` lives and takes hosts of ``zones`` (none named: of all)."""
    machine = name.rsplit(":", 2)[0]
    rows = list(session.scalars(select(WorkerProcess).where(WorkerProcess.machine == machine)))
    row = next((one for one in rows if one.name == name), None)
    if row is None:
        row = next((one for one in rows if is_dead(one.name)), None) or WorkerProcess(machine=machine)
        row.name, row.started_at = name, now()
        session.add(row)
    row.zones, row.seen_at = sorted(zones), now()
