"""Volumes, snapshots and exports of a storage host's document, and the volumes of guests, from rows. Pure."""

from __future__ import annotations

from .rows import Rows

# What a storage host calls the target of an attachment, and the unit in it (docs/real-hosts.md).
TARGET, LUN = "iqn.2026-11.cloud.kumo:{}", 1


def build_volumes(rows: Rows) -> list[dict]:
    """The document's ``volumes``; one is left out until what it is made from is whole."""
    documents = []
    for volume in rows.volumes:
        if volume.deleted_at is not None and not _is_open(rows, volume):
            documents.append({"id": volume.id, "project_id": volume.project_id, "wanted": "absent"})
            continue
        source = None
        if volume.built_at is None:
            for name, source_id in (("snapshot", volume.snapshot_id), ("volume", volume.source_volume_id)):
                if source_id is not None:
                    source = {name: source_id}
            if source is not None and next(iter(source.values())) not in rows.whole:
                continue
            if source is None and volume.image_id is not None:
                source = {"image": volume.image_id}
        documents.append(
            {
                "id": volume.id,
                "project_id": volume.project_id,
                "wanted": "present",
                "size_gb": volume.size_gb,
                "source": source,
                "exports": [
                    {
                        "id": one.id,
                        "username": one.username,
                        "password": one.password,
                        "read_only": one.read_only,
                    }
                    for one in rows.attachments
                    # Wanted no more, it stays until the guest is seen without it.
                    if one.volume_id == volume.id and one.wanted and (one.deleted_at is None or one.observed_attached)
                    if not volume.is_withheld
                ],
                **({"reimage": _build_reimage(volume)} if volume.is_reimaged and volume.deleted_at is None else {}),
            }
        )
    return documents


def _is_open(rows: Rows, volume) -> bool:
    """Whether a target of it is still to be closed: it is removed after that."""
    return any(one.volume_id == volume.id and one.observed_export is not None for one in rows.attachments)


def _build_reimage(volume) -> dict:
    """Idle once nobody uses the volume any more; until then its host only gets the image."""
    idle = volume.reimage_begun >= volume.reimage_wanted
    return {"wanted": volume.reimage_wanted, "image": volume.image_id, "idle": idle}


def find_root_volume(rows: Rows, server):
    """The volume that is the server's root disk; None where that is a file of its host."""
    pairs = rows.server_volumes.get(server.id, [])
    return next((volume for one, volume in pairs if one.boot_index == 0 and one.deleted_at is None), None)


def build_snapshots(rows: Rows) -> list[dict]:
    """The document's ``snapshots``; one is left out until its volume is whole."""
    documents = []
    for snapshot in rows.snapshots:
        if snapshot.deleted_at is not None:
            documents.append({"id": snapshot.id, "volume": snapshot.volume_id, "wanted": "absent"})
        elif snapshot.volume_id in rows.whole:
            resting = {"resting": True} if snapshot.volume_id in rows.resting else {}
            row = {"id": snapshot.id, "volume": snapshot.volume_id, "wanted": "present", "size_gb": snapshot.size_gb}
            documents.append(row | resting)
    return documents


def build_attached(rows: Rows, server) -> list[dict]:
    """The ``volumes`` of one of the document's servers, by device: those that have a target when it looks for them."""
    documents = []
    for attachment, volume in rows.server_volumes.get(server.id, []):
        export = _choose_export(rows, attachment, volume)
        if export is None or attachment.deleted_at is not None:
            continue
        documents.append(
            {
                "attachment": attachment.id,
                "volume": volume.id,
                "device": attachment.device,
                "boot_index": attachment.boot_index,
                "read_only": attachment.read_only,
                "portal": export["portal"],
                "iqn": export["iqn"],
                "lun": export["lun"],
                "username": attachment.username,
                "password": attachment.password,
                "size_gb": volume.observed_size_gb or volume.size_gb,
                **({"tag": attachment.tag} if attachment.tag else {}),
            }
        )
    return sorted(documents, key=lambda one: (len(one["device"] or ""), one["device"] or ""))


def lacks_volumes(rows: Rows, server) -> bool:
    """Whether a server that is not built yet, or built again to unshelve it, still waits for one of its volumes."""
    if server.deleted_at is not None or (server.built_at is not None and server.offloaded_at is None):
        return False
    pairs = rows.server_volumes.get(server.id, [])
    return any(_choose_export(rows, one, volume) is None and one.deleted_at is None for one, volume in pairs)


def waits_for_targets(rows: Rows, server) -> bool:
    """Whether targets that a lost host knows are still open, or those in their place not yet."""
    return any(
        attachment.replaced and (attachment.deleted_at is not None or attachment.observed_export is None)
        for attachment, _ in rows.server_volumes.get(server.id, [])
    )


def _choose_export(rows: Rows, attachment, volume) -> dict | None:
    """Where the attachment's target is, or will be before this host's guests are looked at; None where nobody knows.

    A host that keeps the volume of its own guest makes the target in the same run, by the order of its sections.
    """
    here = volume.host_id == rows.host.id and volume.built_at is not None and attachment.wanted
    here = here and not volume.is_withheld
    if attachment.observed_export is not None or not here:
        return attachment.observed_export
    storage = (rows.host.settings or {}).get("storage")
    return {"portal": storage["portal"], "iqn": TARGET.format(attachment.id), "lun": LUN} if storage else None
