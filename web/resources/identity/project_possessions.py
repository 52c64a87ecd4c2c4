"""Projects deleted: refused while they own something, and gone with all that is part of them or only a record.

The reference's implementation deletes a project whatever it owns, and orphans that; here it is a 409 that says
what is left. Records (what was asked, what is gone) are nobody's to delete, so they hold nothing up: they go
along. Source: Identity API reference, "Delete project". Next room: `domain_contents.py`, which has the route.
"""

from __future__ import annotations

from sqlalchemy import and_, delete, exists, func, select, update
from sqlalchemy.orm import aliased

from ...errors import Conflict, Forbidden
from ...models import (
    AppCredential,
    Assignment,
    Base,
    Credential,
    FlavorAccess,
    IdempotentAnswer,
    Image,
    ImageTask,
    Migration,
    Project,
    ProjectEndpoint,
    ProjectEndpointGroup,
    Quota,
    RequestLog,
    SecurityGroup,
    SecurityGroupRule,
    Server,
    ServerAction,
    Snapshot,
    Trust,
    User,
    UserQuota,
    Volume,
    VolumeAttachment,
    VolumeTypeAccess,
    now,
)

# Part of the project itself, by its `project_id`.
_PARTS = (
    *(Trust, AppCredential, Credential, Quota, UserQuota, FlavorAccess, VolumeTypeAccess),
    *(ProjectEndpoint, ProjectEndpointGroup),
)
# What was asked for. The cloud's own log stays, as long as it keeps any.
_RECORDS = (ImageTask, ServerAction, IdempotentAnswer)
# No possessions of their own: they come and go with what they are of.
_PIECES = (RequestLog, Migration, SecurityGroupRule)
_WITH_SERVER = aliased(VolumeAttachment)
# Rows of what is gone stay for a while: the worker prunes them (`web/reconcile/pruning.py`). Volumes that are being
# deleted, by their user or with a server of theirs, are nobody's to use any more.
_LIVING = {
    Server: Server.gone_at.is_(None),
    Volume: and_(
        Volume.deleted_at.is_(None),
        ~exists().where(_WITH_SERVER.volume_id == Volume.id, _WITH_SERVER.delete_with_server, _WITH_SERVER.released),
    ),
    VolumeAttachment: and_(VolumeAttachment.deleted_at.is_(None), ~VolumeAttachment.released),
    Snapshot: Snapshot.gone_at.is_(None),
    Image: and_(Image.deleted_at.is_(None), Image.status != "queued"),  # one that never had bytes is a record
    SecurityGroup: SecurityGroup.default_for.is_(None),
}


def _list_possessions(session, project_id: str) -> list[str]:
    """What the project still owns, "3 ports" …: every model with a project_id that is not left out above."""
    found = []
    for mapper in sorted(Base.registry.mappers, key=lambda mapper: mapper.local_table.name):
        model = mapper.class_
        if model in (*_PARTS, *_RECORDS, *_PIECES) or "project_id" not in mapper.columns:
            continue
        statement = select(func.count()).select_from(model).where(model.project_id == project_id)
        if model in _LIVING:
            statement = statement.where(_LIVING[model])
        if count := session.scalar(statement):
            found.append(f"{count} {mapper.local_table.name.replace('_', ' ')}")
    return found


def delete_project(session, row: Project) -> None:
    """The row with what is part of it; Conflict while it owns anything, Forbidden with projects below it."""
    project_id = row.id
    if session.scalar(select(Project.id).where(Project.parent_id == project_id).limit(1)):
        raise Forbidden(f"Cannot delete the project {project_id} since it is not a leaf in the hierarchy.")
    possessions = _list_possessions(session, project_id)
    if possessions:
        raise Conflict(f"Project {project_id} still owns {', '.join(possessions)}: delete them first.")
    session.execute(delete(Assignment).where(Assignment.target_kind == "project", Assignment.target_id == project_id))
    for model in (*_PARTS, *_RECORDS):
        session.execute(delete(model).where(model.project_id == project_id))
    queued = update(Image).where(Image.project_id == project_id, Image.status == "queued")
    session.execute(queued.values(status="deleted", deleted_at=now()))
    session.execute(delete(SecurityGroup).where(SecurityGroup.default_for == project_id))
    session.execute(update(User).where(User.default_project_id == project_id).values(default_project_id=None))
    session.delete(row)
