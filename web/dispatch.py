"""Tells workers that hosts are due: by a datagram on this machine, through a broker to those of any machine.

Only says when to look; what is wanted is in the rows, and a message that is lost costs until a worker's next look
(decision 0009). Next room: `reconcile/messages.py`, which receives what is published here.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import socket
import threading
from collections.abc import Mapping

from sqlalchemy import select

from .models import Database, Host

LOG = logging.getLogger("kumo.dispatch")
TASK = "kumo.host_due"
EXPIRES_S = 60
LONGEST_QUEUE = 10000  # messages of a zone that nobody consumes, where the broker can bound them
PENDING = 1000  # messages of a process that the broker has not taken yet
CONNECT_S = 2.0


def build_queue_name(zone: str) -> str:
    """The queue of a zone's hosts."""
    return f"kumo.{zone}"


def build_queue(zone: str):
    """The queue of a zone's hosts, the same for who publishes and who consumes."""
    from kombu import Exchange, Queue

    name = build_queue_name(zone)
    limits = {"x-message-ttl": EXPIRES_S * 1000, "x-max-length": LONGEST_QUEUE}
    return Queue(name, Exchange("kumo", "direct"), routing_key=name, durable=True, queue_arguments=limits)


def build_celery(settings):
    """A Celery application over `[worker] broker` with messages alone: no results, events or remote control."""
    import celery  # 20 MB, which one machine alone does without

    app = celery.Celery("kumo", broker=settings.worker.broker, set_as_current=False)
    app.conf.update(
        task_ignore_result=True,
        task_default_delivery_mode="transient",
        task_create_missing_queues=False,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_prefetch_multiplier=1,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_timeout=CONNECT_S,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_heartbeat=10,
        broker_transport_options={"socket_connect_timeout": CONNECT_S, "socket_keepalive": True},
    )
    return app


class Publisher:
    """Publishes for one process. ``put`` returns at once; a thread sends, and drops what the broker does not take."""

    def __init__(self, settings):
        self.settings = settings
        self.app = build_celery(settings)
        self.waiting: queue.Queue = queue.Queue(PENDING)
        self.thread = threading.Thread(target=self._send_all, name="publish", daemon=True)
        self.thread.start()

    def put(self, hosts: Mapping[str, str]) -> None:
        """Have messages sent for these hosts (id: zone)."""
        for host_id, zone in hosts.items():
            try:
                self.waiting.put_nowait((host_id, zone))
            except queue.Full:
                LOG.warning("the broker is too slow: no message for host %s; a worker looks by itself", host_id)

    def send(self, host_id: str, zone: str) -> bool:
        """Send one message now; whether the broker took it."""
        from kombu.exceptions import OperationalError

        try:
            self.app.send_task(
                TASK, args=[host_id], queue=build_queue(zone), expires=EXPIRES_S,
                retry=True, retry_policy={"max_retries": 1, "interval_start": 0, "interval_step": 0},
            )  # fmt: skip
        except (OperationalError, OSError) as error:
            LOG.warning("no message for host %s, a worker looks by itself: the broker: %s", host_id, error)
            return False
        return True

    def _send_all(self) -> None:
        while True:
            if not self.send(*self.waiting.get()):
                # What waits behind it has become old meanwhile; the next request tries again.
                with contextlib.suppress(queue.Empty):
                    while True:
                        self.waiting.get_nowait()


_publishers: dict[tuple[int, str], Publisher] = {}
_publishers_lock = threading.Lock()


def find_publisher(settings) -> Publisher:
    """This process's own: made at its first message, for it has a thread and connections that no fork may share."""
    with _publishers_lock:
        key = (os.getpid(), settings.worker.broker)
        if key not in _publishers:
            _publishers.clear()
            _publishers[key] = Publisher(settings)
        return _publishers[key]


def announce(settings, hosts: Mapping[str, str]) -> None:
    """Tell workers that these hosts (id: zone) are due; returns at once, and nothing is lost where nobody listens."""
    nudge(settings)
    if settings.worker.broker and hosts:
        find_publisher(settings).put(hosts)


def announce_due(settings, database: Database) -> None:
    """Tell workers of all hosts that are due, for a command, which ends right afterwards; takes seconds at most."""
    nudge(settings)
    if not settings.worker.broker:
        return
    with database.read() as session:
        due = session.execute(select(Host.id, Host.zone).where(Host.next_run_at.is_(None))).all()
    publisher = find_publisher(settings)
    for host_id, zone in due:
        if not publisher.send(host_id, zone):
            return


def nudge(settings) -> None:
    """Wake the worker of this machine; nothing is lost where it is not there: it looks by itself."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        try:
            sender.sendto(b"", f"{settings.kumo.run_dir}/worker.sock")
        except OSError:
            LOG.debug("no worker listens at %s/worker.sock", settings.kumo.run_dir)
