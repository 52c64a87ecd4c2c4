"""What operators changed of the catalog: regions, services and endpoints of their own, or in place of built-in ones;
and which endpoints which projects see.

Owns the rows only. A row with a built-in's id takes its place; ``removed`` leaves it out. Next room:
`resources/identity/catalog.py`, which lays them over what the settings say.
"""

from __future__ import annotations

from sqlalchemy import ForeignKey, Text
from sqlalchemy.orm import Mapped, mapped_column

from .base import Base, new_hex_id


class Region(Base):
    __tablename__ = "regions"

    id: Mapped[str] = mapped_column(primary_key=True, default=new_hex_id)
    description: Mapped[str] = mapped_column(Text, default="")
    parent_region_id: Mapped[str | None]
    extra: Mapped[dict] = mapped_column(default=dict)  # further attributes, as clients gave them
    removed: Mapped[bool] = mapped_column(default=False)


class CatalogService(Base):
    __tablename__ = "catalog_services"

    id: Mapped[str] = mapped_column(primary_key=True, default=new_hex_id)
    type: Mapped[str]
    name: Mapped[str] = mapped_column(default="")
    description: Mapped[str] = mapped_column(Text, default="")
    enabled: Mapped[bool] = mapped_column(default=True)
    extra: Mapped[dict] = mapped_column(default=dict)  # further attributes, as clients gave them
    removed: Mapped[bool] = mapped_column(default=False)


class Endpoint(Base):
    """``service_id`` and ``region_id`` may name built-in ones, which have no row."""

    __tablename__ = "endpoints"

    id: Mapped[str] = mapped_column(primary_key=True, default=new_hex_id)
    service_id: Mapped[str] = mapped_column(index=True)
    region_id: Mapped[str | None]
    interface: Mapped[str]
    url: Mapped[str] = mapped_column(Text)
    enabled: Mapped[bool] = mapped_column(default=True)
    extra: Mapped[dict] = mapped_column(default=dict)  # further attributes, as clients gave them
    removed: Mapped[bool] = mapped_column(default=False)


class EndpointGroup(Base):
    """Endpoints by what they have in common: ``filters`` is {service_id, region_id, interface}, any of these."""

    __tablename__ = "endpoint_groups"

    id: Mapped[str] = mapped_column(primary_key=True, default=new_hex_id)
    name: Mapped[str]
    description: Mapped[str | None] = mapped_column(Text)
    filters: Mapped[dict] = mapped_column(default=dict)


class ProjectEndpoint(Base):
    """An endpoint (built-in ones have no row) that a project sees, and by that no longer all."""

    __tablename__ = "project_endpoints"

    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True)
    endpoint_id: Mapped[str] = mapped_column(primary_key=True, index=True)


class ProjectEndpointGroup(Base):
    """A group of endpoints that a project sees, and by that no longer all."""

    __tablename__ = "project_endpoint_groups"

    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True)
    endpoint_group_id: Mapped[str] = mapped_column(
        ForeignKey("endpoint_groups.id", ondelete="CASCADE"), primary_key=True, index=True
    )
