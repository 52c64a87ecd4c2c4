"""Metadata definitions: which properties and tags resources may be given, for people and their tools to look up.

A namespace holds properties, objects (named groups of properties) and tags, and says of which types of resources it
speaks. Nothing is enforced by them. Next room: `resources/image/metadef_namespaces.py`.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from .base import Base, new_uuid, now


class MetadefNamespace(Base):
    __tablename__ = "metadef_namespaces"

    id: Mapped[str] = mapped_column(primary_key=True, default=new_uuid)
    namespace: Mapped[str] = mapped_column(String(80), unique=True)  # the name, of which there is one in the cloud
    display_name: Mapped[str | None] = mapped_column(String(80))
    description: Mapped[str | None] = mapped_column(Text)
    visibility: Mapped[str] = mapped_column(default="private")  # public private
    protected: Mapped[bool] = mapped_column(default=False)  # neither it nor what is in it can be deleted
    owner: Mapped[str | None] = mapped_column(index=True)  # a project; no possession that keeps it from being deleted
    created_at: Mapped[datetime] = mapped_column(default=now)
    updated_at: Mapped[datetime] = mapped_column(default=now, onupdate=now)


class MetadefProperty(Base):
    __tablename__ = "metadef_properties"

    namespace_id: Mapped[str] = mapped_column(ForeignKey("metadef_namespaces.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(String(80), primary_key=True)
    definition: Mapped[dict]  # title, type and more, in JSON Schema's terms
    created_at: Mapped[datetime] = mapped_column(default=now)
    updated_at: Mapped[datetime] = mapped_column(default=now, onupdate=now)


class MetadefObject(Base):
    __tablename__ = "metadef_objects"

    namespace_id: Mapped[str] = mapped_column(ForeignKey("metadef_namespaces.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(String(80), primary_key=True)
    description: Mapped[str | None] = mapped_column(Text)
    required: Mapped[list] = mapped_column(default=list)  # names of properties
    properties: Mapped[dict] = mapped_column(default=dict)  # definitions by name
    created_at: Mapped[datetime] = mapped_column(default=now)
    updated_at: Mapped[datetime] = mapped_column(default=now, onupdate=now)


class MetadefTag(Base):
    __tablename__ = "metadef_tags"

    namespace_id: Mapped[str] = mapped_column(ForeignKey("metadef_namespaces.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(String(80), primary_key=True)
    created_at: Mapped[datetime] = mapped_column(default=now)
    updated_at: Mapped[datetime] = mapped_column(default=now, onupdate=now)


class MetadefResourceType(Base):
    """A type of resources, as orchestration names them: OS::Nova::Server."""

    __tablename__ = "metadef_resource_types"

    name: Mapped[str] = mapped_column(String(80), primary_key=True)
    created_at: Mapped[datetime] = mapped_column(default=now)
    updated_at: Mapped[datetime] = mapped_column(default=now, onupdate=now)


class MetadefAssociation(Base):
    """A namespace speaks of resources of this type, whose properties' names begin with the prefix."""

    __tablename__ = "metadef_associations"

    namespace_id: Mapped[str] = mapped_column(ForeignKey("metadef_namespaces.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(ForeignKey("metadef_resource_types.name"), primary_key=True, index=True)
    prefix: Mapped[str | None] = mapped_column(String(80))
    properties_target: Mapped[str | None] = mapped_column(String(80))
    created_at: Mapped[datetime] = mapped_column(default=now)
    updated_at: Mapped[datetime] = mapped_column(default=now, onupdate=now)
