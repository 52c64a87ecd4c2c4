"""Limits per project; usage is never stored, it is counted from rows in the creating transaction."""

from __future__ import annotations

from sqlalchemy.orm import Mapped, Session, mapped_column

from .base import Base

DEFAULTS = {
    "instances": 10,
    "cores": 20,
    "ram": 51200,
    "key_pairs": 100,
    "metadata_items": 128,
    "server_groups": 10,
    "server_group_members": 10,
    "injected_files": 5,
    "injected_file_content_bytes": 10240,
    "injected_file_path_bytes": 255,
    "network": 100,
    "subnet": 100,
    "port": 500,
    "fixed_ips": -1,
    "router": 10,
    "floatingip": 50,
    "security_group": 10,
    "security_group_rule": 100,
    "image": 100,
    "volumes": 10,
    "snapshots": 10,
    "gigabytes": 1000,
    "per_volume_gigabytes": -1,
}


class Quota(Base):
    """A project's limit where it is not the default; -1 is no limit."""

    __tablename__ = "quotas"

    project_id: Mapped[str] = mapped_column(primary_key=True)
    resource: Mapped[str] = mapped_column(primary_key=True)
    limit: Mapped[int]


class DefaultQuota(Base):
    """The limit of projects without one of their own, where an admin changed it (the quota class "default")."""

    __tablename__ = "default_quotas"

    resource: Mapped[str] = mapped_column(primary_key=True)
    limit: Mapped[int]


class UserQuota(Base):
    """What one user of a project may have of the project's limit."""

    __tablename__ = "user_quotas"

    project_id: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[str] = mapped_column(primary_key=True)
    resource: Mapped[str] = mapped_column(primary_key=True)
    limit: Mapped[int]


def read_default_limit(session: Session, resource: str) -> int:
    """The limit of ``resource`` for projects without one of their own."""
    row = session.get(DefaultQuota, resource)
    return DEFAULTS[resource] if row is None else row.limit


def read_limit(session: Session, project_id: str, resource: str) -> int:
    """The limit of ``resource`` for the project; -1 where there is none."""
    row = session.get(Quota, (project_id, resource))
    return read_default_limit(session, resource) if row is None else row.limit


def read_user_limit(session: Session, project_id: str, user_id: str, resource: str) -> int | None:
    """The user's own limit in the project; None where it has none but the project's."""
    row = session.get(UserQuota, (project_id, user_id, resource))
    return None if row is None else row.limit


def read_limit_of_user(session: Session, project_id: str, user_id: str, resource: str) -> int:
    """The user's own limit in the project, else the project's."""
    own = read_user_limit(session, project_id, user_id, resource)
    return read_limit(session, project_id, resource) if own is None else own
