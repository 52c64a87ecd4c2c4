"""Images' bytes on disk: one file per image id, written beside it and linked in when it is complete.

Owns the store directory. A part file is locked for as long as its writer lives, so that a killed upload
is recognised by anyone without a clock. Knows no rows and no HTTP. Next room: `resources/image/files.py`.

    STORE/<image id>                         the complete image, 0640
    STORE/.<image id>.<upload id>.part       an upload under way
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

from .errors import TooLarge, UnsupportedMedia

CHUNK = 1 << 20
ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
PART = re.compile(rf"\.({ID.pattern})\.([0-9a-z-]+)\.part")
YOUNG_S = 5
# What qemu calls by another name, and container-less bytes, are looked at as these.
INSPECTED = {"ami": "raw", "ari": "raw", "aki": "raw"}
# A disk with a partition table is raw to whoever runs it.
PLAIN = {"raw", "gpt"}
SHORTEST = 512


def build_path(store_dir: str, image_id: str) -> Path:
    """Where the image's bytes are; ValueError where the id is none (no path is ever made from other text)."""
    if not ID.fullmatch(image_id):
        raise ValueError(f"{image_id!r} is no image id")
    return Path(store_dir, image_id)


def build_part(store_dir: str, image_id: str, upload_id: str) -> Path:
    return build_path(store_dir, image_id).with_name(f".{image_id}.{upload_id}.part")


def open_part(path: Path):
    """A new part file, locked for as long as it is open."""
    path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o640)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    os.fchmod(descriptor, 0o640)
    return os.fdopen(descriptor, "wb", buffering=0)


def write_whole(stream, chunk: bytes) -> None:
    """All of the chunk; TooLarge where the disk is full."""
    try:
        view = memoryview(chunk)
        while view:
            view = view[stream.write(view) :]
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise TooLarge("There is no space left in the image store.") from None
        raise


class _Feed:
    """The source of an inspector that is handed each chunk."""

    chunk = b""

    def read(self, size: int) -> bytes:
        return self.chunk


class Upload:
    """One upload: a locked part file, its sums, and what its bytes turn out to be.

    ``write`` every chunk, ``finish`` (checks the format), then ``publish`` within the transaction that
    makes the image active; ``discard`` in any case.
    """

    def __init__(self, store_dir: str, image_id: str, upload_id: str, disk_format: str, most: int):
        self.path = build_path(store_dir, image_id)
        self.part = build_part(store_dir, image_id, upload_id)
        self.upload_id, self.disk_format, self.most = upload_id, disk_format, most
        self.size, self.virtual_size = 0, None
        self.md5 = hashlib.md5(usedforsecurity=False)
        self.sha512 = hashlib.sha512()
        from oslo_utils.imageutils import format_inspector  # 5 MB, which only uploads need: not the worker

        wanted = INSPECTED.get(disk_format, disk_format)
        self._feed = _Feed()
        self._inspector = format_inspector.InspectWrapper(self._feed, None if wanted == "raw" else wanted)
        self._file = open_part(self.part)

    def write(self, chunk: bytes) -> None:
        """TooLarge beyond the most, or where the disk is full; UnsupportedMedia as soon as the format is wrong."""
        self.size += len(chunk)
        if self.size > self.most:
            raise TooLarge(f"The image is larger than {self.most} bytes, the most this store takes.")
        self._inspect(chunk)
        write_whole(self._file, chunk)
        self.md5.update(chunk)
        self.sha512.update(chunk)

    def _inspect(self, chunk: bytes) -> None:
        self._feed.chunk = chunk
        try:
            self._inspector.read(len(chunk))
        except Exception as error:  # whatever a malformed header makes the inspector trip over
            raise self._refuse(str(error)) from None

    def _refuse(self, reason: str) -> UnsupportedMedia:
        return UnsupportedMedia(f"The image's data is refused as disk_format {self.disk_format}: {reason}")

    def finish(self) -> None:
        """Everything on disk, and its format what was declared; UnsupportedMedia says what it is instead.

        Security cases 1 to 4: a backing file, an external data file, a descriptor that names files, and
        any known format inside a "raw" are refused before another tool opens the file.
        """
        if self.size < SHORTEST:  # inspectors wait for a whole sector, other tools do not
            self._inspect(bytes(SHORTEST - self.size))
        try:
            self._inspector.close()
            found = self._inspector.formats or []
        except Exception as error:
            raise self._refuse(str(error)) from None
        names = {str(one) for one in found}
        wanted = INSPECTED.get(self.disk_format, self.disk_format)
        if wanted == "raw":
            if not names <= PLAIN:
                raise self._refuse(f"it is {', '.join(sorted(names - PLAIN))}")
            self.virtual_size = self.size
        else:
            # A bootable ISO has a partition table too; nothing else may be two things at once.
            rest = names - {wanted} - ({"gpt"} if wanted == "iso" else set())
            if wanted not in names or rest:
                raise self._refuse(f"it is {', '.join(sorted(names)) or 'nothing known'}")
            one = next(one for one in found if str(one) == wanted)
            try:
                one.safety_check()
                self.virtual_size = self.size if wanted == "iso" else one.virtual_size
            except Exception as error:
                raise self._refuse(str(error)) from None
        os.fsync(self._file.fileno())

    def build_columns(self) -> dict:
        """What the image's row says of these bytes; the upload is over."""
        return {
            "upload_id": None,
            "size": self.size,
            "virtual_size": self.virtual_size,
            "checksum": self.md5.hexdigest(),
            "os_hash_algo": "sha512",
            "os_hash_value": self.sha512.hexdigest(),
        }

    def publish(self) -> None:
        """The image's bytes are the upload's now; the part file stays locked until `discard`."""
        self.path.unlink(missing_ok=True)
        os.link(self.part, self.path)
        directory = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def discard(self) -> None:
        """The part file is gone; what was published stays."""
        self.part.unlink(missing_ok=True)
        self._file.close()


def is_abandoned(store_dir: str, image_id: str, upload_id: str | None) -> bool:
    """Whether nobody writes this upload any more (its process was killed)."""
    if upload_id is None:
        return True
    try:
        descriptor = os.open(build_part(store_dir, image_id, upload_id), os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)


def remove_parts(store_dir: str, image_id: str = "*") -> None:
    """Part files (of the image, or all) that nobody writes any more are gone; young ones may not be locked yet."""
    if image_id != "*":
        build_path(store_dir, image_id)
    for part in Path(store_dir).glob(f".{image_id}.*.part"):
        match = PART.fullmatch(part.name)
        try:
            old = part.stat().st_mtime < time.time() - YOUNG_S
        except FileNotFoundError:
            continue
        if match and old and is_abandoned(store_dir, match[1], match[2]):
            part.unlink(missing_ok=True)


def remove_image(store_dir: str, image_id: str) -> bool:
    """The image's bytes are gone; whether there were any. A download under way is not cut."""
    try:
        build_path(store_dir, image_id).unlink()
    except FileNotFoundError:
        return False
    return True


def list_images(store_dir: str) -> list[str]:
    """Ids of the images that have bytes here, sorted."""
    try:
        return sorted(name for name in os.listdir(store_dir) if ID.fullmatch(name))
    except FileNotFoundError:
        return []


class Download:
    """Bytes ``first`` to ``last`` (both included) of an image, in chunks, out of an already open file.

    Opened before the answer begins, so that a missing file is an error and not a broken answer.
    """

    def __init__(self, store_dir: str, image_id: str):
        self._file = open(build_path(store_dir, image_id), "rb")  # noqa: SIM115
        self.size = os.fstat(self._file.fileno()).st_size
        self.first, self.last = 0, self.size - 1

    def __iter__(self) -> Iterator[bytes]:
        self._file.seek(self.first)
        left = self.last - self.first + 1
        while left > 0:
            chunk = self._file.read(min(CHUNK, left))
            if not chunk:
                return
            left -= len(chunk)
            yield chunk

    def close(self) -> None:
        self._file.close()
