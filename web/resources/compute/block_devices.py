"""What a new server's disks are made of: an image onto a local disk, or volumes, old or new.

Source: Compute API reference, "Create Server", block_device_mapping_v2; and the user guide, "Launch instance from
volume". Next rooms: `local_disks.py`, which has blank local disks; `servers.py`, `web/volume_attachments.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sqlalchemy import select

from ...errors import BadRequest, NotFound
from ...fields import TRUE
from ...http import Context
from ...models import Flavor, Image, Snapshot, Volume, VolumeType
from ...models.hardware import read_devices
from ...volume_attachments import create_volume, reserve_attachment
from .local_disks import read_blank
from .server_requests import check_memory, invalid, read_image
from .server_volumes import choose_device, find_usable_volume
from .volume_images import merge, read_mapping

NO_ROOT = (
    "Block Device Mapping is Invalid: Boot sequence for the instance and image/block device mapping combination is "
    "not valid."
)
KEYS = {
    "source_type", "destination_type", "uuid", "boot_index", "volume_size", "volume_type", "delete_on_termination",
    "device_name", "device_type", "disk_bus", "guest_format", "no_device", "tag",
}  # fmt: skip


@dataclass
class WantedVolume:
    """One disk that is a volume: an existing one, or one to be made of an image, a snapshot or nothing."""

    volume: Volume | None = None
    image: Image | None = None
    snapshot: Snapshot | None = None
    size_gb: int = 0
    volume_type: VolumeType | None = None
    root: bool = False
    delete: bool = False
    device: str | None = None
    tag: str | None = None


@dataclass
class BlockDevices:
    """``image`` goes onto the local root disk; without one the root is among ``volumes``. ``blanks`` are local too."""

    image: Image | None
    volumes: list[WantedVolume]
    blanks: list[dict] = field(default_factory=list)
    root_tag: str | None = None  # of the local root disk
    mapped: Image | None = None  # without bytes: its mapping is among ``volumes``


def read_block_devices(ctx: Context, body: dict, flavor: Flavor, count: int) -> BlockDevices:
    """The disks that the request asks for; BadRequest names the entry that is wrong."""
    if body.get("block_device_mapping"):
        raise invalid("block_device_mapping", body["block_device_mapping"], "Use block_device_mapping_v2.")
    reference = body.get("imageRef") or None
    given, mapped = body.get("block_device_mapping_v2") or [], None
    if reference:
        mapped, entries = read_mapping(ctx, reference)
        if mapped is not None:
            check_memory(mapped, flavor)
            reference, given = None, merge(entries, given)
    local, volumes, blanks, root_tag = reference, [], [], None
    for index, entry in enumerate(given):
        where = f"block_device_mapping_v2/{index}"
        unknown = sorted(set(entry) - KEYS)
        if unknown:
            raise invalid(f"{where}/{unknown[0]}", entry[unknown[0]], "There is no such field.")
        kinds = (entry.get("source_type"), entry.get("destination_type") or _guess_destination(entry))
        root = str(entry.get("boot_index")) == "0"
        if kinds == ("image", "local"):
            local, root_tag = _read_local(entry, where, root, reference), entry.get("tag")
        elif kinds in (("volume", "volume"), ("image", "volume"), ("snapshot", "volume"), ("blank", "volume")):
            volumes.append(_read_volume(ctx, entry, where, root, kinds[0], flavor, count))
        elif kinds == ("blank", "local"):
            blanks.append(read_blank(entry, where))
        else:
            raise invalid(where, kinds, "Only an image onto the local root disk, blank local disks and volumes exist.")
    roots = [one for one in volumes if one.root]
    if len(roots) > 1 or bool(roots) == bool(local):
        # As the reference has it: an image that is named beside a root disk on a volume has to be there, no more.
        if len(roots) == 1 and reference and local == reference:
            read_image(ctx, reference, flavor, on_volume=True)
            return BlockDevices(None, volumes, blanks, mapped=mapped)
        if not reference and not given and mapped is None:
            raise BadRequest("Invalid imageRef provided: an image, or a volume to boot from, is needed.")
        raise BadRequest(NO_ROOT)
    return BlockDevices(read_image(ctx, local, flavor) if local else None, volumes, blanks, root_tag, mapped)


def _guess_destination(entry: dict) -> str:
    return "volume" if entry.get("source_type") in ("volume", "snapshot") else "local"


def _read_local(entry: dict, where: str, root: bool, reference: str | None) -> str:
    if not root or not isinstance(entry.get("uuid"), str):
        raise invalid(where, entry, "An image goes onto the local root disk: boot_index 0 and a uuid are needed.")
    if entry.get("volume_size"):
        raise invalid(f"{where}/volume_size", entry["volume_size"], "The flavor says how large a local disk is.")
    if reference and reference != entry["uuid"]:
        raise invalid(f"{where}/uuid", entry["uuid"], "It is not the image that imageRef names.")
    return entry["uuid"]


def _read_volume(
    ctx: Context, entry: dict, where: str, root: bool, kind: str, flavor: Flavor, count: int
) -> WantedVolume:
    if kind != "blank" and not isinstance(entry.get("uuid"), str):
        raise invalid(f"{where}/uuid", entry.get("uuid"), f"The uuid of the {kind} is needed.")
    for name, offered in (("device_type", "disk"), ("disk_bus", "virtio")):
        if entry.get(name) not in (None, offered):
            raise invalid(f"{where}/{name}", entry[name], f"Only {offered} is offered.")
    size = entry.get("volume_size")
    if size is not None and not (isinstance(size, int | str) and str(size).isdigit() and int(size) > 0):
        raise invalid(f"{where}/volume_size", size, "It must be a number of GiB from 1.")
    wanted = WantedVolume(
        size_gb=int(size or 0),
        root=root,
        delete=entry.get("delete_on_termination") in TRUE,
        device=entry.get("device_name"),
        tag=entry.get("tag"),
        volume_type=_read_type(ctx, entry.get("volume_type"), where),
    )
    if kind == "volume":
        if count > 1:
            raise BadRequest(f"Invalid input for {where}: a volume cannot be given to more than one server.")
        try:
            wanted.volume = find_usable_volume(ctx, entry["uuid"])
        except NotFound as problem:
            raise BadRequest(f"Invalid input for {where}/uuid: {problem.message}") from None
        if root and not wanted.volume.bootable:
            raise BadRequest(f"Block Device Mapping is Invalid: Volume {wanted.volume.id} is not bootable.")
    elif kind == "image":
        wanted.image = read_image(ctx, entry["uuid"], flavor, on_volume=True)
        if not wanted.size_gb:
            raise invalid(f"{where}/volume_size", size, "A volume of an image needs a size.")
    elif kind == "snapshot":
        snapshot = ctx.session.get(Snapshot, entry["uuid"])
        if snapshot is None or snapshot.gone_at is not None or snapshot.project_id != ctx.project_id:
            raise BadRequest(f"Block Device Mapping is Invalid: failed to get snapshot {entry['uuid']}.")
        wanted.snapshot, wanted.size_gb = snapshot, wanted.size_gb or snapshot.size_gb
    elif root or not wanted.size_gb:
        raise invalid(where, entry, "A blank volume needs a size, and holds nothing to boot.")
    return wanted


def _read_type(ctx: Context, given: str | None, where: str) -> VolumeType | None:

    if not given:
        return ctx.session.scalar(select(VolumeType).where(VolumeType.name == "__DEFAULT__"))
    found = ctx.session.get(VolumeType, given) or ctx.session.scalar(select(VolumeType).where(VolumeType.name == given))
    if found is None:
        raise invalid(f"{where}/volume_type", given, "There is no such volume type.")
    return found


def store_volumes(ctx: Context, server, wanted: list[WantedVolume]) -> None:
    """Make and reserve the server's volumes: the root at vda, the others as asked or next."""
    taken = set(read_devices(server).values())
    for one in sorted(wanted, key=lambda one: not one.root):
        volume = one.volume or create_volume(
            ctx.session,
            ctx.settings,
            project_id=server.project_id,
            user_id=server.user_id,
            size_gb=one.size_gb,
            name="",
            image=one.image,
            snapshot=one.snapshot,
            volume_type=one.volume_type,
            request_id=ctx.request_id,
        )
        if volume.fault_message is not None and volume.host_id is None:
            raise BadRequest(f"Block Device Mapping is Invalid: {volume.fault_message}")
        device = "vda" if one.root else choose_device(one.device, taken)
        taken.add(device)
        reserve_attachment(
            ctx.session,
            volume,
            server_id=server.id,
            device=device,
            boot_index=0 if one.root else None,
            delete_with_server=one.delete,
            tag=one.tag,
            waits=one.volume is None,
            request_id=ctx.request_id,
        )
