"""What operators changed of the catalog: regions, services and endpoints of their own, or in place of built-in ones.

Owns the rows only. A row with a built-in's id takes its place; ``removed`` leaves it out. Next room:
`resources/identity/catalog.py`, which lays them over what the settings say.
"""

from __future__ import annotations

from sqlalchemy import Text
from sqlalchemy.orm import Mapped, mapped_column

from .base import Base, new_hex_id


class Region(Base):
    __tablename__ = "regions"

    id: Mapped[str] = mapped_column(primary_key=True, default=new_hex_id)
    description: Mapped[str] = mapped_column(Text, default="")
    parent_region_id: Mapped[str | None]
    removed: Mapped[bool] = mapped_column(default=False)


class CatalogService(Base):
    __tablename__ = "catalog_services"

    id: Mapped[str] = mapped_column(primary_key=True, default=new_hex_id)
    type: Mapped[str]
    name: Mapped[str] = mapped_column(default="")
    description: Mapped[str] = mapped_column(Text, default="")
    enabled: Mapped[bool] = mapped_column(default=True)
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
    removed: Mapped[bool] = mapped_column(default=False)
