"""Work that may hang: side by side, each with a deadline, in threads that end with the call.

Threads are daemons on purpose: one stuck inside a C library must not keep a module from exiting.
"""

from __future__ import annotations

import queue
import threading
import time

from .errors import KumoError


def run_with_deadline(seconds: float, sentence: str, work):
    """The value of ``work()``; what it raises; KumoError(``sentence``) after ``seconds``."""
    box: list = []

    def target():
        try:
            box.append((work(), None))
        except BaseException as error:
            box.append((None, error))

    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    thread.join(seconds)
    if not box:
        raise KumoError(sentence)
    value, error = box[0]
    if error is not None:
        raise error
    return value


def run_side_by_side(works: list, width: int, seconds: float) -> list:
    """The values of ``works`` (callables that do not raise) in their order; None for one that took over ``seconds``.

    At most ``width`` at a time; one that hangs past its deadline gives its place to the next.
    """
    values: list = [None] * len(works)
    finished: queue.Queue = queue.Queue()
    running: dict[int, float] = {}
    waiting = list(range(len(works)))

    def target(index):
        value = works[index]()
        finished.put((index, value))

    while waiting or running:
        while waiting and len(running) < width:
            index = waiting.pop(0)
            running[index] = time.monotonic() + seconds
            threading.Thread(target=target, args=(index,), daemon=True).start()
        try:
            index, value = finished.get(timeout=max(0.0, min(running.values()) - time.monotonic()))
        except queue.Empty:
            now = time.monotonic()
            running = {index: until for index, until in running.items() if until > now}
            continue
        if running.pop(index, None) is not None:
            values[index] = value
    return values
