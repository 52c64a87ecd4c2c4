"""Commands that are run, and processes that are found and ended by what only they have in their arguments.

Owns: running a command with a readable error; ending processes without a race between starting and recording them
(a lab's processes have a path of the lab among their arguments, and nothing else has). Next room: containers.py.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

from .inventory import LabError


def run(arguments: list, timeout: float = 60, **options) -> str:
    """Run a command; its standard output. LabError with its last words if it fails."""
    arguments = [str(argument) for argument in arguments]
    options.setdefault("capture_output", True)
    try:
        done = subprocess.run(arguments, text=True, timeout=timeout, check=False, **options)
    except FileNotFoundError:
        raise LabError(f"the command {arguments[0]} is missing on this machine") from None
    except subprocess.TimeoutExpired:
        raise LabError(f"{' '.join(arguments[:4])} … did not end within {timeout:.0f} s") from None
    if done.returncode:
        words = ((done.stderr or "") + (done.stdout or "")).strip()[-1200:]
        raise LabError(f"{' '.join(arguments[:4])} … failed with status {done.returncode}: {words}")
    return done.stdout or ""


def read_start(pid: int) -> str | None:
    """When a process started, in clock ticks since boot: with its pid the name of this very process. None: gone."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return None
    return None if words[0] in "ZX" else words[19]


def find_processes(argument: str) -> dict[int, str]:
    """{pid: start} of processes that have exactly ``argument`` among their arguments."""
    found = {}
    wanted = argument.encode()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                arguments = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            start = read_start(int(entry.name))
            if wanted in arguments and start is not None:
                found[int(entry.name)] = start
    return found


def end_processes(found: dict[int, str], sign: int = signal.SIGKILL, seconds: float = 20) -> None:
    """Send a signal to processes and wait until they are gone; a pid that another process has by now is left alone."""
    for pid, start in found.items():
        if read_start(pid) == start:
            try:
                os.kill(pid, sign)
            except ProcessLookupError:
                continue
    deadline = time.monotonic() + seconds
    while left := {pid: start for pid, start in found.items() if read_start(pid) == start}:
        if time.monotonic() > deadline:
            raise LabError(f"processes {', '.join(map(str, left))} are still there {seconds:.0f} s after a signal")
        time.sleep(0.02)


def read_relation(pid: int) -> tuple[int, int]:
    """(parent, session) of a process; (0, 0) if it is gone."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return 0, 0
    return int(words[1]), int(words[3])


def find_in_namespace(namespace: str) -> dict[int, str]:
    """{pid: start} of processes in a named network namespace, without the sessions that this process runs under."""
    if not Path("/run/netns", namespace).exists():
        return {}
    sessions, pid = set(), os.getpid()
    while pid > 1:
        pid, session = read_relation(pid)
        sessions.add(session)
    pids = {int(word) for word in run(["ip", "netns", "pids", namespace]).split()}
    pids = {pid for pid in pids if read_relation(pid)[1] not in sessions}
    return {pid: start for pid in pids if (start := read_start(pid)) is not None}
