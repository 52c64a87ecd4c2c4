"""Volumes whose content is made anew from an image, in the caller's transaction: asked for, begun, seen done.

Order across hosts is conditions (docs/compute.md, "A root disk that is a volume"): the storage host gets the image;
the guest is off, seen so by a run that held it; its target is given up for another; the storage host makes the
volume; the new target opens. Next rooms: `web/models/volumes.py`, `web/desired/volumes.py`.
"""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from .errors import BadRequest
from .models import Host, Image, Server, Volume, VolumeAttachment, now, touch
from .reconcile.faults import store_fault
from .reconcile.status import refresh_status
from .volume_attachments import (
    build_image_metadata,
    check_image_size,
    read_attachments,
    refresh_volume,
    replace_attachment,
)

OFF = (None, "shutoff", "crashed")


def request_reimage(session: Session, volume: Volume, image: Image, request_id: str | None = None) -> None:
    """The volume's content is wanted anew, from the image; an old fault is forgotten. The caller holds the volume.

    BadRequest where the volume is not there, or the image does not fit it.
    """
    if volume.built_at is None or volume.deleted_at is not None:
        raise BadRequest(f"Invalid volume: Volume {volume.id} cannot be imaged anew while it is {volume.status}.")
    check_image_size(volume.size_gb, image)
    volume.reimage_wanted += 1
    volume.image_id = image.id
    volume.fault_message, volume.observed_failures, volume.updated_at = None, 0, now()
    refresh_volume(session, volume)
    touch(session, volume.host_id, request_id)


def store_reimage(session: Session, volume: Volume, order: dict, seen: dict | None, images: dict, ok: bool) -> None:
    """What a storage host's run, whose document had this ``order``, saw of it: the image there, the content made."""
    done = min((seen or {}).get("reimage_done", 0), volume.reimage_wanted)
    if done > volume.observed_reimage_done:
        volume.observed_reimage_done = done
        image = session.get(Image, order["image"])
        if image is not None and done == order["wanted"]:
            volume.image_metadata, volume.bootable = build_image_metadata(image), True
        _touch_users(session, volume)
    there = images.get(order["image"], {}).get("state") == "cached"
    if ok and there and volume.observed_reimage_ready < order["wanted"]:
        volume.observed_reimage_ready = order["wanted"]
        _touch_users(session, volume)
    waits = volume.observed_reimage_ready >= volume.reimage_wanted > volume.reimage_begun
    if waits and not read_attachments(session, volume.id):
        _begin(session, volume)  # nobody's: its server was deleted meanwhile


def follow_reimages(session: Session, host: Host, document: dict, result: dict) -> None:
    """What follows for this host's guests: one that was held and is off leaves its volume; a fault is told of it."""
    off = _find_off(document, result)
    found = select(Server.id, Volume.id).join(VolumeAttachment, VolumeAttachment.server_id == Server.id)
    found = found.join(Volume, Volume.id == VolumeAttachment.volume_id).where(
        Server.host_id == host.id, Server.gone_at.is_(None), VolumeAttachment.boot_index == 0
    )
    waiting = Volume.reimage_wanted > Volume.observed_reimage_done
    for server_id, volume_id in session.execute(found.where(waiting).distinct()).all():
        held = select(Volume).where(Volume.id == volume_id).with_for_update()
        volume = session.scalars(held.execution_options(populate_existing=True)).one()
        ready = volume.observed_reimage_ready >= volume.reimage_wanted > volume.reimage_begun
        if ready and server_id in off:
            for attachment in read_attachments(session, volume_id):
                replace_attachment(session, attachment)
            _begin(session, volume)
            touch(session, host.id)
        server = session.scalar(select(Server).where(Server.id == server_id))
        if volume.fault_message is not None and server.deleted_at is None:
            store_fault(session, server, f"volume {volume.id}: {volume.fault_message}")
            refresh_status(server)


def _find_off(document: dict, result: dict) -> set[str]:
    """Ids of servers that this run was told to keep off, and that it saw off."""
    observed, outcomes = result["observed"].get("servers", {}), result["objects"].get("servers", {})
    return {
        row["id"]
        for row in document["servers"]
        if row.get("held")
        and outcomes.get(row["id"], {"ok": True})["ok"]
        and (observed.get(row["id"]) or {}).get("state") in OFF
    }


def _begin(session: Session, volume: Volume) -> None:
    """Nobody uses the volume any more, nor will before it is done."""
    volume.reimage_begun = volume.reimage_wanted
    volume.updated_at = now()
    refresh_volume(session, volume)
    touch(session, volume.host_id)


def _touch_users(session: Session, volume: Volume) -> None:
    hosts = select(Server.host_id).join(VolumeAttachment, VolumeAttachment.server_id == Server.id)
    for host_id in session.scalars(hosts.where(VolumeAttachment.volume_id == volume.id).distinct()).all():
        touch(session, host_id)
    touch(session, volume.host_id)
