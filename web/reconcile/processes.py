"""Names of processes of this machine by which others tell whether they live: a pid alone is given out again."""

from __future__ import annotations

import os
from pathlib import Path


def read_start_time(pid: int) -> str | None:
    """When the process was started, in ticks since boot; None where there is none of this number."""
    try:
        with open(f"/proc/{pid}/stat") as stream:
            return stream.read().rsplit(")", 1)[1].split()[19]
    except OSError:
        return None


def build_process_name() -> str:
    """This process: PID-START."""
    return f"{os.getpid()}-{read_start_time(os.getpid())}"


def is_alive(name: str) -> bool:
    """Whether the process of this name (PID-START) lives."""
    pid, _, started = name.partition("-")
    return pid.isdigit() and read_start_time(int(pid)) == started


def is_in_use(folder: Path) -> bool:
    """Whether the process that made a run's folder (run-PID-START-…) lives."""
    parts = folder.name.split("-")
    return len(parts) == 4 and is_alive(f"{parts[1]}-{parts[2]}")
