"""Figures of a guest that runs, read by its host when somebody asks: libvirt's own names, from 2.48 on one schema.

Source: Compute API reference, "Servers diagnostics (servers, diagnostics)". Next rooms: `server_questions.py`,
`module_utils/kumo/diagnostics.py`.
"""

from __future__ import annotations

from sqlalchemy import select

from ...errors import Conflict, Unavailable
from ...http import Context
from ...models import Host, Server, ServerDiagnostics, touch
from ...policy import ADMIN, rule
from ...reconcile.status import POWER_STATES, check_allowed
from ...routes import Route
from .server_questions import check_host_up, wait_for_answer
from .server_rows import find_server

RUNNING = POWER_STATES["running"]


def show(ctx: Context, server_id: str) -> dict:
    """Ask the host, wait for it, and return what it counted; Conflict where the guest does not run."""
    with ctx.write() as session:
        server = find_server(ctx, server_id)
        if not ctx.database.is_sqlite:  # the host first, as the loop does
            session.execute(select(Host.id).where(Host.id == server.host_id).with_for_update())
            session.refresh(server, with_for_update=True)
        check_allowed(server, "get_diagnostics")
        if server.power_state != RUNNING:
            raise _refuse(server_id, "not running")
        check_host_up(ctx, server, f"The diagnostics of instance {server.id} cannot be read")
        server.diagnostics_wanted += 1
        number, config_drive = server.diagnostics_wanted, server.config_drive
        touch(session, server.host_id, ctx.request_id)

    def read(session) -> dict | None:
        done = select(Server.observed_diagnostics_done).where(Server.id == server_id)
        if (session.scalar(done) or 0) < number:
            return None
        figures = select(ServerDiagnostics.figures).where(ServerDiagnostics.server_id == server_id)
        return session.scalar(figures) or {}

    figures = wait_for_answer(ctx, read)
    if figures is None:
        raise Unavailable(f"The host of instance {server_id} did not answer in time; ask again.")
    if not figures:
        raise _refuse(server_id, "not running any more")
    if "error" in figures:
        raise _refuse(server_id, f"giving no answer ({figures['error']})")
    return {**figures, "config_drive": config_drive}


def _refuse(server_id: str, how: str) -> Conflict:
    return Conflict(f"Cannot 'get_diagnostics' instance {server_id} while it is {how}")


def view_free(ctx: Context, figures: dict) -> dict:
    """Until 2.47: the names that libvirt has for things, one level of them."""
    view: dict = {f"cpu{cpu['id']}_time": cpu["time_ns"] for cpu in figures["cpus"]}
    for disk in figures["disks"]:
        for suffix, name in (
            ("read_req", "read_requests"),
            ("read", "read_bytes"),
            ("write_req", "write_requests"),
            ("write", "write_bytes"),
            ("errors", "errors"),
        ):
            view[f"{disk['device']}_{suffix}"] = disk[name]
    for nic in figures["nics"]:
        for way in ("rx", "tx"):
            view[f"{nic['tap']}_{way}"] = nic[f"{way}_octets"]
            for name in ("packets", "errors", "drop"):
                view[f"{nic['tap']}_{way}_{name}"] = nic[f"{way}_{name}"]
    view["memory"] = figures["memory_mb"] * 1024
    return {**view, **{f"memory-{name}": value for name, value in figures["memory"].items()}}


def view_standard(ctx: Context, figures: dict) -> dict:
    """From 2.48 on: the same for every hypervisor; what nobody counts here is null."""
    counts = [f"{way}_{name}" for way in ("rx", "tx") for name in ("drop", "errors", "octets", "packets")]
    return {
        "state": "running",
        "driver": "libvirt",
        "hypervisor": figures["hypervisor"],
        "hypervisor_os": "linux",
        "uptime": figures["uptime_s"],
        "config_drive": figures["config_drive"],
        "num_cpus": figures["num_cpus"],
        "num_nics": len(figures["nics"]),
        "num_disks": len(figures["disks"]),
        "cpu_details": [
            {"id": cpu["id"], "time": cpu["time_ns"], "utilisation": cpu["utilisation"]} for cpu in figures["cpus"]
        ],
        "disk_details": [
            {
                "read_bytes": disk["read_bytes"],
                "read_requests": disk["read_requests"],
                "write_bytes": disk["write_bytes"],
                "write_requests": disk["write_requests"],
                "errors_count": disk["errors"],
            }
            for disk in figures["disks"]
        ],
        "nic_details": [
            {"mac_address": nic["mac"], "rx_rate": None, "tx_rate": None, **{name: nic[name] for name in counts}}
            for nic in figures["nics"]
        ],
        "memory_details": {"maximum": figures["memory_mb"], "used": figures["memory_used_mb"]},
    }


PATH = "/servers/{server_id}/diagnostics"
SHOW = rule("compute:servers:diagnostics", ADMIN)
ROUTES = [
    Route("GET", PATH, SHOW, None, show, view_free, transaction=False, until="2.47"),
    Route("GET", PATH, SHOW, None, show, view_standard, transaction=False, since="2.48"),
]
