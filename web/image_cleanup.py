"""Which images' bytes nothing needs any more: for the API after a delete and for the worker now and then.

Reads rows and removes files; changes no row. Next room: `image_store.py`.
"""

from __future__ import annotations

from sqlalchemy import or_, select

from .image_staging import list_staged, remove_staged
from .image_store import list_images, remove_image, remove_parts
from .models import Host, Image, Server, Volume


def remove_unneeded(database, store_dir: str) -> list[str]:
    """Remove the bytes of deleted images that no server still has to be built from; the ids removed.

    Where there are several hypervisors, a server may have to be built again on another one, or go there with a disk
    that lies over its image: then the bytes stay for as long as it is there. Part files of killed uploads go, too, and
    what was staged for no import. For the worker to call from time to time; can be repeated.
    """
    remove_parts(store_dir)
    unbuilt = or_(
        Server.built_at.is_(None),
        Server.offloaded_at.is_not(None),
        Server.rebuild_wanted > Server.observed_rebuild_done,
    )
    unmade = or_(Volume.built_at.is_(None), Volume.reimage_wanted > Volume.observed_reimage_done)
    removed = []
    with database.read() as session:
        moves = sum("hypervisor" in roles for roles in session.scalars(select(Host.roles))) > 1
    for image_id in list_images(store_dir):
        with database.read() as session:
            row = session.get(Image, image_id)
            needing = select(Server.id).where(
                Server.base_image_id == image_id, Server.gone_at.is_(None), Server.deleted_at.is_(None)
            )
            waiting = session.scalar((needing if moves else needing.where(unbuilt)).limit(1))
            rescued = (Server.rescue_image_id == image_id, Server.gone_at.is_(None), Server.deleted_at.is_(None))
            waiting = waiting or session.scalar(select(Server.id).where(*rescued).limit(1))
            waiting = waiting or session.scalar(
                select(Volume.id).where(Volume.image_id == image_id, unmade, Volume.deleted_at.is_(None)).limit(1)
            )
        if row is not None and row.deleted_at is not None and waiting is None and remove_image(store_dir, image_id):
            removed.append(image_id)
    for image_id in list_staged(store_dir):
        with database.read() as session:
            status = session.scalar(select(Image.status).where(Image.id == image_id))
        if status not in ("uploading", "importing"):
            remove_staged(store_dir, image_id)
    return removed
