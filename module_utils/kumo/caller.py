"""Ends a call whose caller has gone: a run that was cancelled, whose worker was killed or whose connection was cut.

Nobody would read the answer, and the next run would find the lock held. What is half done is taken up by that, as after
any kill. Tasks go on (they are no children of the call). Owns no work of its own; next room: ``module.py``, which
begins and ends the watch.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
from pathlib import Path

GONE = 143  # as if ended by SIGTERM


@contextlib.contextmanager
def watching(descriptor: int, tell=lambda: None):
    """End this process as soon as the caller closes its end of the pipe or socket that the answer will go to.

    The block is the work; the answer is written behind it, for a caller that has read it may go. ``tell`` is called
    before the end. A file or a terminal has no caller that could go.
    """
    answered = threading.Event()

    def wait() -> None:
        poll = select.poll()
        poll.register(descriptor, 0)
        events = poll.poll()  # ERR or HUP: the other end was closed; NVAL: this one
        if not answered.is_set() and events and not events[0][1] & select.POLLNVAL:
            tell()
            end_children(os.getpid())
            os._exit(GONE)

    threading.Thread(target=wait, name="caller", daemon=True).start()
    try:
        yield
    finally:
        answered.set()


def read_children() -> dict[int, list[int]]:
    """{process: its children} of all there are (proc(5), stat field 4)."""
    found: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
            found.setdefault(parent, []).append(int(entry.name))
    return found


def end_children(pid: int) -> None:
    """Kill what descends from a process, the nearest first, so that none starts another; not the process itself."""
    children = read_children()
    waiting = list(children.get(pid, []))
    while waiting:
        one = waiting.pop(0)
        waiting += children.get(one, [])
        try:
            os.kill(one, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue
