"""What rows, files and hosts say of each other that does not fit: orphans both ways, and what nobody holds any more.

`find_row_faults` is of rows and of the control plane's own files, `find_host_faults` of one host's document and what
its check mode saw; both are lists of `Fault`. `apply_repair` mends rows alone. Next room: `drift.py`, which looks.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import exists, or_, select
from sqlalchemy.orm import Session

from .host_cache import apply_wish
from .image_store import list_images
from .models import (
    FloatingIP,
    Host,
    Image,
    Migration,
    Port,
    Router,
    Run,
    Server,
    Volume,
    VolumeAttachment,
    mark_due,
    now,
)
from .models.networks import COMPUTE
from .reconcile.lease import is_dead
from .reconcile.processes import is_in_use

FETCH = "fetch it again"


@dataclass(frozen=True)
class Fault:
    """``where``: "rows", "files" or a host's name; ``kind`` and ``id`` name the object; ``repair`` is what mends it."""

    where: str
    kind: str
    id: str
    problem: str
    repair: str  # empty: nothing that `kumo repair` does


def find_faults(session: Session, settings, looks: list) -> list[Fault]:
    """Of rows and files, and of hosts that were looked at: ``looks`` are ((host, document), outcome)."""
    faults = find_row_faults(session, settings)
    for (host, document), look in looks:
        faults += find_host_faults(host, document, look)
    return faults


def find_row_faults(session: Session, settings) -> list[Fault]:
    """Rows that point at nothing, leases and runs of workers that are gone, images and bytes without each other."""
    return [
        *_find_widows(session),
        *_find_leases(session),
        *_find_files(session, settings),
    ]


def _find_widows(session: Session) -> list[Fault]:
    """Rows that belong to something that is there no more."""
    living = select(Server.id).where(Server.gone_at.is_(None))
    routers = select(Router.id)
    volume = exists().where(Volume.id == VolumeAttachment.volume_id, Volume.gone_at.is_(None))
    server_gone, router_gone = "the server it is for is gone", "the router it is for is gone"
    widows = [
        ("port", server_gone, Port, [Port.device_owner.startswith(COMPUTE), Port.device_id.not_in(living)]),
        ("port", router_gone, Port, [Port.device_owner.startswith("network:router"), Port.device_id.not_in(routers)]),
        ("floating ip", router_gone, FloatingIP, [FloatingIP.router_id.not_in(routers)]),
        ("attachment", server_gone, VolumeAttachment, [VolumeAttachment.server_id.not_in(living)]),
        ("attachment", "its volume is gone", VolumeAttachment, [~volume]),
        ("migration", server_gone, Migration, [Migration.phase != "ended", Migration.server_id.not_in(living)]),
    ]
    return [
        Fault("rows", kind, str(row_id), problem, "")
        for kind, problem, model, conditions in widows
        for row_id in session.scalars(select(model.id).where(*conditions).order_by(model.id))
    ]


def _find_leases(session: Session) -> list[Fault]:
    """Hosts that a worker holds which is gone, and runs that are under way for nobody."""
    faults = []
    for host in session.scalars(select(Host).where(Host.lease_owner.is_not(None)).order_by(Host.name)):
        if is_dead(host.lease_owner):
            faults.append(Fault("rows", "lease", host.name, f"its worker {host.lease_owner} is gone", "release it"))
        elif host.lease_expires_at < now():
            faults.append(Fault("rows", "lease", host.name, f"{host.lease_owner} has let it expire", "release it"))
    left = (
        select(Run.id, Run.worker)
        .join(Host, Host.id == Run.host_id)
        .where(Run.state == "running", or_(Host.lease_owner.is_(None), Host.fence != Run.fence))
    )
    for run_id, worker in session.execute(left.order_by(Run.id)):
        faults.append(Fault("rows", "run", run_id, f"it is under way, and {worker} no longer holds its host", "end it"))
    return faults


def _find_files(session: Session, settings) -> list[Fault]:
    stored = set(list_images(settings.image.store_dir))
    known = {row.id: row for row in session.execute(select(Image.id, Image.status, Image.deleted_at, Image.size))}
    faults = [
        Fault("files", "image", image_id, "its bytes are missing from the store", "")
        for image_id, row in sorted(known.items())
        if row.status == "active" and row.deleted_at is None and image_id not in stored and row.size != 0
    ]
    faults += [
        Fault("files", "image", image_id, "no image has these bytes in the store", "")
        for image_id in sorted(stored - set(known))
    ]
    folders = sorted(Path(settings.worker.runs_dir).glob("run-*"))
    faults += [
        Fault("files", "run folder", str(path), "no run is under way that it is of", "")
        for path in folders
        if not is_in_use(path)
    ]
    return faults


def find_host_faults(host: Host, document: dict, look) -> list[Fault]:
    """What one host's check mode saw that its document does not have, lacks, or has otherwise. Pure."""
    if look.error:
        return [Fault(host.name, "host", host.name, f"it cannot be looked at: {look.error}", "")]
    observed = look.result.get("observed", {})
    faults = [
        Fault(host.name, kind.removesuffix("s"), name, "Kumo's by its name, and in no row", "")
        for kind, names in sorted(observed.get("orphans", {}).items())
        for name in names
    ]
    again = "look at the host again"
    for row in document["servers"]:
        at_home = row["wanted"] == "present" and not {"incoming", "outgoing", "held"} & set(row)
        if at_home and row["id"] not in observed.get("servers", {}):
            faults.append(Fault(host.name, "server", row["id"], "wanted, and not on its host", again))
    for kind in ("volume", "snapshot"):
        for row in document[f"{kind}s"]:
            if row["wanted"] == "present" and row["id"] not in observed.get(f"{kind}s", {}):
                faults.append(Fault(host.name, kind, row["id"], "wanted, and not on its host", again))
    exports = {export["id"] for row in document["volumes"] for export in row.get("exports") or []}
    for one in sorted(exports - set(observed.get("exports", {}))):
        faults.append(Fault(host.name, "export", one, "wanted, and not offered by its host", again))
    named = {(fault.kind, fault.id) for fault in faults}
    for action in look.result.get("actions", []):
        kind = action["section"].removesuffix("s")
        if (kind, action["object_id"]) not in named:
            problem = f"differs from what was asked: {action['verb'].replace('_', ' ')} is due"
            mending = FETCH if (kind, action["verb"]) == ("image", "fetch_again") else again
            faults.append(Fault(host.name, kind, action["object_id"], problem, mending))
    return faults


def apply_repair(session: Session, faults: list[Fault]) -> int:
    """Carry out what the faults' ``repair`` says, in the caller's transaction: rows only; how many were mended.

    Nothing is deleted: hosts are looked at again, leases of workers that are gone are released, their runs ended.
    """
    mended = 0
    for fault in faults:
        if fault.repair == "release it":
            host = session.scalar(select(Host).where(Host.name == fault.id).with_for_update())
            if host is None or host.lease_owner is None:
                continue
            if not is_dead(host.lease_owner) and host.lease_expires_at >= now():
                continue  # somebody has taken it meanwhile
            host.lease_owner = host.lease_expires_at = host.next_run_at = None
            mark_due(session, host.id, host.zone)
        elif fault.repair == "end it":
            run = session.get(Run, fault.id)
            if run is None or run.state != "running":
                continue
            run.state, run.error, run.finished_at = "lost", "ended by kumo repair: nobody was at work on it", now()
        elif fault.repair == FETCH:
            host = session.scalar(select(Host).where(Host.name == fault.where))
            apply_wish(session, host, fault.id, again=True)
        elif fault.repair:
            host = session.scalar(select(Host).where(Host.name == fault.where))
            host.next_run_at = None
            mark_due(session, host.id, host.zone)
        else:
            continue
        mended += 1
    return mended
