"""Long work on a host, detached from the call that starts it and found again by later ones.

A task is one record ``tasks/<kind>-<object id>.json``: {id, kind, object_id, pid, started_ticks, boot_id,
state: running | failed, progress: 0..1, bytes, total, error}. A finished task has no record: what it made
is its proof. One object has at most one task of a kind. Nothing here knows what a task does.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from pathlib import Path

from . import files
from .core import state_path
from .errors import KumoError

SAVE_EVERY_S = 0.5
PR_SET_PDEATHSIG = 1  # prctl(2)
INTERRUPTED = "interrupted: its process ended without a word (killed, or the host went down)"


def build_task_id(kind: str, object_id: str) -> str:
    """The id of an object's task of a kind."""
    return f"{kind}-{object_id}"


def read_boot_id() -> str:
    """The kernel's id of this boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def read_start_ticks(pid: int) -> int | None:
    """When a process started, in ticks since boot (proc(5), stat field 22); None where it has gone or is a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in ("Z", "X") else int(fields[19])


def read_tasks(document: dict, kind: str | None = None) -> dict:
    """{task id: record}; a record whose process has gone reads as failed."""
    directory = state_path(document, "tasks")
    found = {}
    for path in sorted(directory.glob("*.json")) if directory.is_dir() else []:
        record = files.read_json(path)
        if not isinstance(record, dict) or kind not in (None, record.get("kind")):
            continue
        if record.get("state") == "running" and not _is_alive(record):
            record = files.read_json(path)  # its last word may have come between the two looks
            if not isinstance(record, dict):
                continue
            if record.get("state") == "running":
                record = {**record, "state": "failed", "error": INTERRUPTED}
        found[path.stem] = record
    return found


def build_report(records: dict) -> list[dict]:
    """The records as the API stores them."""
    return [
        {name: record.get(name) for name in ("id", "kind", "object_id", "state", "progress", "error")}
        for _, record in sorted(records.items())
    ]


def apply_forget(document: dict, kind: str, object_id: str) -> None:
    """Drop a task's record (its failure has been told), and what it was writing of it when it was killed."""
    path = state_path(document, "tasks", build_task_id(kind, object_id) + ".json")
    for unfinished in path.parent.glob(f".{path.name}.*"):
        unfinished.unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def apply_end(document: dict, kind: str, object_id: str) -> None:
    """Kill a running task's process group and drop its record; no error where there is none."""
    record = read_tasks(document, kind).get(build_task_id(kind, object_id))
    if record and record["state"] == "running":
        os.killpg(record["pid"], signal.SIGKILL)
    apply_forget(document, kind, object_id)


def apply_start(document: dict, kind: str, object_id: str, work) -> None:
    """Run ``work(progress)`` in a process of its own that outlives this one.

    ``progress(done, total)`` takes bytes. The work's KumoError (or any other exception) becomes the record's error.
    The process is nobody's zombie: its parent ends at once, so the init process owns and reaps it.
    Everything the work needs must already be imported: an Ansible module's code is gone once it exits.
    """
    path = state_path(document, "tasks", build_task_id(kind, object_id) + ".json")
    path.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        _become_task(path, kind, object_id, work, reader, writer)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader, "rb") as stream:
        if stream.read() != b"started":
            raise KumoError(f"the {kind} of {object_id} could not be started on this host")


@contextlib.contextmanager
def running_child(command: list[str]):
    """A program that a task runs, as Popen with pipes; it ends with the task, however that ends."""
    die_with_parent = ctypes.CDLL(None).prctl
    try:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=lambda: die_with_parent(PR_SET_PDEATHSIG, signal.SIGKILL),
        )
    except OSError as error:
        raise KumoError(f"{command[0]} cannot be started on this host: {error.strerror}") from None
    try:
        yield child
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()


def wait(document: dict, kind: str, object_id: str, until: float) -> dict | None:
    """A task's record once it is over or at ``until`` (time.monotonic); None where it finished well."""
    name = build_task_id(kind, object_id)
    path = state_path(document, "tasks", name + ".json")
    while True:
        record = read_tasks(document, kind).get(name) if path.exists() else None
        if record is None or record["state"] != "running" or time.monotonic() >= until:
            return record
        time.sleep(0.02)


def _is_alive(record: dict) -> bool:
    return record.get("boot_id") == read_boot_id() and (
        read_start_ticks(record.get("pid") or 0) == record.get("started_ticks")
    )


def _become_task(path: Path, kind: str, object_id: str, work, reader: int, writer: int) -> None:
    """In the first child: detach, fork again, run the work, and never return."""
    try:
        os.close(reader)
        os.setsid()
        if os.fork() != 0:
            os._exit(0)
        # A group of its own with its pid as number, so that the whole of it can be ended.
        os.setpgid(0, 0)
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        os.chdir("/")
        record = {
            "id": path.stem,
            "kind": kind,
            "object_id": object_id,
            "pid": os.getpid(),
            "started_ticks": read_start_ticks(os.getpid()),
            "boot_id": read_boot_id(),
            "state": "running",
            "progress": 0.0,
            "bytes": 0,
            "total": 0,
            "error": None,
        }
        files.apply_json(path, record)
        # Not before: the run's lock is among them, and no other run may begin while this task is not on record.
        _close_inherited(keep={0, 1, 2, writer})
        # Where the run that started it was killed meanwhile, nobody listens; the work is wanted all the same.
        with contextlib.suppress(BrokenPipeError):
            os.write(writer, b"started")
        os.close(writer)
        _run(path, record, work)
    finally:
        os._exit(0)


def _run(path: Path, record: dict, work) -> None:
    saved = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal saved
        record.update(bytes=done, total=total, progress=round(done / total, 3) if total else 0.0)
        if time.monotonic() - saved >= SAVE_EVERY_S:
            saved = time.monotonic()
            files.apply_json(path, record)

    try:
        work(progress)
    except KumoError as error:
        files.apply_json(path, {**record, "state": "failed", "error": str(error)})
    except BaseException as error:
        files.apply_json(path, {**record, "state": "failed", "error": f"{type(error).__name__}: {error}"})
    else:
        path.unlink(missing_ok=True)


def _close_inherited(keep: set) -> None:
    """Close every other descriptor: an inherited pipe or lock would hold whoever waits at its other end."""
    for name in os.listdir("/proc/self/fd"):
        descriptor = int(name)
        if descriptor not in keep:
            try:
                os.close(descriptor)
            except OSError:
                continue  # the directory's own descriptor
