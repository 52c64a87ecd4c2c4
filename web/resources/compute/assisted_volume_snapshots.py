"""os-assisted-volume-snapshots: not offered. Storage hosts make snapshots of their volumes with no hypervisor's help.

Source: Compute API reference, "Assisted volume snapshots". A clear 400, so that no volume driver believes in one.
"""

from __future__ import annotations

from ...errors import BadRequest
from ...fields import UUID, field, mapping, text
from ...http import Context
from ...policy import ADMIN, rule
from ...routes import Route

INFO = mapping({"snapshot_id": text(255, 1), "type": text(255), "new_file": text(255), "id": text(255)}, extra=True)
FIELDS = {"volume_id": field(UUID, required=True), "create_info": field(INFO, required=True)}
REASON = (
    "Snapshots are made by the storage host that has the volume, never by a hypervisor: ask the volume service for one "
    "(POST /snapshots)."
)


def create(ctx: Context) -> None:
    raise BadRequest(f"Invalid input for field/attribute snapshot. Value: {ctx.body['volume_id']}. {REASON}")


def delete(ctx: Context, snapshot_id: str) -> None:
    raise BadRequest(f"Snapshot {snapshot_id[:255]} is none of this service's. {REASON}")


PATH = "/os-assisted-volume-snapshots"
CREATE = rule("compute:assisted_volume_snapshots:create", ADMIN)
DELETE = rule("compute:assisted_volume_snapshots:delete", ADMIN)
ROUTES = [
    Route("POST", PATH, CREATE, FIELDS, create, None, key="snapshot"),
    Route("DELETE", PATH + "/{snapshot_id}", DELETE, None, delete, None, 204),
]
