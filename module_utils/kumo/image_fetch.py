"""Fetching one image into the cache: from a file of this machine or over HTTP, checked, then renamed.

Runs inside a task (``tasks.py``); everything it imports is imported before the task is forked.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from . import files, image_formats
from .errors import KumoError

CHUNK = 1 << 20
TIMEOUT_S = 30
CHECKSUMS = {"md5": 32, "sha256": 64, "sha512": 128}
# Directories that an image may be copied from; None: any. The root helper sets what its allow-list has.
ALLOWED: tuple | None = None


def check_image(image: dict) -> None:
    """KumoError where the document's row of an image cannot be fetched at all; the text names the field."""
    where = f"image {image['id']}"
    if image.get("disk_format") not in image_formats.FORMATS:
        known = ", ".join(image_formats.FORMATS)
        raise KumoError(f"{where}: disk_format is {image.get('disk_format')!r}; a host takes {known}")
    kind, _, digest = str(image.get("checksum")).partition(":")
    if len(digest) != CHECKSUMS.get(kind):
        raise KumoError(f"{where}: checksum must be sha512:, sha256: or md5: and its hexadecimal digits")
    source = image.get("source") or {}
    if source.get("path"):
        if not os.path.isabs(source["path"]):
            raise KumoError(f"{where}: source.path must be absolute")
    elif urllib.parse.urlsplit(source.get("url") or "").scheme not in ("http", "https"):
        raise KumoError(f"{where}: source needs a path, or an http or https url")


def apply_fetch(directory: Path, image: dict, progress) -> None:
    """Put the image into ``directory``: temporary file, checksum, format, rename. KumoError says what was wrong."""
    where = f"image {image['id']}"
    part = Path(directory, f".{image['id']}.part")
    try:
        with open(part, "wb", opener=lambda path, flags: os.open(path, flags, 0o600)) as stream:
            if image["source"].get("path"):
                _copy(Path(image["source"]["path"]), stream, where, progress)
            else:
                _download(image, stream, where, progress)
            stream.flush()
            os.fsync(stream.fileno())
        size = part.stat().st_size
        if image.get("size") and size != image["size"]:
            raise KumoError(f"{where}: {size} bytes arrived where {image['size']} were announced")
        check_digest(part, image["checksum"], where)
        try:
            virtual_size = image_formats.read_virtual_size(part, image["disk_format"])
        except KumoError as error:
            raise KumoError(f"{where} is refused: {error}") from None
        os.chmod(part, 0o444)
        mtime_ns = part.stat().st_mtime_ns
        os.replace(part, Path(directory, image["id"]))
    except OSError as error:
        raise KumoError(f"{where}: {error.strerror or error} ({error.filename or directory})") from None
    finally:
        part.unlink(missing_ok=True)
    known = {
        "checksum": image["checksum"],
        "disk_format": image["disk_format"],
        "virtual_size": virtual_size,
        "size": size,
        "mtime_ns": mtime_ns,
        "fetch": image.get("fetch") or 0,
    }
    files.apply_json(Path(directory, f"{image['id']}.json"), known)


def _copy(source: Path, stream, where: str, progress) -> None:
    """Copy a file, by reference or inside the kernel where the file system can."""
    try:
        # A pipe in a file's place must not hold the task.
        origin = open(source, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK))  # noqa: SIM115
    except OSError as error:
        raise KumoError(f"{where}: {source} cannot be read: {error.strerror}") from None
    with origin:
        _check_origin(origin.fileno(), where, source)
        total, done = os.fstat(origin.fileno()).st_size, 0
        while done < total:
            try:
                count = os.copy_file_range(origin.fileno(), stream.fileno(), min(64 * CHUNK, total - done))
            except OSError as error:
                if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                    raise
                count = _copy_by_hand(origin.fileno(), stream.fileno(), done)
            if count == 0:
                break
            done += count
            progress(done, total)


def _check_origin(descriptor: int, where: str, source: Path) -> None:
    """Where only some directories are allowed, the open file itself must be in one, whatever links led to it."""
    if ALLOWED is None:
        return
    real = os.readlink(f"/proc/self/fd/{descriptor}")
    below = any(real.startswith(directory.rstrip("/") + "/") for directory in ALLOWED)
    if not below or not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise KumoError(f"{where}: {source} leads to {real}, which this host's allow-list does not have")


def _copy_by_hand(origin: int, target: int, offset: int) -> int:
    chunk = os.pread(origin, CHUNK, offset)
    os.lseek(origin, offset + len(chunk), os.SEEK_SET)
    written = 0
    while written < len(chunk):
        written += os.write(target, chunk[written:])
    return len(chunk)


def build_shown_url(url: str) -> str:
    """An address as sentences show it: without a key in its query, and without a password."""
    shown = urllib.parse.urlunsplit(urllib.parse.urlsplit(url)._replace(query="", fragment=""))
    return shown.replace(urllib.parse.urlsplit(url).netloc, urllib.parse.urlsplit(url).netloc.rpartition("@")[2])


def _download(image: dict, stream, where: str, progress) -> None:
    url = image["source"]["url"]
    shown = build_shown_url(url)
    request = urllib.request.Request(url, headers=image["source"].get("headers") or {})
    done = 0
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            total = int(response.headers.get("Content-Length") or 0) or image.get("size") or 0
            while chunk := response.read(CHUNK):
                stream.write(chunk)
                done += len(chunk)
                if image.get("size") and done > image["size"]:
                    raise KumoError(f"{where}: {shown} sends more than the announced {image['size']} bytes")
                progress(done, total)
    except urllib.error.HTTPError as error:
        raise KumoError(f"{where}: {shown} answered {error.code} {error.reason}") from None
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise KumoError(f"{where}: {shown} could not be read: {getattr(error, 'reason', error)}") from None


def check_digest(path: Path, checksum: str, where: str) -> None:
    """KumoError where the file's bytes are not those that the checksum is of; reads all of it."""
    kind, _, digest = checksum.partition(":")
    with open(path, "rb") as stream:
        found = hashlib.file_digest(stream, kind).hexdigest()
    if found != digest.lower():
        raise KumoError(f"{where}: its {kind} is {found[:16]}… where {digest[:16]}… was announced")
