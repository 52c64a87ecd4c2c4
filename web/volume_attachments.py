"""Volumes made, attached and let go, in the caller's transaction: what the volume and the compute API share.

Nothing here waits: rows say what is wanted, storage hosts and hypervisors follow (docs/real-hosts.md, "One
attachment, in order"). Problems are `web.errors`. Next rooms: `resources/volume/`, `reconcile/observe_volumes.py`.
"""

from __future__ import annotations

import secrets

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from .errors import BadRequest, OverQuota
from .models import (
    Host,
    Image,
    Project,
    Snapshot,
    Volume,
    VolumeAttachment,
    VolumeType,
    new_uuid,
    now,
    read_limit,
    touch,
)
from .reconcile.volume_status import compute_snapshot_status, compute_volume_status
from .scheduler import NoValidHost, StorageCandidate, choose_storage, is_up

GIB = 1 << 30
QUOTA_STATUS_KIND = "VolumeLimitExceeded"
KEPT_OF_ATTACHMENT = (
    "volume_id", "project_id", "server_id", "connector", "wanted", "device", "read_only", "boot_index",
    "delete_with_server", "tag",
)  # fmt: skip
IMAGE_DETAILS = ("container_format", "disk_format", "min_disk", "min_ram", "size", "checksum")


def read_attachments(session: Session, volume_id: str) -> list[VolumeAttachment]:
    """The attachments that hold the volume, the oldest first."""
    statement = select(VolumeAttachment).where(VolumeAttachment.volume_id == volume_id, ~VolumeAttachment.released)
    return list(session.scalars(statement.order_by(VolumeAttachment.created_at, VolumeAttachment.id)))


def refresh_volume(session: Session, volume: Volume) -> None:
    """Compute the volume's status and store it."""
    session.flush()
    volume.status = compute_volume_status(volume, read_attachments(session, volume.id))


def refresh_snapshot(snapshot: Snapshot) -> None:
    """Compute the snapshot's status and store it."""
    snapshot.status = compute_snapshot_status(snapshot)


def read_volume_usage(session: Session, project_id: str) -> dict[str, int]:
    """{"volumes", "snapshots", "gigabytes"} of the project's volumes and snapshots that are not gone."""
    usage = {"gigabytes": 0}
    for name, model in (("volumes", Volume), ("snapshots", Snapshot)):
        count, size = session.execute(
            select(func.count(), func.coalesce(func.sum(model.size_gb), 0)).where(
                model.project_id == project_id, model.gone_at.is_(None)
            )
        ).one()
        usage[name] = int(count)
        usage["gigabytes"] += int(size)
    return usage


def check_volume_quota(session: Session, project_id: str, resource: str, size_gb: int, count: int = 1) -> None:
    """OverQuota where ``count`` more of ``resource`` (volumes, snapshots) with ``size_gb`` in all are too many.

    The project's other creations wait until this transaction ends.
    """
    session.execute(select(Project.id).where(Project.id == project_id).with_for_update())
    most = read_limit(session, project_id, "per_volume_gigabytes")
    if most != -1 and resource == "volumes" and size_gb > most:
        raise OverQuota(f"Requested volume size {size_gb}G is larger than maximum allowed limit {most}G.")
    usage = read_volume_usage(session, project_id)
    limit = read_limit(session, project_id, resource)
    if limit != -1 and usage[resource] + count > limit:
        kind = "VolumeLimitExceeded" if resource == "volumes" else "SnapshotLimitExceeded"
        raise OverQuota(f"{kind}: Maximum number of {resource} allowed ({limit}) exceeded for quota '{resource}'.")
    limit = read_limit(session, project_id, "gigabytes")
    if limit != -1 and usage["gigabytes"] + size_gb > limit:
        raise OverQuota(
            f"VolumeSizeExceedsAvailableQuota: Requested volume or snapshot exceeds allowed gigabytes quota. "
            f"Requested {size_gb}G, quota is {limit}G and {usage['gigabytes']}G has been consumed."
        )


def read_storage_candidates(session: Session, settings) -> list[StorageCandidate]:
    """Every storage host as the choice sees it; the rows are held until the transaction ends."""
    used: dict[str, int] = {}
    for model in (Volume, Snapshot):
        statement = (
            select(model.host_id, func.sum(model.size_gb)).where(model.gone_at.is_(None)).group_by(model.host_id)
        )
        for host_id, size in session.execute(statement):
            used[host_id] = used.get(host_id, 0) + int(size)
    candidates = []
    for host in session.scalars(select(Host).order_by(Host.id).with_for_update()):
        if "storage" not in host.roles:
            continue
        pool = ((host.observed or {}).get("host") or {}).get("storage") or {}
        up = is_up(host.observed_at, host.forced_down, now(), settings.worker.sweep_s, host.failures)
        candidates.append(
            StorageCandidate(
                id=host.id,
                name=host.name,
                zone=host.zone,
                enabled=host.enabled,
                up=up and bool(pool),
                backend=pool.get("backend", ""),
                total_gb=pool.get("total_gb", 0),
                used_gb=used.get(host.id, 0),
            )
        )
    return candidates


def create_snapshot(
    session: Session,
    volume: Volume,
    *,
    user_id: str,
    name: str | None,
    description: str | None,
    metadata: dict | None = None,
    request_id: str | None = None,
) -> Snapshot:
    """A snapshot that is wanted of a volume, which the caller holds and has checked; tells the volume's host."""
    snapshot = Snapshot(
        id=new_uuid(),
        project_id=volume.project_id,
        user_id=user_id,
        volume_id=volume.id,
        name=name,
        description=description,
        metadata_=dict(metadata or {}),
        size_gb=volume.size_gb,
        host_id=volume.host_id,
    )
    refresh_snapshot(snapshot)
    session.add(snapshot)
    session.flush()
    touch(session, volume.host_id, request_id)
    return snapshot


def create_volume(
    session: Session,
    settings,
    *,
    project_id: str,
    user_id: str,
    size_gb: int,
    name: str | None = None,
    description: str | None = None,
    image: Image | None = None,
    snapshot: Snapshot | None = None,
    source_volume: Volume | None = None,
    volume_type: VolumeType | None = None,
    availability_zone: str | None = None,
    metadata: dict | None = None,
    request_id: str | None = None,
) -> Volume:
    """A volume that is wanted, on the storage host chosen for it; one that fits nowhere is an error with its reason.

    BadRequest where the size does not hold its source, OverQuota where the project has too many.
    """
    _check_source_size(size_gb, image, snapshot, source_volume)
    check_volume_quota(session, project_id, "volumes", size_gb)
    source = snapshot or source_volume
    volume = Volume(
        id=new_uuid(),
        project_id=project_id,
        user_id=user_id,
        name=name,
        description=description,
        size_gb=size_gb,
        metadata_=dict(metadata or {}),
        volume_type_id=volume_type.id if volume_type is not None else None,
        availability_zone=availability_zone,
        image_id=image.id if image is not None else None,
        snapshot_id=snapshot.id if snapshot is not None else None,
        source_volume_id=source_volume.id if source_volume is not None else None,
    )
    if image is not None:
        volume.bootable = True
        volume.image_metadata = build_image_metadata(image)
    elif source is not None:
        origin = source_volume or session.get(Volume, snapshot.volume_id)
        volume.bootable, volume.image_metadata = origin.bootable, dict(origin.image_metadata)
    if source is not None:
        volume.host_id = source.host_id
    else:
        backend = (volume_type.extra_specs if volume_type is not None else {}).get("volume_backend_name")
        candidates = read_storage_candidates(session, settings)
        percent = settings.volume.allocation_percent
        try:
            volume.host_id = choose_storage(candidates, size_gb, percent, availability_zone, backend)
        except NoValidHost as refusal:
            volume.fault_message = f"{refusal} {refusal.details}".strip()
    session.add(volume)
    refresh_volume(session, volume)
    touch(session, volume.host_id, request_id)
    return volume


def build_image_metadata(image: Image) -> dict:
    """`volume_image_metadata`: what of the image a guest that boots from the volume may need."""
    details = {name: getattr(image, name, None) for name in IMAGE_DETAILS}
    shown = {name: str(value) for name, value in details.items() if value is not None}
    properties = {name: str(value) for name, value in (image.properties or {}).items()}
    return {**properties, **shown, "image_id": image.id, "image_name": image.name or ""}


def check_image_size(size_gb: int, image: Image) -> None:
    """BadRequest where the image needs a larger disk than the volume's."""
    needed = max(-(-(image.virtual_size or image.size or 0) // GIB), image.min_disk or 0)
    if size_gb < needed:
        raise BadRequest(
            f"Invalid input received: Size of specified image {needed}GB is larger than volume size {size_gb}GB."
        )


def _check_source_size(size_gb: int, image, snapshot, source_volume) -> None:
    if image is not None:
        check_image_size(size_gb, image)
    if snapshot is not None and size_gb < snapshot.size_gb:
        raise BadRequest(
            f"Invalid input received: Volume size '{size_gb}'GB cannot be smaller than the snapshot size "
            f"{snapshot.size_gb}GB. They must be >= original snapshot size."
        )
    if source_volume is not None and size_gb < source_volume.size_gb:
        raise BadRequest(
            f"Invalid input received: Clones currently must be >= original volume size. Requested {size_gb}GB, "
            f"the source has {source_volume.size_gb}GB."
        )


def reserve_attachment(
    session: Session,
    volume: Volume,
    *,
    server_id: str | None = None,
    device: str | None = None,
    boot_index: int | None = None,
    read_only: bool = False,
    delete_with_server: bool = False,
    tag: str | None = None,
    connector: dict | None = None,
    wanted: bool = True,
    completed: bool = False,
    waits: bool = False,
    request_id: str | None = None,
) -> VolumeAttachment:
    """A new attachment of a volume that nobody uses; with ``waits`` of one that is still being made.

    BadRequest in the reference's words where the volume's status forbids it. Tells the storage host.
    """
    making = waits and volume.built_at is None  # one whose content is made anew is `downloading`, too
    usable = ("available", "creating", "downloading") if making else ("available",)
    if volume.status not in usable:
        raise BadRequest(
            f"Invalid volume: Volume {volume.id} status must be available or downloading to reserve, "
            f"but the current status is {volume.status}."
        )
    attachment = VolumeAttachment(
        id=new_uuid(),
        volume_id=volume.id,
        project_id=volume.project_id,
        server_id=server_id,
        connector=connector or {},
        wanted=wanted,
        completed=completed,
        device=device,
        read_only=read_only or volume.read_only,
        boot_index=boot_index,
        delete_with_server=delete_with_server,
        tag=tag,
        username="",
        password=secrets.token_hex(8),  # 16 characters: initiators refuse shorter ones than 12 and longer ones than 16
    )
    attachment.username = attachment.id.replace("-", "")
    session.add(attachment)
    refresh_volume(session, volume)
    touch(session, volume.host_id, request_id)
    return attachment


def replace_attachments(session: Session, server_id: str, request_id: str | None = None) -> int:
    """New targets with new credentials for a server's volumes, in place of those that a lost host knows; how many.

    The server does not run before the old ones are closed and the new ones are open: a volume is never written by two
    guests, whatever a host that was given up still does.
    """
    found = session.scalars(select(VolumeAttachment).where(VolumeAttachment.server_id == server_id)).all()
    return sum(replace_attachment(session, old, request_id) for old in found)


def replace_attachment(session: Session, old: VolumeAttachment, request_id: str | None = None) -> bool:
    """Another target with other credentials in the place of one; whether that was still wanted."""
    volume, wanted = session.get(Volume, old.volume_id), old.deleted_at is None
    if wanted:
        new = VolumeAttachment(
            id=new_uuid(),
            password=secrets.token_hex(8),
            replaced=True,
            **{name: getattr(old, name) for name in KEPT_OF_ATTACHMENT},
        )
        new.username = new.id.replace("-", "")
        session.add(new)
    old.deleted_at = old.deleted_at or now()
    old.observed_attached, old.delete_with_server, old.replaced = False, False, True
    volume.updated_at = now()
    refresh_volume(session, volume)
    touch(session, volume.host_id, request_id)
    return wanted


def release_attachments(session: Session, server_id: str) -> None:
    """The server has left its host: what it attaches stays reserved for it, and is offered to nobody."""
    _store_wanted(session, server_id, False, None)


def resume_attachments(session: Session, server_id: str, request_id: str | None = None) -> None:
    """The server is wanted on a host again, with its volumes."""
    _store_wanted(session, server_id, True, request_id)


def _store_wanted(session: Session, server_id: str, wanted: bool, request_id: str | None) -> None:
    for one in session.scalars(select(VolumeAttachment).where(VolumeAttachment.server_id == server_id)).all():
        volume = session.get(Volume, one.volume_id)
        one.wanted, one.completed = wanted and one.deleted_at is None, False
        one.observed_attached = False
        volume.updated_at = now()
        refresh_volume(session, volume)
        touch(session, volume.host_id, request_id)


def end_attachments(session: Session, server_id: str) -> None:
    """The server was seen gone: its volumes are free, or go with it, before the storage host has closed targets."""
    for one in session.scalars(select(VolumeAttachment).where(VolumeAttachment.server_id == server_id)).all():
        volume = session.get(Volume, one.volume_id)
        held = one.deleted_at is None
        one.deleted_at = one.deleted_at or now()
        one.observed_attached = False
        one.released = held or not one.replaced  # a lost host may still write by what it was given
        if held and one.delete_with_server and not _has_snapshots(session, volume):
            request_volume_deletion(session, volume)
        else:
            refresh_volume(session, volume)
            touch(session, volume.host_id)


def _has_snapshots(session: Session, volume: Volume) -> bool:
    """Whether the volume has to stay for what was made of it: as the reference has it, it does, and is available."""
    found = select(Snapshot.id).where(Snapshot.volume_id == volume.id, Snapshot.gone_at.is_(None))
    return session.scalar(found.limit(1)) is not None


def request_detach(session: Session, attachment: VolumeAttachment, request_id: str | None = None) -> None:
    """The attachment is wanted no more; asked for twice it is one detachment. Tells the volume's storage host."""
    volume = session.get(Volume, attachment.volume_id)
    if attachment.deleted_at is None:
        attachment.deleted_at = now()
    if attachment.observed_export is None and not attachment.observed_attached and volume.host_id is None:
        session.delete(attachment)
    volume.updated_at = now()
    refresh_volume(session, volume)
    touch(session, volume.host_id, request_id)


def request_volume_deletion(session: Session, volume: Volume, request_id: str | None = None) -> None:
    """The volume's tombstone; one that was never placed is gone at once."""
    volume.deleted_at = volume.deleted_at or now()
    volume.fault_message = None
    volume.observed_failures = 0
    if volume.host_id is None:
        volume.gone_at = now()
    volume.updated_at = now()
    refresh_volume(session, volume)
    touch(session, volume.host_id, request_id)
