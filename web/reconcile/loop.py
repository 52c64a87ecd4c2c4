"""The worker: takes due hosts, runs one play against each, stores what was seen; again, for ever.

Woken by a datagram on RUN_DIR/worker.sock and by the next timer; it keeps nothing in memory that
rows do not have, so that it may be killed at any moment. Next room: `run.py`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

from sqlalchemy import delete, func, or_, select, update
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError

from ..desired import build_document, read_rows
from ..errors import Problem
from ..image_cleanup import remove_unneeded
from ..models import Database, Host, HostRequest, IdempotentAnswer, Port, RequestLog, RevokedToken, Run, now
from ..models.networks import ROUTER_GATEWAY
from ..router_legs import sync_router_legs
from .lease import build_worker_name, is_dead, renew_leases, take_lease
from .observe import mark_requests, store_outcome
from .run import Outcome, prune_folders, run_host, scrub_environment
from .warming import Warming

LOG = logging.getLogger("kumo.worker")
LONGEST_WAIT_S = 30.0
DATABASE_WAIT_S = 2.0
CLEANING_S = 60.0
TRIES = 4  # to store a run


class Worker:
    """One worker process. ``run`` is what reaches a host, as run.run_host does."""

    def __init__(self, settings, database: Database | None = None, run=run_host):
        self.settings = settings
        self.database = database or Database(settings.database.url)
        self.name = build_worker_name()
        self.run = run
        self.stopping = threading.Event()
        self.active: dict[str, Future] = {}
        self.cancels: dict[str, threading.Event] = {}  # by the ids of this worker's runs
        self.pool = ThreadPoolExecutor(settings.worker.parallel_runs, thread_name_prefix="run")
        self.socket: socket.socket | None = None
        self.warming = Warming(settings)
        self.cleaned_at = -CLEANING_S  # time.monotonic() of the last look for files that nothing needs

    # the life of the process

    def serve(self) -> None:
        """Work until SIGTERM or SIGINT; a run under way is ended, and taken up again by the next worker."""
        scrub_environment()
        signal.signal(signal.SIGTERM, lambda *_: self.stop())
        signal.signal(signal.SIGINT, lambda *_: self.stop())
        self.listen()
        self.recover()
        LOG.info("worker %s serves %s", self.name, self.database.engine.url.render_as_string())
        self.warming.ensure()
        heartbeat = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        heartbeat.start()
        while not self.stopping.is_set():
            try:
                wait_s = self.step()
            except DBAPIError as error:
                LOG.error("the database does not answer: %s", error)
                wait_s = DATABASE_WAIT_S
            self._wait(wait_s)
            self.warming.ensure()
        self.warming.end()
        self.pool.shutdown(wait=True, cancel_futures=True)

    def stop(self) -> None:
        """Take no more hosts; wake up to see it."""
        self.stopping.set()
        self.wake()

    def listen(self) -> None:
        """Bind the socket that nudges come to."""
        path = Path(self.settings.kumo.run_dir) / "worker.sock"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        os.chmod(path, 0o660)

    def wake(self) -> None:
        """Wake this worker's own loop."""
        if self.socket is not None:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender, contextlib.suppress(OSError):
                sender.setblocking(False)
                sender.sendto(b"", self.socket.getsockname())

    def _wait(self, seconds: float) -> None:
        self.socket.settimeout(max(0.01, min(seconds, LONGEST_WAIT_S)))
        with contextlib.suppress(TimeoutError):
            self.socket.recv(16)
            self.socket.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:  # ten nudges are one
                    self.socket.recv(16)

    def _beat(self) -> None:
        while not self.stopping.wait(self.settings.worker.lease_s / 3):
            if self.active:
                try:
                    self._read_cancels()
                    with self.database.write.begin() as session:
                        renew_leases(session, self.name, self.settings.worker.lease_s)
                except DBAPIError as error:
                    LOG.error("heartbeat: the database does not answer: %s", error)

    # the work

    def recover(self) -> None:
        """Runs of workers that died are lost, their hosts due; every host is looked at once after a start."""
        with self.database.write.begin() as session:
            for run in session.scalars(select(Run).where(Run.state == "running")):
                if is_dead(run.worker):
                    run.state, run.error, run.finished_at = "lost", "the worker ended during the run", now()
            for host in session.scalars(select(Host)):
                if host.lease_owner is not None and is_dead(host.lease_owner):
                    host.lease_owner = host.lease_expires_at = None
                host.next_run_at = None
        self._sync_legs()
        prune_folders(self.settings)

    def _sync_legs(self) -> None:
        """Legs outside for routers that no host is the first of: in a cloud from before hosts had their own, all."""
        lacking = select(Port.device_id).where(Port.device_owner == ROUTER_GATEWAY, Port.host_id.is_(None))
        with self.database.read() as session:
            routers = session.scalars(lacking.order_by(Port.device_id)).all()
        for router_id in routers:
            try:
                with self.database.write.begin() as session:
                    sync_router_legs(session, self.settings, (), (router_id,))
            except Problem as error:
                LOG.error("router %s: %s", router_id, error)

    def step(self) -> float:
        """Start runs for all hosts that are due; seconds until the next one will be."""
        for host_id in [host_id for host_id, future in self.active.items() if future.done()]:
            self.active.pop(host_id).result()
        self._clean()
        self._read_cancels()
        with self.database.read() as session:
            due = session.scalars(
                select(Host.id)
                .where(or_(Host.next_run_at.is_(None), Host.next_run_at <= now()))
                .order_by(Host.observed_at)
            ).all()
        for host_id in due:
            if host_id not in self.active and not self.stopping.is_set():
                self.active[host_id] = self.pool.submit(self._work, host_id)
        with self.database.read() as session:
            following = session.scalar(select(func.min(Host.next_run_at)).where(Host.next_run_at > now()))
        return LONGEST_WAIT_S if following is None else (following - now()).total_seconds() + 0.005

    def _read_cancels(self) -> None:
        """Tell runs under way that somebody wants them to end."""
        if not self.cancels:
            return
        with self.database.read() as session:
            wanted = select(Run.id).where(Run.id.in_(list(self.cancels)), Run.cancel_wanted)
            for run_id in session.scalars(wanted):
                self.cancels.get(run_id, threading.Event()).set()

    def _clean(self) -> None:
        """Now and then: bytes of deleted images that no guest still has to be built from."""
        if time.monotonic() - self.cleaned_at >= CLEANING_S:
            self.cleaned_at = time.monotonic()
            with contextlib.suppress(OSError):
                remove_unneeded(self.database, self.settings.image.store_dir)

    def _work(self, host_id: str) -> None:
        try:
            self.run_once(host_id)
        except Exception:
            LOG.exception("host %s: the run could not be made", host_id)
            self._postpone(host_id)
        finally:
            threading.Timer(0.005, self.wake).start()  # after this future is done

    def _postpone(self, host_id: str) -> None:
        """Try a host again later whose run could not even be made or stored."""
        with contextlib.suppress(DBAPIError), self.database.write.begin() as session:
            session.execute(
                update(Host)
                .where(Host.id == host_id, or_(Host.lease_owner == self.name, Host.lease_owner.is_(None)))
                .values(
                    lease_owner=None,
                    lease_expires_at=None,
                    failures=Host.failures + 1,
                    next_run_at=now() + timedelta(seconds=5),
                )
            )

    def run_once(self, host_id: str) -> Outcome | None:
        """One run against the host: lease, document, play, store. None where another worker has it."""
        with self.database.write.begin() as session:
            fence = take_lease(session, host_id, self.name, self.settings.worker.lease_s)
            if fence is None:
                host = session.get(Host, host_id)
                host.next_run_at = min(host.lease_expires_at or now(), now() + timedelta(seconds=5))
                return None
            session.execute(  # whoever began those no longer holds the host
                update(Run)
                .where(Run.host_id == host_id, Run.state == "running", Run.fence < fence)
                .values(state="lost", error="the run did not end before the next one began", finished_at=now())
            )
            host = session.get(Host, host_id)
            document = build_document(read_rows(session, host), self.settings, fence)
            run = Run(host_id=host_id, generation=host.generation, fence=fence, worker=self.name)
            session.add(run)
            session.flush()
            mark_requests(session, run)
            # Not due again until this run is stored, unless a request comes in.
            host.next_run_at = now() + timedelta(seconds=self.settings.worker.run_timeout_s + 30)
            name, connection, run_id = host.name, dict(host.connection), run.id
        self.cancels[run_id] = cancelled = threading.Event()
        try:
            outcome = self.run(self.settings, name, connection, document, cancelled=cancelled.is_set)
        finally:
            self.cancels.pop(run_id)
        stored = self._store(run_id, document, outcome)
        level = logging.INFO if outcome.ok else logging.WARNING
        LOG.log(
            level, "run %s host %s generation %s %s: %s actions%s", run_id, name, document["generation"],
            "stored" if stored else "lost its lease", len(outcome.result.get("actions", [])),
            "" if outcome.ok else f": {outcome.error}",
        )  # fmt: skip
        for section, results in outcome.result.get("objects", {}).items():
            for object_id, one in results.items():
                if not one["ok"]:
                    LOG.warning("run %s host %s %s %s: %s", run_id, name, section, object_id, one["error"])
        return outcome

    def _store(self, run_id: str, document: dict, outcome: Outcome) -> bool:
        """Store what a run brought back; again where another transaction that holds hosts was in the way."""
        for attempt in range(TRIES):
            try:
                with self.database.write.begin() as session:
                    run = session.get(Run, run_id)
                    stored = store_outcome(session, self.settings, run, document, outcome)
                    self._prune(session)
                return stored
            except (IntegrityError, OperationalError) as error:
                if attempt == TRIES - 1 or error.connection_invalidated:
                    raise
                time.sleep(0.02 * (attempt + 1))
        return False

    def _prune(self, session) -> None:
        """Keep the tables of runs, requests and revoked tokens bounded."""
        keep = self.settings.worker.keep_runs
        oldest = session.scalar(select(Run.started_at).order_by(Run.started_at.desc()).offset(keep).limit(1))
        if oldest is not None:
            session.execute(delete(Run).where(Run.started_at <= oldest, Run.state != "running"))
            session.execute(delete(HostRequest).where(HostRequest.created_at <= oldest))
            session.execute(delete(RequestLog).where(RequestLog.created_at <= oldest))
        session.execute(delete(RevokedToken).where(RevokedToken.expires_at < now()))
        kept_since = now() - timedelta(seconds=self.settings.api.idempotency_s)
        session.execute(delete(IdempotentAnswer).where(IdempotentAnswer.created_at < kept_since))
