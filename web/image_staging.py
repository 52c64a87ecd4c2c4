"""Bytes that wait for their image to be imported, beside the store: as they came, looked at by nobody yet.

Only their size is bounded here; what they are is found out when they are imported, by the same `Upload` that every
image goes through. Next rooms: `image_store.py`, whose part files these begin as; `image_imports.py`, which reads them.

    STORE/.<image id>.staged                 staged, and not imported yet
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from .errors import BadRequest, TooLarge
from .image_store import CHUNK, ID, build_part, build_path, open_part, write_whole

STAGED = re.compile(rf"\.({ID.pattern})\.staged")


def build_staged(store_dir: str, image_id: str) -> Path:
    """Where an image's staged bytes are."""
    return build_path(store_dir, image_id).with_name(f".{image_id}.staged")


class Staging:
    """One upload to the stage: ``write`` every chunk, ``publish`` in the transaction that says so, ``discard``."""

    def __init__(self, store_dir: str, image_id: str, upload_id: str, most: int):
        self.path = build_staged(store_dir, image_id)
        self.part = build_part(store_dir, image_id, upload_id)
        self.size, self.most = 0, most
        self._file = open_part(self.part)

    def write(self, chunk: bytes) -> None:
        self.size += len(chunk)
        if self.size > self.most:
            raise TooLarge(f"The image is larger than {self.most} bytes, the most this store takes.")
        write_whole(self._file, chunk)

    def finish(self) -> None:
        os.fsync(self._file.fileno())

    def publish(self) -> None:
        self.path.unlink(missing_ok=True)
        os.link(self.part, self.path)

    def discard(self) -> None:
        self.part.unlink(missing_ok=True)
        self._file.close()


def read_staged(store_dir: str, image_id: str) -> Iterator[bytes]:
    """The staged bytes in chunks; BadRequest where there are none."""
    try:
        stream = open(build_staged(store_dir, image_id), "rb")  # noqa: SIM115
    except FileNotFoundError:
        raise BadRequest("The staged data are not there (any more).") from None
    with stream:
        while chunk := stream.read(CHUNK):
            yield chunk


def list_staged(store_dir: str) -> list[str]:
    """Ids of the images that have staged bytes, sorted."""
    try:
        return sorted(match[1] for name in os.listdir(store_dir) if (match := STAGED.fullmatch(name)))
    except FileNotFoundError:
        return []


def remove_staged(store_dir: str, image_id: str) -> None:
    build_staged(store_dir, image_id).unlink(missing_ok=True)
