"""Files of the state directory: written whole or not at all, never half."""

import fcntl
import json
import os
import re
import tempfile
from contextlib import contextmanager
from pathlib import Path

from .errors import KumoError

# A file that is being written, and the process that writes it.
UNFINISHED = re.compile(r"\..+\.(\d+)-[a-z0-9_]{8}\.new")


def read_json(path: Path, default=None):
    """The JSON in ``path``; ``default`` where there is no file or it holds no JSON."""
    try:
        return json.loads(Path(path).read_text())
    except (FileNotFoundError, ValueError):
        return default


def read_text(path: Path, default: str = "") -> str:
    """The text in ``path``; ``default`` where there is no file."""
    try:
        return Path(path).read_text()
    except FileNotFoundError:
        return default


def apply_text(path: Path, text: str, mode: int = 0o600) -> None:
    """Write ``text`` to ``path`` atomically (a temporary file beside it, synced, renamed)."""
    path = Path(path)
    path.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(".new", f".{path.name}.{os.getpid()}-", path.parent)
    try:
        with os.fdopen(descriptor, "w") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def apply_json(path: Path, value, mode: int = 0o600) -> None:
    """Write ``value`` as JSON to ``path`` atomically."""
    apply_text(path, json.dumps(value, sort_keys=True), mode)


def sweep(directory: Path) -> None:
    """Remove what writers that were killed have left at any depth; those that live (tasks) go on."""
    for folder, _, names in os.walk(directory):
        for name in names:
            found = UNFINISHED.fullmatch(name)
            if found and not Path("/proc", found[1]).exists():
                Path(folder, name).unlink(missing_ok=True)


@contextmanager
def lock(path: Path):
    """Hold an exclusive lock on ``path``, True where the run that held it before was cut.

    KumoError at once when another run holds it. The file has the holder's pid for as long as it lives.
    """
    path = Path(path)
    path.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    with open(path, "a+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise KumoError(f"another run holds {path}; wait for it to end") from None
        stream.seek(0)
        cut = bool(stream.read())
        stream.truncate(0)
        stream.write(f"{os.getpid()}\n")
        stream.flush()
        try:
            yield cut
        finally:
            stream.truncate(0)
