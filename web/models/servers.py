"""Servers and what users bring to them: flavors, key pairs; what is wanted and what was seen, side by side.

No handler writes a status: `web/reconcile/status.py` computes it from these columns, and `refresh`
stores it in the transaction that changed them (vm_state, task_state, power_state, status: for SQL's filters).
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, Index, Text, UniqueConstraint, func, update
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.orm import Mapped, Session, mapped_column, relationship

from .base import Base, new_uuid, now


class Flavor(Base):
    __tablename__ = "flavors"

    id: Mapped[str] = mapped_column(primary_key=True, default=new_uuid)
    name: Mapped[str] = mapped_column(unique=True)
    description: Mapped[str | None] = mapped_column(Text)
    vcpus: Mapped[int]
    ram_mb: Mapped[int]
    disk_gb: Mapped[int]
    ephemeral_gb: Mapped[int] = mapped_column(default=0)
    swap_mb: Mapped[int] = mapped_column(default=0)
    rxtx_factor: Mapped[float] = mapped_column(default=1.0)
    is_public: Mapped[bool] = mapped_column(default=True)
    disabled: Mapped[bool] = mapped_column(default=False)
    extra_specs: Mapped[dict] = mapped_column(default=dict)
    created_at: Mapped[datetime] = mapped_column(default=now)


class FlavorAccess(Base):
    """A project that may use a flavor that is not public."""

    __tablename__ = "flavor_access"

    flavor_id: Mapped[str] = mapped_column(ForeignKey("flavors.id", ondelete="CASCADE"), primary_key=True)
    project_id: Mapped[str] = mapped_column(primary_key=True)


class Keypair(Base):
    __tablename__ = "keypairs"
    __table_args__ = (UniqueConstraint("user_id", "name"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    user_id: Mapped[str] = mapped_column(index=True)
    name: Mapped[str]
    type: Mapped[str] = mapped_column(default="ssh")
    public_key: Mapped[str] = mapped_column(Text)
    fingerprint: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(default=now)


class Server(Base):
    __tablename__ = "servers"
    __table_args__ = (
        Index("ix_servers_project_created", "project_id", "created_at"),
        Index("ix_servers_host_gone", "host_id", "gone_at"),
    )

    # what is wanted
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)  # EC2's i-%08x
    id: Mapped[str] = mapped_column(unique=True, default=new_uuid)
    project_id: Mapped[str]
    user_id: Mapped[str]
    reservation_id: Mapped[str]
    launch_index: Mapped[int] = mapped_column(default=0)
    name: Mapped[str]
    description: Mapped[str | None] = mapped_column(Text)
    hostname: Mapped[str]
    flavor_id: Mapped[str]
    flavor: Mapped[dict]  # the flavor as it was: name, vcpus, ram_mb, disk_gb, ephemeral_gb, swap_mb, extra_specs
    image_id: Mapped[str | None]
    disk_image_id: Mapped[str | None]  # what its root disk lies over, where that is another image: it was unshelved
    key_name: Mapped[str | None]
    key_type: Mapped[str | None]
    key_data: Mapped[str | None] = mapped_column(Text)
    user_data: Mapped[str | None] = mapped_column(Text)  # base64, as it came
    config_drive: Mapped[bool] = mapped_column(default=False)
    disk_config: Mapped[str] = mapped_column(default="MANUAL", server_default="MANUAL")  # or AUTO: the guest's affair
    image_properties: Mapped[dict] = mapped_column(default=dict)  # its image's as they were, with `disk_format`
    disks: Mapped[dict] = mapped_column(default=dict)  # beside the root: ephemeral [{gb, format}], swap_mb, gb in all
    injected: Mapped[dict] = mapped_column(default=dict)  # on the drive only: files [{path, contents}], admin_pass
    metadata_: Mapped[dict] = mapped_column("metadata", default=dict)
    tags: Mapped[list] = mapped_column(default=list)
    availability_zone: Mapped[str | None]  # as asked; the host's zone is what it has
    host_id: Mapped[str | None] = mapped_column(ForeignKey("hosts.id"), index=True)
    power: Mapped[str] = mapped_column(default="on")  # on | off | paused | suspended
    shelve: Mapped[str | None]  # shelved: off, its disk an image | offloaded: once it is that, on no host either
    shelved_image_id: Mapped[str | None]  # the image of its disk; empty: its root disk is a volume
    rescue_image_id: Mapped[str | None]  # boots from this image, its own root disk comes second; empty: not rescued
    stop_graceful: Mapped[bool] = mapped_column(default=True)
    start_wanted: Mapped[int] = mapped_column(default=0)
    reboot_wanted: Mapped[int] = mapped_column(default=0)
    reboot_type: Mapped[str] = mapped_column(default="SOFT")
    console_wanted: Mapped[int] = mapped_column(default=0)
    console_lines: Mapped[int | None]
    rebuild_wanted: Mapped[int] = mapped_column(default=0, server_default="0")
    diagnostics_wanted: Mapped[int] = mapped_column(default=0, server_default="0")
    password_wanted: Mapped[int] = mapped_column(default=0, server_default="0")
    password_secret: Mapped[str | None] = mapped_column(Text)  # the new password, until its host has answered
    password_asked_at: Mapped[datetime | None]
    password_cleared: Mapped[int] = mapped_column(default=0, server_default="0")  # times that what it posted was
    image_task: Mapped[str | None]  # status.compute_image_task of the image that is made of it, stored with that
    move: Mapped[str | None]  # migration_status.compute_move of the server's migration, stored with it
    locked: Mapped[bool] = mapped_column(default=False)
    locked_reason: Mapped[str | None]
    access_ipv4: Mapped[str | None]
    access_ipv6: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(default=now)
    updated_at: Mapped[datetime] = mapped_column(default=now)
    soft_deleted_at: Mapped[datetime | None]  # delete was asked, and may be taken back: off, and kept for a while
    deleted_at: Mapped[datetime | None]  # the tombstone: delete was asked

    # what was seen
    observed_state: Mapped[str | None]  # running shutoff paused suspended crashed; empty: not there
    observed_reason: Mapped[str | None]
    observed_rescue: Mapped[str | None]  # the image that it was seen to be rescued with
    observed_reboot_done: Mapped[int] = mapped_column(default=0)
    observed_start_done: Mapped[int] = mapped_column(default=0)
    observed_rebuild_done: Mapped[int] = mapped_column(default=0, server_default="0")
    observed_console_done: Mapped[int] = mapped_column(default=0)
    observed_diagnostics_done: Mapped[int] = mapped_column(default=0, server_default="0")
    observed_password_done: Mapped[int] = mapped_column(default=0, server_default="0")
    # What the guest posted since: its password, encrypted with its key pair.
    observed_posted_password: Mapped[str | None] = mapped_column(Text)
    # {host (id), vnc, serial (ports)}
    observed_consoles: Mapped[dict] = mapped_column(default=dict, server_default="{}")
    observed_error: Mapped[str | None] = mapped_column(Text)  # the host's words at its last try
    observed_failures: Mapped[int] = mapped_column(default=0)  # tries in a row that failed
    observed_at: Mapped[datetime | None]
    built_at: Mapped[datetime | None]  # first seen as asked ("launched_at")
    shelved_at: Mapped[datetime | None]  # seen off, its image whole; empty again once it was seen unshelved
    offloaded_at: Mapped[datetime | None]  # seen gone from its host since; empty again with shelved_at
    gone_at: Mapped[datetime | None]  # seen gone after the tombstone
    fault_code: Mapped[int | None]
    fault_message: Mapped[str | None] = mapped_column(Text)
    fault_details: Mapped[str | None] = mapped_column(Text)
    fault_at: Mapped[datetime | None]
    fault_kept: Mapped[bool] = mapped_column(default=False)  # an admin's: it stays though the host is as wanted
    operation: Mapped[str | None]  # what is under way, for the deadline: build start stop reboot pause suspend rescue …
    operation_deadline: Mapped[datetime | None]

    # web.reconcile.status.compute_status of the above, stored with it
    status: Mapped[str] = mapped_column(default="BUILD", index=True)
    vm_state: Mapped[str] = mapped_column(default="building")
    task_state: Mapped[str | None] = mapped_column(default="scheduling")
    power_state: Mapped[int] = mapped_column(
        default=0
    )  # 0 none, 1 running, 3 paused, 4 shutdown, 6 crashed, 7 suspended

    host = relationship("Host", lazy="raise")

    @hybrid_property
    def base_image_id(self) -> str | None:
        """The image that its root disk is made of; of a guest on a volume none."""
        return self.disk_image_id or self.image_id

    @base_image_id.inplace.expression
    @classmethod
    def _select_base_image_id(cls):
        return func.coalesce(cls.disk_image_id, cls.image_id)


class ConsoleLog(Base):
    """A guest's console as last read by the host for a user who asked; pruned by age."""

    __tablename__ = "console_logs"

    server_id: Mapped[str] = mapped_column(ForeignKey("servers.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int]
    text: Mapped[str] = mapped_column(Text)
    read_at: Mapped[datetime] = mapped_column(default=now)


class ServerDiagnostics(Base):
    """A guest's figures as last read by its host for somebody who asked; pruned by age."""

    __tablename__ = "server_diagnostics"

    server_id: Mapped[str] = mapped_column(ForeignKey("servers.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int]
    figures: Mapped[dict]  # as module_utils/kumo/diagnostics.py has them; empty: the guest did not run
    read_at: Mapped[datetime] = mapped_column(default=now)


class ServerAction(Base):
    """What was asked of a server, by whom and with which request id (instance actions)."""

    __tablename__ = "server_actions"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    server_id: Mapped[str] = mapped_column(index=True)
    action: Mapped[str]
    request_id: Mapped[str] = mapped_column(index=True)
    user_id: Mapped[str]
    project_id: Mapped[str]
    message: Mapped[str | None] = mapped_column(Text)
    started_at: Mapped[datetime] = mapped_column(default=now)
    finished_at: Mapped[datetime | None]


IMAGE_ACTIONS = ("createImage", "createBackup")  # they end with their image, whatever else is asked of the server


def finish_actions(session: Session, server_id: str, message: str | None, image: bool = False) -> None:
    """All that was asked of the server has ended: well, or with the message; with ``image`` the making of an image."""
    chosen = ServerAction.action.in_(IMAGE_ACTIONS) if image else ServerAction.action.not_in(IMAGE_ACTIONS)
    session.execute(
        update(ServerAction)
        .where(ServerAction.server_id == server_id, ServerAction.finished_at.is_(None), chosen)
        .values(finished_at=now(), message=message)
    )
