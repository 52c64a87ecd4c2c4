"""Imports of images, carried out by the worker: staged bytes or a web-download become an active image.

What is to be imported is in rows (`ImageTask`), and nothing is in memory that they do not have. Whoever works on an
import holds its part file locked, as an upload does: when a worker is killed the lock is gone with it, and the next
look, by any worker, begins the import anew; after TRIES of them it has failed. Bytes go through the same `Upload` as
those that clients send, so that they are bounded and their format is checked. Next rooms: `image_sources.py`,
`image_staging.py`; `resources/image/imports.py`, which writes the rows.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta

from sqlalchemy import delete, select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from .errors import Gone, Problem
from .image_sources import read_web
from .image_staging import read_staged, remove_staged
from .image_store import Upload, is_abandoned, remove_parts
from .models import Database, Image, ImageTask, new_uuid, now

LOG = logging.getLogger("kumo.worker")
STORE = "files"  # the one store's id, as clients see it
TRIES = 3
KEPT = timedelta(hours=48)  # how long a task that ended is shown
TELL_S = 5.0  # between progress reports
MIB = 1 << 20


class Stopping(Exception):
    """This worker is asked to end: the import is left for the next one."""


class Imports:
    """The imports of one worker; ``wake`` makes its loop look again."""

    def __init__(self, settings, database: Database, stopping: threading.Event, wake: Callable[[], None]):
        self.settings, self.database, self.stopping, self.wake = settings, database, stopping, wake
        self.active: dict[str, Future] = {}  # by task id
        self.pool = ThreadPoolExecutor(max(settings.worker.parallel_imports, 1), thread_name_prefix="import")

    def step(self) -> None:
        """Begin the imports that nobody works on, the oldest first, as many as this worker does at a time."""
        self.active = {task_id: future for task_id, future in self.active.items() if not future.done()}
        room = self.settings.worker.parallel_imports - len(self.active)
        if room <= 0 or self.stopping.is_set():
            return
        with self.database.read() as session:
            waiting = session.execute(
                select(ImageTask.id, ImageTask.image_id, Image.upload_id)
                .join(Image, Image.id == ImageTask.image_id)
                .where(ImageTask.status.in_(("pending", "processing")))
                .order_by(ImageTask.created_at, ImageTask.id)
            ).all()
        for task_id, image_id, upload_id in waiting:
            if room and task_id not in self.active and is_abandoned(self.settings.image.store_dir, image_id, upload_id):
                self.active[task_id] = self.pool.submit(self._work, task_id)
                room -= 1

    def prune(self) -> None:
        """Tasks that ended long ago are gone."""
        with self.database.read() as session:
            old = session.scalars(select(ImageTask.id).where(ImageTask.expires_at < now())).all()
        if old:
            with self.database.write.begin() as session:
                session.execute(delete(ImageTask).where(ImageTask.id.in_(old)))

    def _work(self, task_id: str) -> None:
        try:
            self.run(task_id)
        except (DBAPIError, PoolTimeout) as error:
            LOG.error("import %s waits: the database does not answer: %s", task_id, error)
        except Exception:
            LOG.exception("import %s could not be made", task_id)  # again at the loop's next look
        else:
            threading.Timer(0.005, self.wake).start()  # after this future is done

    def run(self, task_id: str) -> None:
        """One import, from its claim to its end; returns early where another worker has it, or it is over."""
        with self.database.read() as session:
            task = session.get(ImageTask, task_id)
            image = session.get(Image, task.image_id) if task else None
        if task is None or task.status not in ("pending", "processing"):
            return
        if image is None or image.status != "importing":
            self._end(task, None, f"Image {task.image_id} was deleted during its import.")
            return
        store_dir = self.settings.image.store_dir
        remove_parts(store_dir, image.id)
        upload = Upload(store_dir, image.id, new_uuid(), image.disk_format, self.settings.image.max_size_bytes)
        upload_id = upload.upload_id
        try:
            if not self._claim(task, image.upload_id, upload_id):
                return
            if task.attempts >= TRIES:
                self._end(task, upload_id, f"The worker ended {TRIES} times during this import.")
                return
            try:
                self._copy(task, upload)
                upload.finish()
                self._publish(task, upload)
                LOG.info("import %s: image %s is active, %s bytes", task_id, image.id, upload.size)
            except Problem as problem:
                LOG.warning("import %s of image %s failed: %s", task_id, image.id, problem.message)
                self._end(task, upload_id, problem.message)
            except Stopping:
                LOG.info("import %s is left for the next worker", task_id)
                self._give_back(task)
            except (DBAPIError, PoolTimeout):
                raise
            except Exception as error:
                LOG.exception("import %s of image %s", task_id, image.id)
                self._end(task, upload_id, f"The image service could not import it: {type(error).__name__}.")
        finally:
            upload.discard()

    def _claim(self, task: ImageTask, seen: str | None, upload_id: str) -> bool:
        """Whether the import is this worker's from now on."""
        with self.database.write.begin() as session:
            claimed = session.execute(
                update(Image)
                .where(Image.id == task.image_id, Image.status == "importing")
                .where(Image.upload_id.is_(None) if seen is None else Image.upload_id == seen)
                .values(upload_id=upload_id, updated_at=Image.updated_at)
                .execution_options(synchronize_session=False)
            )
            if not claimed.rowcount:
                return False
            session.execute(
                update(ImageTask)
                .where(ImageTask.id == task.id)
                .values(status="processing", attempts=ImageTask.attempts + 1, updated_at=now())
            )
        return True

    def _give_back(self, task: ImageTask) -> None:
        """A worker that ends in good order was no attempt."""
        with self.database.write.begin() as session:
            session.execute(update(ImageTask).where(ImageTask.id == task.id).values(attempts=task.attempts))

    def _read(self, task: ImageTask) -> Iterator[bytes]:
        if task.uri is None:
            return read_staged(self.settings.image.store_dir, task.image_id)
        return read_web(task.uri, self.settings, self.settings.image.max_size_bytes)

    def _copy(self, task: ImageTask, upload: Upload) -> None:
        told = time.monotonic()
        for chunk in self._read(task):
            if self.stopping.is_set():
                raise Stopping
            upload.write(chunk)
            if time.monotonic() - told >= TELL_S:
                told = time.monotonic()
                self._tell(task, upload)

    def _tell(self, task: ImageTask, upload: Upload) -> None:
        """How far it is; Gone where nobody wants the image any more."""
        with self.database.write.begin() as session:
            mine = (Image.id == task.image_id, Image.status == "importing", Image.upload_id == upload.upload_id)
            if session.scalar(select(Image.id).where(*mine)) is None:
                raise Gone(f"Image {task.image_id} was deleted during its import.")
            message = f"Copied {upload.size // MIB} MiB"
            session.execute(update(ImageTask).where(ImageTask.id == task.id).values(message=message, updated_at=now()))

    def _publish(self, task: ImageTask, upload: Upload) -> None:
        with self.database.write.begin() as session:
            done = session.execute(
                update(Image)
                .where(Image.id == task.image_id, Image.status == "importing", Image.upload_id == upload.upload_id)
                .values(status="active", failed_import="", updated_at=now(), **upload.build_columns())
                .execution_options(synchronize_session=False)
            )
            if not done.rowcount:
                raise Gone(f"Image {task.image_id} was deleted during its import.")
            _store_end(session, task, "success", "Image is active.")
            upload.publish()  # within the transaction, as an upload's
        remove_staged(self.settings.image.store_dir, task.image_id)

    def _end(self, task: ImageTask, upload_id: str | None, message: str) -> None:
        """It has failed: the image is `queued` again, without bytes, and the task says why.

        An image that was made for its task alone (POST /tasks) is gone instead: nobody else knows of it.
        """
        ended = {"status": "queued", "failed_import": STORE}
        if task.type == "import":
            ended = {"status": "deleted", "deleted_at": now()}
        with self.database.write.begin() as session:
            if upload_id is not None:
                session.execute(
                    update(Image)
                    .where(Image.id == task.image_id, Image.status == "importing", Image.upload_id == upload_id)
                    .values(upload_id=None, updated_at=now(), **ended)
                    .execution_options(synchronize_session=False)
                )
            _store_end(session, task, "failure", message)
        if upload_id is not None:
            remove_staged(self.settings.image.store_dir, task.image_id)


def _store_end(session, task: ImageTask, status: str, message: str) -> None:
    session.execute(
        update(ImageTask)
        .where(ImageTask.id == task.id)
        .values(status=status, message=message, updated_at=now(), expires_at=now() + KEPT)
        .execution_options(synchronize_session=False)
    )
