"""What keeps the tables bounded: old runs, used-up answers and tokens, and what was deleted long ago.

For the worker to call now and then, and safe to repeat; several workers may. Removes rows that nothing refers to, and
no file: the bytes of a deleted image are `web/image_cleanup.py`'s, and its row stays until they are gone.
"""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import delete, or_, select
from sqlalchemy.orm import Session

from ..image_store import list_images
from ..models import (
    ConsoleLog,
    ConsoleToken,
    HostRequest,
    IdempotentAnswer,
    Image,
    ImageMember,
    Migration,
    RequestLog,
    RevokedToken,
    Run,
    Server,
    ServerAction,
    ServerDiagnostics,
    Snapshot,
    Volume,
    VolumeAttachment,
    WorkerProcess,
    now,
)

BATCH = 500  # objects of one kind in one transaction
CONSOLE_KEPT = timedelta(hours=1)


def prune_rows(session: Session, settings) -> bool:
    """Remove what is past its time; whether there may be more of it than one transaction took."""
    _prune_runs(session, settings.worker.keep_runs)
    session.execute(delete(RevokedToken).where(RevokedToken.expires_at < now()))
    kept_since = now() - timedelta(seconds=settings.api.idempotency_s)
    session.execute(delete(IdempotentAnswer).where(IdempotentAnswer.created_at < kept_since))
    for model in (ConsoleLog, ServerDiagnostics):
        session.execute(delete(model).where(model.read_at < now() - CONSOLE_KEPT))
    session.execute(delete(ConsoleToken).where(ConsoleToken.expires_at < now()))
    deleted_before = now() - timedelta(days=settings.kumo.keep_deleted_days)
    session.execute(delete(WorkerProcess).where(WorkerProcess.seen_at < deleted_before))
    taken = (
        _prune_servers(session, deleted_before),
        _prune_volumes(session, deleted_before),
        _prune_images(session, deleted_before, settings.image.store_dir),
    )
    return max(taken) == BATCH


def _prune_runs(session: Session, keep: int) -> None:
    """The newest ``keep`` runs stay, with the requests since the oldest of them."""
    oldest = session.scalar(select(Run.started_at).order_by(Run.started_at.desc()).offset(keep).limit(1))
    if oldest is not None:
        session.execute(delete(Run).where(Run.started_at <= oldest, Run.state != "running"))
        session.execute(delete(HostRequest).where(HostRequest.created_at <= oldest))
        session.execute(delete(RequestLog).where(RequestLog.created_at <= oldest))


def _prune_servers(session: Session, before) -> int:
    """Servers that were gone before then, with all that was asked of them; how many."""
    attached = select(VolumeAttachment.server_id).where(VolumeAttachment.server_id.is_not(None))
    moving = select(Migration.server_id).where(Migration.phase != "ended")
    old = select(Server.id).where(Server.gone_at < before, Server.id.not_in(attached), Server.id.not_in(moving))
    ids = session.scalars(old.order_by(Server.gone_at).limit(BATCH)).all()
    for model in (ConsoleLog, ServerDiagnostics, ServerAction, Migration):
        session.execute(delete(model).where(model.server_id.in_(ids)))
    session.execute(delete(Server).where(Server.id.in_(ids)))
    return len(ids)


def _prune_volumes(session: Session, before) -> int:
    """Snapshots and volumes that were gone before then; how many of the kind that had more."""
    snapshots = session.scalars(select(Snapshot.id).where(Snapshot.gone_at < before).limit(BATCH)).all()
    session.execute(delete(Snapshot).where(Snapshot.id.in_(snapshots)))
    referred = or_(
        Volume.id.in_(select(Snapshot.volume_id)),
        Volume.id.in_(select(VolumeAttachment.volume_id)),
    )
    volumes = session.scalars(select(Volume.id).where(Volume.gone_at < before, ~referred).limit(BATCH)).all()
    session.execute(delete(Volume).where(Volume.id.in_(volumes)))
    return max(len(snapshots), len(volumes))


def _prune_images(session: Session, before, store_dir: str) -> int:
    """Images deleted before then that no server, volume or stored file is of any more; how many."""
    columns = (Server.image_id, Server.disk_image_id, Server.shelved_image_id, Server.rescue_image_id, Volume.image_id)
    users = [select(column).where(column.is_not(None)) for column in columns]
    unused = [Image.id.not_in(found) for found in users]
    ids = session.scalars(select(Image.id).where(Image.deleted_at < before, *unused).limit(BATCH)).all()
    ids = sorted(set(ids) - set(list_images(store_dir)))
    session.execute(delete(ImageMember).where(ImageMember.image_id.in_(ids)))
    session.execute(delete(Image).where(Image.id.in_(ids)))
    return len(ids)
