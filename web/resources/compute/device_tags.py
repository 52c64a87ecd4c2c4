"""Tags of devices: the role of a NIC or a disk, told to the guest by its metadata. Each is once in a server.

Source: Compute API reference, "Create Server" (networks, block_device_mapping_v2), "Create Interface", "Attach a
volume"; REST API version history, 2.32, 2.42 and 2.49. Next room: `module_utils/kumo/device_tags.py`.
"""

from __future__ import annotations

import re

from sqlalchemy import select

from ...errors import BadRequest
from ...http import Context
from ...models import Port, Server, VolumeAttachment
from .server_requests import invalid

TAG = {"type": "string", "minLength": 1, "maxLength": 60, "pattern": "^[^,/]*$"}
# Between these versions and 2.42 requests to create a server had no tags: a mistake there, which is kept as it was.
LAST_OF_NICS, LAST_OF_DISKS, BACK = (2, 36), (2, 32), (2, 42)
FIRST = (2, 32)


def check_tags(ctx: Context, body: dict) -> None:
    """BadRequest where a request for a server has a tag that its version does not know, a wrong one, or one twice."""
    networks = body.get("networks")
    nics = networks if isinstance(networks, list) else []
    disks = body.get("block_device_mapping_v2") or []
    taken: set[str] = set()
    for kind, entries, last in (("networks", nics, LAST_OF_NICS), ("block_device_mapping_v2", disks, LAST_OF_DISKS)):
        for index, entry in enumerate(entries):
            if "tag" not in entry:
                continue
            where, tag = f"{kind}/{index}", entry["tag"]
            if not (FIRST <= ctx.version <= last or ctx.version >= BACK):
                raise BadRequest(
                    f"Invalid input in {where}: Additional properties are not allowed ('tag' was unexpected)"
                )
            if not isinstance(tag, str) or not 0 < len(tag) <= 60 or not re.fullmatch("[^,/]*", tag):
                raise invalid(f"{where}/tag", tag, "It must be a text of 1 to 60 characters without , and /.")
            if tag in taken:
                raise invalid(f"{where}/tag", tag, "Another device of this server has this tag.")
            taken.add(tag)


def check_tag_free(ctx: Context, server: Server, tag: str | None) -> None:
    """BadRequest where another device of the server has the tag."""
    if tag is None:
        return
    taken = set((server.disks or {}).get("tags", {}).values())
    ports = select(Port.device_tag).where(Port.device_id == server.id, Port.detached_at.is_(None))
    volumes = select(VolumeAttachment.tag).where(
        VolumeAttachment.server_id == server.id, VolumeAttachment.deleted_at.is_(None)
    )
    taken |= {*ctx.session.scalars(ports), *ctx.session.scalars(volumes)}
    if tag in taken:
        raise invalid("tag", tag, f"Another device of instance {server.id} has this tag.")
