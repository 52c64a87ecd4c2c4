"""The worker: takes due hosts, runs one play against each, stores what was seen; again, for ever.

Woken by a datagram on RUN_DIR/worker.sock, by messages where there is a broker, and by the next timer; it keeps
nothing in memory that rows do not have, so that it may be killed at any moment. Next room: `run.py`.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import logging
import os
import signal
import socket
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

from sqlalchemy import func, or_, select, update
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import load_only

from ..desired import build_document, read_rows
from ..errors import Problem
from ..image_cleanup import remove_unneeded
from ..image_imports import Imports
from ..models import Database, Host, Port, Run, is_gone, now
from ..models.networks import ROUTER_GATEWAY
from ..router_legs import sync_router_legs
from .alive import note_alive
from .lease import build_worker_name, is_dead, is_held, renew_leases, take_lease
from .messages import Messages
from .observe import mark_requests, store_outcome
from .pruning import prune_rows
from .run import Outcome, prune_folders, run_host, scrub_environment
from .warming import Warming

LOG = logging.getLogger("kumo.worker")
LONGEST_WAIT_S = 30.0
SHARED_WAIT_S = 3.0  # between looks at rows that others change, too
DATABASE_WAIT_S = 2.0
CLEANING_S = 60.0
PRUNING_ROUNDS = 20
TRIES = 4  # to store a run


class Worker:
    """One worker process. ``run`` is what reaches a host, as run.run_host does."""

    def __init__(self, settings, database: Database | None = None, run=run_host):
        self.settings = settings
        self.database = database or Database(settings.database.url)
        self.name = build_worker_name()
        self.run = run
        self.stopping = threading.Event()
        self.active: dict[str, Future] = {}  # changed by the loop's and the messages' threads, under `taking`
        self.taking = threading.Lock()
        self.cancels: dict[str, threading.Event] = {}  # by the ids of this worker's runs
        self.pool = ThreadPoolExecutor(settings.worker.parallel_runs, thread_name_prefix="run")
        self.socket: socket.socket | None = None
        self.lock = None  # the file whose lock makes this the worker that nudges on this machine come to
        self.messages = Messages(settings, self.take) if settings.worker.broker else None
        shared = self.messages or not self.database.is_sqlite
        self.longest_wait_s = SHARED_WAIT_S if shared else LONGEST_WAIT_S
        self.warming = Warming(settings)
        self.imports = Imports(settings, self.database, self.stopping, self.wake)
        self.cleaned_at = -CLEANING_S  # time.monotonic() of the last look for files that nothing needs

    # the life of the process

    def serve(self) -> None:
        """Work until SIGTERM or SIGINT; a run under way is ended, and taken up again by the next worker."""
        scrub_environment()
        signal.signal(signal.SIGTERM, lambda *_: self.stop())
        signal.signal(signal.SIGINT, lambda *_: self.stop())
        self.listen()
        self._recover_when_possible()
        if self.messages:
            self.messages.start(self._read_zones())
        LOG.info("worker %s serves %s", self.name, self.database.engine.url.render_as_string())
        self._keep_warm()
        gc.collect()
        gc.freeze()  # what was imported stays: a host's thousands of rows do not have it all looked through again
        heartbeat = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        heartbeat.start()
        while not self.stopping.is_set():
            try:
                wait_s = self.step()
            except (DBAPIError, PoolTimeout) as error:
                LOG.error("the database does not answer: %s", error)
                wait_s = DATABASE_WAIT_S
            self._wait(wait_s)
            self._keep_warm()
        if self.messages:
            self.messages.end()
        self.warming.end()
        self.imports.pool.shutdown(wait=True, cancel_futures=True)
        self.pool.shutdown(wait=True, cancel_futures=True)

    def stop(self) -> None:
        """Take no more hosts; wake up to see it."""
        self.stopping.set()
        self.wake()

    def _recover_when_possible(self) -> None:
        while not self.stopping.is_set():
            try:
                return self.recover()
            except (DBAPIError, PoolTimeout) as error:
                LOG.error("the database does not answer: %s", error)
                self._wait(DATABASE_WAIT_S)

    def listen(self) -> None:
        """Bind the socket that nudges come to; a second worker on a machine has one that only itself knows."""
        folder = Path(self.settings.kumo.run_dir)
        folder.mkdir(parents=True, exist_ok=True)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        lock = (folder / "worker.lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            self.socket.bind("")  # in the abstract namespace, gone with this process
            return
        self.lock = lock
        path = folder / "worker.sock"
        path.unlink(missing_ok=True)
        self.socket.bind(str(path))
        os.chmod(path, 0o660)

    def _keep_warm(self) -> None:
        """One warm ansible-playbook a machine: its first worker's, for all of them."""
        if self.lock is not None:
            self.warming.ensure()

    def wake(self) -> None:
        """Wake this worker's own loop."""
        if self.socket is not None:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender, contextlib.suppress(OSError):
                sender.setblocking(False)
                sender.sendto(b"", self.socket.getsockname())

    def _wait(self, seconds: float) -> None:
        self.socket.settimeout(max(0.01, min(seconds, self.longest_wait_s)))
        with contextlib.suppress(TimeoutError):
            self.socket.recv(16)
            self.socket.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:  # ten nudges are one
                    self.socket.recv(16)

    def _beat(self) -> None:
        while not self.stopping.wait(self.settings.worker.lease_s / 3):
            if working := list(self.active):
                try:
                    self._read_cancels()
                    with self.database.write.begin() as session:
                        renew_leases(session, self.name, working, self.settings.worker.lease_s)
                except (DBAPIError, PoolTimeout) as error:
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
        with self.taking:
            for host_id in [host_id for host_id, future in self.active.items() if future.done()]:
                self.active.pop(host_id).result()
        self._clean()
        self.imports.step()
        self._read_cancels()
        with self.database.read() as session:
            # Hosts that somebody holds, too: the holder may have died, here or (when its lease runs out) elsewhere.
            due = session.scalars(
                self._choose(select(Host).options(load_only(Host.lease_owner, Host.lease_expires_at)))
                .where(or_(Host.next_run_at.is_(None), Host.next_run_at <= now(), Host.lease_owner.is_not(None)))
                .order_by(Host.observed_at)
            ).all()
            following = session.scalar(self._choose(select(func.min(Host.next_run_at))).where(Host.next_run_at > now()))
            if self.messages and not self.settings.worker.zones:
                self.messages.add_zones(session.scalars(select(Host.zone).distinct()))
        held = [host.lease_expires_at for host in due if not self._take(host)]
        soonest = min((moment for moment in (following, *held) if moment is not None), default=None)
        return self.longest_wait_s if soonest is None else (soonest - now()).total_seconds() + 0.005

    def _choose(self, statement):
        """The statement for the hosts of this worker's zones."""
        zones = self.settings.worker.zones
        return statement.where(Host.zone.in_(zones)) if zones else statement

    def _read_zones(self) -> list[str]:
        """The zones whose queues this worker consumes, to begin with; those of further hosts come in `step`."""
        return self.settings.worker.zones or [self.settings.compute.availability_zone]

    def _take(self, host: Host) -> bool:
        """Have a host worked on that is due, or whose holder is gone; False where another worker holds it."""
        with self.taking:
            if host.id in self.active or self.stopping.is_set():
                return True
            if is_held(host) and host.lease_owner != self.name:
                return False
            self.active[host.id] = self.pool.submit(self._work, host.id)
        return True

    def take(self, host_id: str) -> None:
        """A message says that this host is due: take it, if its row says so too."""
        LOG.debug("told that host %s is due", host_id)
        try:
            with self.database.read() as session:
                host = session.get(Host, host_id)
        except (DBAPIError, PoolTimeout) as error:
            LOG.error("the database does not answer: %s", error)
            return
        if host is not None and (host.next_run_at is None or host.next_run_at <= now()):
            self._take(host)

    def _read_cancels(self) -> None:
        """Tell runs under way that somebody wants them to end."""
        if not self.cancels:
            return
        with self.database.read() as session:
            wanted = select(Run.id).where(Run.id.in_(list(self.cancels)), Run.cancel_wanted)
            for run_id in session.scalars(wanted):
                self.cancels.get(run_id, threading.Event()).set()

    def _clean(self) -> None:
        """Now and then: rows past their time, and bytes of deleted images that no guest still has to be built from."""
        if time.monotonic() - self.cleaned_at >= CLEANING_S:
            self.cleaned_at = time.monotonic()
            with contextlib.suppress(OSError):
                remove_unneeded(self.database, self.settings.image.store_dir)
            self.imports.prune()
            with self.database.write.begin() as session:
                note_alive(session, self.name, self.settings.worker.zones)
            self.prune()

    def prune(self) -> None:
        """Remove rows past their time, in transactions that hold nobody up for long."""
        for _ in range(PRUNING_ROUNDS):
            with self.database.write.begin() as session:
                more = prune_rows(session, self.settings)
            if not more:
                return

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
        with contextlib.suppress(DBAPIError, PoolTimeout), self.database.write.begin() as session:
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
        """One run against the host: lease, document, play, store. None where another worker has it.

        The document is built from one snapshot of the rows, outside of any transaction that holds others up: on a large
        host that takes a good part of a second.
        """
        with self.database.write.begin() as session:
            fence = take_lease(session, host_id, self.name, self.settings.worker.lease_s)
            if fence is None:
                return None  # whoever holds it looks again when it ends; if that is never, its lease runs out
            session.execute(  # whoever began those no longer holds the host
                update(Run)
                .where(Run.host_id == host_id, Run.state == "running", Run.fence < fence)
                .values(state="lost", error="the run did not end before the next one began", finished_at=now())
            )
            # Not due again until this run is stored, unless a request comes in.
            again_at = now() + timedelta(seconds=self.settings.worker.run_timeout_s + 30)
            session.get(Host, host_id).next_run_at = again_at
        with self.database.snapshot() as session:
            host = session.get(Host, host_id)
            document = build_document(read_rows(session, host), self.settings, fence)
            name, connection = host.name, dict(host.connection)
        with self.database.write.begin() as session:
            run = Run(host_id=host_id, generation=document["generation"], fence=fence, worker=self.name)
            session.add(run)
            session.flush()
            mark_requests(session, run)
            run_id = run.id
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
        """Store what a run brought back; again where another transaction was in the way, or the database is gone.

        Until it is back, or this worker is ended: what was seen is not lost. Where another worker has taken the host
        meanwhile, its fence says so.
        """
        attempt = 0
        while True:
            try:
                with self.database.write.begin() as session:
                    run = session.get(Run, run_id)
                    return store_outcome(session, self.settings, run, document, outcome)
            except (IntegrityError, OperationalError, PoolTimeout) as error:
                if is_gone(error) or isinstance(error, PoolTimeout):
                    LOG.error("run %s waits to be stored: the database does not answer: %s", run_id, error)
                    if self.stopping.wait(DATABASE_WAIT_S):
                        raise
                    continue
                attempt += 1
                if attempt == TRIES:
                    raise
                time.sleep(0.02 * attempt)
