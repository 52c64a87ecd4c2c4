"""The database: engine, sessions, column types that every model shares.

SQLite (WAL) embedded, PostgreSQL when outgrown: models use nothing that only one of them has.
A session opened for writing takes SQLite's write lock at once, so that it can wait for it (busy
timeout) instead of failing half-way. Next room: the models beside this file.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

from sqlalchemy import JSON, DateTime, MetaData, String, create_engine, event
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, mapped_column, sessionmaker  # noqa: F401
from sqlalchemy.types import TypeDecorator

from . import patterns

BUSY_TIMEOUT_MS = 15000
# psycopg's (libpq's) options: a server that is gone without a word is noticed within some ten seconds.
POSTGRESQL = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10000,
}
# SQLSTATE classes: connection exception, insufficient resources, operator intervention, system error.
GONE_STATES = ("08", "53", "57", "58")
GONE_NAMES = ("SQLITE_CANTOPEN", "SQLITE_FULL", "SQLITE_IOERR", "SQLITE_READONLY")


class UTCDateTime(TypeDecorator):
    """An aware UTC datetime, stored without its zone."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value, dialect):
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value, dialect):
        return None if value is None else value.replace(tzinfo=UTC)


class Base(DeclarativeBase):
    """The parent of every model."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {
        dict: JSON,
        list: JSON,
        datetime: UTCDateTime,
        str: String(255),
    }


def now() -> datetime:
    """The time, aware, in UTC."""
    return datetime.now(UTC)


def new_uuid() -> str:
    """A random UUID with dashes (compute, image, network)."""
    return str(uuid.uuid4())


def new_hex_id() -> str:
    """A random UUID as 32 hexadecimal digits (identity)."""
    return uuid.uuid4().hex


class Database:
    """An engine and its kinds of sessions: ``read()``, ``write()``, and ``snapshot()`` for rows of one moment."""

    def __init__(self, url: str):
        self.url = url
        self.is_sqlite = url.startswith("sqlite")
        if self.is_sqlite:
            self.engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_MS / 1000})
        else:
            self.engine = create_engine(url, connect_args=POSTGRESQL, pool_pre_ping=True)
        if self.is_sqlite:
            event.listen(self.engine, "connect", _on_connect)
            event.listen(self.engine, "begin", _on_begin)
        self.read = sessionmaker(self.engine, expire_on_commit=False)
        one_moment = {} if self.is_sqlite else {"isolation_level": "REPEATABLE READ"}  # SQLite's are always that
        self.snapshot = sessionmaker(self.engine.execution_options(**one_moment), expire_on_commit=False)
        self.write = sessionmaker(self.engine.execution_options(kumo_write=True), expire_on_commit=False)


def is_gone(error: Exception) -> bool:
    """Whether an error says that the database itself cannot be used now: not reached, shutting down, no disk.

    The same transaction can be tried again later, and may or may not have been done. Sources: PostgreSQL's appendix A
    (error codes; none where the connection ended), SQLite's result codes.
    """
    if not isinstance(error, DBAPIError):
        return False
    if error.connection_invalidated:
        return True
    name = getattr(error.orig, "sqlite_errorname", None)
    if name is not None:
        return name.startswith(GONE_NAMES)
    if not isinstance(error, OperationalError):
        return False
    state = getattr(error.orig, "sqlstate", None)
    return state is None or state.startswith(GONE_STATES)


def _on_connect(connection, record):
    connection.isolation_level = None  # SQLAlchemy's begin event says when a transaction starts
    for pragma in (
        "journal_mode=WAL",
        "synchronous=NORMAL",
        "foreign_keys=ON",
        f"busy_timeout={BUSY_TIMEOUT_MS}",
    ):
        connection.execute(f"PRAGMA {pragma}").close()
    connection.create_function("regexp", 2, patterns.match, deterministic=True)


def _on_begin(connection):
    write = connection.get_execution_options().get("kumo_write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
