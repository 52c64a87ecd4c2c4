"""How many images a project may have: for whoever makes one, in its own transaction."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from .errors import OverQuota
from .models import Image, Project, read_limit


def check_image_quota(session: Session, project_id: str) -> None:
    """OverQuota where the project has as many as it may; its other creations wait until this transaction ends."""
    session.execute(select(Project.id).where(Project.id == project_id).with_for_update())
    limit = read_limit(session, project_id, "image")
    used = session.scalar(
        select(func.count()).select_from(Image).where(Image.project_id == project_id, Image.deleted_at.is_(None))
    )
    if limit != -1 and used >= limit:
        raise OverQuota(f"Quota exceeded for images: {used} of {limit} are used.")
