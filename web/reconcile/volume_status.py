"""A volume's and a snapshot's status, as functions of what is wanted and what was seen. Pure.

Stored beside what they depend on, in the same transaction, by whoever changed that. Source: Block Storage API
reference, "Volumes" and "Volume snapshots", their status tables. Next room: `observe_volumes.py`.
"""

from __future__ import annotations

from collections.abc import Iterable


def compute_volume_status(volume, attachments: Iterable = ()) -> str:
    """The status of a volume row with the rows of its attachments."""
    if volume.gone_at is not None:
        return "deleted"
    if volume.deleted_at is not None:
        return "error_deleting" if volume.fault_message else "deleting"
    if volume.built_at is None:
        if volume.fault_message is not None:
            return "error"
        return "downloading" if volume.image_id and volume.observed_state == "creating" else "creating"
    if volume.fault_message is not None:
        return "error_extending" if volume.size_gb > (volume.observed_size_gb or 0) else "error"
    if volume.is_reimaged:
        return "downloading"
    attachments = list(attachments)
    if volume.size_gb > (volume.observed_size_gb or 0):
        return "in-use" if attachments else "extending"
    if not attachments:
        return "available"
    if any(one.deleted_at is not None for one in attachments):
        return "detaching"
    if any(is_connected(one) for one in attachments):
        return "in-use"
    if not any(one.wanted for one in attachments):
        return "reserved"
    return "attaching"


def is_connected(attachment) -> bool:
    """Whether the volume counts as in use by it: seen in the guest, or said to be by whoever attaches it."""
    return attachment.observed_attached or attachment.completed


def compute_attachment_status(attachment) -> str:
    """The status of one attachment, as the attachments API names it."""
    if attachment.deleted_at is not None:
        return "detaching"
    if is_connected(attachment):
        return "attached"
    if attachment.observed_error:
        return "error_attaching"
    return "attaching" if attachment.wanted else "reserved"


def compute_snapshot_status(snapshot) -> str:
    """The status of a snapshot row."""
    if snapshot.gone_at is not None:
        return "deleted"
    if snapshot.deleted_at is not None:
        return "error_deleting" if snapshot.fault_message else "deleting"
    if snapshot.fault_message is not None:
        return "error"
    return "available" if snapshot.built_at is not None else "creating"
