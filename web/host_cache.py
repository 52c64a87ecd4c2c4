"""What operators want in hosts' image caches, for the admin API and for `kumo host images`, in their transactions.

Next rooms: `models/host_images.py`, the rows; `desired/rows.py`, which puts them into documents.
"""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from .errors import NotFound
from .models import Host, HostImage, Image, touch


def apply_wish(
    session: Session,
    host: Host,
    image_id: str,
    request_id: str | None = None,
    kept: bool | None = None,
    again: bool = False,
) -> None:
    """Have the image ``kept`` in the host's cache, or no longer, or fetched ``again``; the host's document changes.

    NotFound where there is no such image with data; releasing one that nobody keeps is nothing.
    """
    row = session.get(HostImage, (host.id, image_id))
    if row is None and kept is False:
        return
    image = session.get(Image, image_id)
    usable = image is not None and image.deleted_at is None and image.status in ("active", "deactivated")
    if not usable and kept is not False:
        raise NotFound("image with data", image_id)
    if row is None:
        row = HostImage(host_id=host.id, image_id=image_id, kept=False, fetch_wanted=0)
        session.add(row)
    before = (row.kept, row.fetch_wanted)
    row.kept = row.kept if kept is None else kept
    row.fetch_wanted += again
    if (row.kept, row.fetch_wanted) != before:
        touch(session, host.id, request_id)


def list_cache(session: Session, host: Host) -> list[dict]:
    """[{id, name, kept, cached, bytes, unused_since}] of a host, sorted by id: as wanted, and as last seen."""
    seen = {one["id"]: one for one in (host.observed or {}).get("image_cache", [])}
    kept = select(HostImage.image_id).where(HostImage.host_id == host.id, HostImage.kept)
    kept_ids = set(session.scalars(kept))
    found = session.execute(select(Image.id, Image.name).where(Image.id.in_(kept_ids | set(seen))))
    names = {row.id: row.name for row in found}
    return [
        {
            "id": image_id,
            "name": names.get(image_id),
            "kept": image_id in kept_ids,
            "cached": image_id in seen,
            "bytes": seen.get(image_id, {}).get("bytes"),
            "unused_since": seen.get(image_id, {}).get("unused_since"),
        }
        for image_id in sorted(kept_ids | set(seen))
    ]
