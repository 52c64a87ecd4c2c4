"""Images of servers whose root disk is a volume: no bytes, but snapshots of its volumes, and how they go together.

The image is active at once, with a size of 0; its property `block_device_mapping` is what a server booted from it gets
its volumes from. Until the snapshots are made nothing but a deletion is asked of the server. Source: Compute API
reference, "Create Image (createImage Action)"; Block Storage API, "Volume snapshots". Next rooms: `block_devices.py`,
`web/volume_images.py`.
"""

from __future__ import annotations

import json

from ...errors import BadRequest, Forbidden
from ...fields import TRUE
from ...http import Context
from ...models import Host, Image, Server, Snapshot, Volume, VolumeAttachment, new_uuid
from ...policy import MEMBER, rule
from ...volume_attachments import check_volume_quota, create_snapshot
from .server_requests import find_image, invalid
from .server_volumes import hold_volume, read_server_attachments

ALLOW = rule("compute:servers:create_image:allow_volume_backed", MEMBER)
TASK = "image_snapshot"
MAPPING, MARK = "block_device_mapping", "bdm_v2"
AT_REST = ("stopped", "suspended")  # nobody writes to the volumes of such a server
# Of the image that a volume was once copied from, and of its bytes: no properties of another image.
NOT_PROPERTIES = (
    "container_format", "disk_format", "min_disk", "min_ram", "size", "checksum", "image_id", "image_name",
)  # fmt: skip


def check_allowed_of_volumes(ctx: Context) -> None:
    """Forbidden where the caller may make images of local disks only."""
    if not ctx.allows(ALLOW):
        raise Forbidden(f"Policy doesn't allow {ALLOW} to be performed.")


def take_snapshots(ctx: Context, server: Server, image_name: str) -> list[dict]:
    """A snapshot of each of the server's volumes is wanted; the entries of the image's mapping, the root's first.

    BadRequest where a volume is written to, and its backend needs time for a snapshot.
    """
    pairs: list[tuple[VolumeAttachment, Volume]] = []
    for attachment in read_server_attachments(ctx, server, ending=False):
        volume = hold_volume(ctx, ctx.session.get(Volume, attachment.volume_id))
        _check_volume(ctx, server, volume)
        pairs.append((attachment, volume))
    total = sum(volume.size_gb for _, volume in pairs)
    check_volume_quota(ctx.session, server.project_id, "snapshots", total, len(pairs))
    pairs.sort(key=lambda pair: (pair[0].boot_index != 0, pair[0].device or ""))
    return [_build_entry(attachment, volume, _take(ctx, volume, image_name)) for attachment, volume in pairs]


def _check_volume(ctx: Context, server: Server, volume: Volume) -> None:
    if volume.built_at is None or volume.fault_message is not None or volume.deleted_at is not None:
        raise BadRequest(f"Invalid volume: Volume {volume.id} is {volume.status}: no snapshot of it can be taken.")
    if server.vm_state in AT_REST:
        return
    pool = ((ctx.session.get(Host, volume.host_id).observed or {}).get("host") or {}).get("storage") or {}
    if not pool.get("snapshot_in_use"):
        raise BadRequest(
            f"Invalid volume: Volume {volume.id} is in use, and its backend ({pool.get('backend', 'unknown')}) cannot "
            f"take a snapshot of one moment then; stop instance {server.id} first."
        )


def _take(ctx: Context, volume: Volume, image_name: str) -> Snapshot:
    return create_snapshot(
        ctx.session,
        volume,
        user_id=ctx.token.user_id,
        name=f"snapshot for {image_name}"[:255],
        description=volume.description,
        request_id=ctx.request_id,
    )


def _build_entry(attachment: VolumeAttachment, volume: Volume, snapshot: Snapshot) -> dict:
    return {
        "source_type": "snapshot",
        "destination_type": "volume",
        "snapshot_id": snapshot.id,
        "volume_size": volume.size_gb,
        "boot_index": attachment.boot_index,
        "device_name": f"/dev/{attachment.device}",
        "delete_on_termination": attachment.delete_with_server,
        "device_type": "disk",
        "disk_bus": "virtio",
        "guest_format": None,
        "no_device": None,
        "tag": attachment.tag,
    }


def build_image(ctx: Context, name: str, properties: dict, mapping: list[dict], min_ram: str) -> Image:
    """The image without bytes, which is active from its beginning."""
    return Image(
        id=new_uuid(),
        project_id=ctx.project_id,
        name=name,
        visibility="private",
        status="active",
        size=0,
        min_ram=int(min_ram) if min_ram.isdigit() else 0,
        properties={
            **properties,
            MARK: "True",
            MAPPING: json.dumps(mapping),
            "root_device_name": "/dev/vda",
        },
    )


def read_mapping(ctx: Context, image_id: str) -> tuple[Image | None, list[dict]]:
    """(image, entries as a request has them) of an image that is a mapping; (None, []) of any other.

    Anybody may write properties: what is in this one is checked as if the user had sent it.
    """
    image = ctx.session.get(Image, image_id)
    if image is None or image.size or str((image.properties or {}).get(MARK)) not in TRUE:
        return None, []
    image = find_image(ctx, image_id)
    try:
        entries = json.loads(image.properties.get(MAPPING) or "")
    except ValueError:
        entries = None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise invalid("imageRef", image_id, f"Its property {MAPPING} is no list of devices.")
    if image.project_id != ctx.project_id and any(entry.get("source_type") == "volume" for entry in entries):
        # Whoever wrote it could have a volume of the caller's deleted with the server.
        raise invalid("imageRef", image_id, f"Its property {MAPPING} names a volume, and it is another project's.")
    return image, [_turn(ctx, entry) for entry in entries]


def _turn(ctx: Context, entry: dict) -> dict:
    """One entry of an image as one of a request: what is null is left out, the id of the source is its uuid."""
    turned = {name: value for name, value in entry.items() if value is not None and not name.endswith("_id")}
    source = entry.get(f"{entry.get('source_type')}_id")
    if source is not None:
        turned["uuid"] = source
    snapshot = ctx.session.get(Snapshot, source) if entry.get("source_type") == "snapshot" and source else None
    if snapshot is not None and (snapshot.deleted_at is not None or snapshot.fault_message is not None):
        raise BadRequest(f"Block Device Mapping is Invalid: snapshot {source} of the image is {snapshot.status}.")
    return turned


def merge(mapped: list[dict], given: list[dict]) -> list[dict]:
    """The image's devices and the request's: one of the request is in place of the image's of its name, or root."""
    names = {str(entry.get("device_name")).removeprefix("/dev/") for entry in given if entry.get("device_name")}
    has_root = any(str(entry.get("boot_index")) == "0" for entry in given)
    kept = [
        entry
        for entry in mapped
        if str(entry.get("device_name")).removeprefix("/dev/") not in names
        and not (has_root and str(entry.get("boot_index")) == "0")
    ]
    return kept + given
