"""A project's limits. Source: Block Storage API reference, "Limits (limits)"."""

from __future__ import annotations

from ...http import Context
from ...models import read_limit
from ...policy import READER, rule
from ...routes import Reply, Route
from ...volume_attachments import read_volume_usage


def show(ctx: Context) -> Reply:
    """The project's limits and what of them is used."""
    project = ctx.project_id
    usage = read_volume_usage(ctx.session, project)
    limits = {name: read_limit(ctx.session, project, name) for name in ("volumes", "snapshots", "gigabytes")}
    absolute = {
        "maxTotalVolumes": limits["volumes"],
        "maxTotalSnapshots": limits["snapshots"],
        "maxTotalVolumeGigabytes": limits["gigabytes"],
        "maxTotalBackups": 0,
        "maxTotalBackupGigabytes": 0,
        "totalVolumesUsed": usage["volumes"],
        "totalSnapshotsUsed": usage["snapshots"],
        "totalGigabytesUsed": usage["gigabytes"],
        "totalBackupsUsed": 0,
        "totalBackupGigabytesUsed": 0,
    }
    return Reply({"limits": {"rate": [], "absolute": absolute}})


ROUTES = [Route("GET", "/limits", rule("volume:limits:show", READER), None, show)]
