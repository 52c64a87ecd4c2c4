"""Guest images for hosts that are not this machine: which host may fetch which, and the word it shows.

A host's document names the image service's address and a signature made for that host and image; the key
is the control plane's own (`kumo bootstrap` makes it). Next rooms: `web/desired/servers.py`, which writes
it into documents, and `web/resources/image/host_files.py`, which checks it.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from datetime import datetime
from pathlib import Path

from sqlalchemy import ForeignKey, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from .base import Base, now
from .hosts import Host
from .migrations import Migration
from .servers import Server
from .volumes import Volume

HEADER = "X-Kumo-Signature"


class HostImage(Base):
    """What an operator wants of an image in a host's cache: that it is there, or that it is fetched anew."""

    __tablename__ = "host_images"

    host_id: Mapped[str] = mapped_column(ForeignKey("hosts.id", ondelete="CASCADE"), primary_key=True)
    image_id: Mapped[str] = mapped_column(ForeignKey("images.id", ondelete="CASCADE"), primary_key=True)
    kept: Mapped[bool] = mapped_column(default=False)  # in the cache though no guest needs it
    fetch_wanted: Mapped[int] = mapped_column(default=0)  # the host's copy converges to it by being fetched again
    created_at: Mapped[datetime] = mapped_column(default=now)


def build_key_path(settings) -> Path:
    """Where the key is: beside the token keys' directory."""
    return Path(settings.identity.key_dir).parent / "hosts.key"


def apply_host_key(settings) -> bool:
    """Make the key where there is none; whether it was made."""
    path = build_key_path(settings)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "w", encoding="ascii") as stream:
        stream.write(secrets.token_hex(32))
    return True


def read_host_key(settings) -> bytes:
    """The key; FileNotFoundError says what makes one."""
    path = build_key_path(settings)
    try:
        return bytes.fromhex(path.read_text(encoding="ascii").strip())
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no key for hosts; run `kumo bootstrap`") from None


def build_signature(key: bytes, host_id: str, image_id: str) -> str:
    """What a host shows for an image: made for that host and that image alone."""
    return hmac.new(key, f"{host_id} {image_id}".encode(), hashlib.sha256).hexdigest()


def build_upload_signature(key: bytes, host_id: str, image_id: str) -> str:
    """What a host shows that puts an image there: no download's signature opens this way."""
    return hmac.new(key, f"upload {host_id} {image_id}".encode(), hashlib.sha256).hexdigest()


def build_upload(host: Host, image_id: str, settings) -> dict:
    """Where a host puts the image that it makes of a guest's disk; the same way on this machine."""
    return {
        "url": f"{settings.api.hosts_url}/image/hosts/{host.id}/images/{image_id}",
        "headers": {HEADER: build_upload_signature(read_host_key(settings), host.id, image_id)},
    }


def build_source(host: Host, image_id: str, settings) -> dict:
    """The document's ``source`` of an image: the file itself on this machine, else the image service's address."""
    if "ansible_host" not in (host.connection or {}):
        return {"path": f"{settings.image.store_dir}/{image_id}"}
    return {
        "url": f"{settings.api.hosts_url}/image/hosts/{host.id}/images/{image_id}",
        "headers": {HEADER: build_signature(read_host_key(settings), host.id, image_id)},
    }


def is_needed(session: Session, host_id: str, image_id: str) -> bool:
    """Whether the host has a guest or a volume that is made from the image, or rescued with it, or expects one."""
    for model, column in ((Server, Server.base_image_id), (Server, Server.rescue_image_id), (Volume, Volume.image_id)):
        wanted = (model.host_id == host_id, column == image_id, model.deleted_at.is_(None))
        if session.scalar(select(model.id).where(*wanted, model.gone_at.is_(None)).limit(1)) is not None:
            return True
    kept = session.get(HostImage, (host_id, image_id))
    if kept is not None and kept.kept:
        return True
    expected = select(Migration.id).join(Server, Server.id == Migration.server_id)
    expected = expected.where(Migration.dest_host_id == host_id, Migration.phase.in_(("preparing", "sending")))
    return session.scalar(expected.where(Server.base_image_id == image_id).limit(1)) is not None
