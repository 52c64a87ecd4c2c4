"""What a worker is told through the broker: a Celery consumer in a thread, which hands on ids of hosts that are due.

The broker may be gone for as long as it likes: the loop looks by itself meanwhile. Next room: `../dispatch.py`, which
publishes; `loop.py`, which takes the hosts.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable

from ..dispatch import TASK, build_celery, build_queue, build_queue_name

LOG = logging.getLogger("kumo.worker")
AGAIN_S = 5.0
END_S = 5.0


class Messages:
    """The consumer of the queues of ``zones``; ``take(host_id)`` is called in its thread, and returns at once."""

    def __init__(self, settings, take: Callable[[str], None]):
        self.settings, self.take = settings, take
        self.zones: set[str] = set()
        self.consumed: set[str] = set()  # those of them that the consumer knows of
        self.lock = threading.Lock()
        self.stopping = threading.Event()
        self.controller = None
        self.thread = threading.Thread(target=self._consume, name="messages", daemon=True)

    def start(self, zones: Iterable[str]) -> None:
        """Consume from now on, and again whenever the broker comes back."""
        self.zones |= set(zones)
        self.thread.start()

    def add_zones(self, zones: Iterable[str]) -> None:
        """Consume the queues of these, too; said again at each look of the loop, for a consumer takes time to start."""
        with self.lock:
            self.zones |= set(zones)
            consumer = getattr(self.controller, "consumer", None)
            if consumer is None:
                return
            for zone in sorted(self.zones - self.consumed):
                consumer.call_soon(_add_queue, consumer, zone)
                self.consumed.add(zone)

    def end(self) -> None:
        """Stop consuming; a thread that waits for a broker ends with the process."""
        from celery.worker import state

        self.stopping.set()
        state.should_stop = 0  # celery's word for it, read by its loop
        self.thread.join(END_S)

    def _consume(self) -> None:
        while not self.stopping.is_set():
            try:
                self._build().start()
            except Exception:
                LOG.exception("the consumer of messages has ended; hosts are looked at by the timer until it is back")
            self.stopping.wait(AGAIN_S)

    def _build(self):
        """A Celery worker that runs its tasks in its own thread and installs no signal handlers."""
        from celery.worker import WorkController

        app = build_celery(self.settings)
        app.task(name=TASK, bind=False)(self.take)
        with self.lock:
            self.controller, self.consumed = None, set(self.zones)
            zones = sorted(self.zones)
        app.conf.task_queues = [build_queue(zone) for zone in zones]
        controller = WorkController(
            app=app,
            pool="solo",
            concurrency=1,
            loglevel=logging.WARNING,
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
        )
        LOG.info("messages from %s: %s", app.connection().as_uri(), ", ".join(map(build_queue_name, zones)))
        self.controller = controller
        return controller


def _add_queue(consumer, zone: str) -> None:
    queue = build_queue(zone)
    consumer.app.amqp.queues.add(queue)
    consumer.add_task_queue(queue.name)
