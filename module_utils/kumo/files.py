"""Files of the state directory: written whole or not at all, never half."""

import fcntl
import json
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path

from .errors import KumoError


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
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
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


@contextmanager
def lock(path: Path):
    """Hold an exclusive lock on ``path``; KumoError at once when another run holds it."""
    path = Path(path)
    path.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    with open(path, "w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise KumoError(f"another run holds {path}; wait for it to end") from None
        yield
