"""Migrations lead to the very tables that the models describe."""

from __future__ import annotations

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import select

from web.grants import read_roles
from web.migrations import upgrade
from web.models import Base, Credential, Domain


def _drop_all(database):
    Base.metadata.drop_all(database.engine)
    with database.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE IF EXISTS alembic_version")


def test_migrated_tables_are_the_models(settings, database):
    _drop_all(database)
    upgrade(settings.database.url)
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": False, "render_as_batch": True})
        assert compare_metadata(context, Base.metadata) == []


def test_rows_survive_the_tables_that_are_made_anew(settings, database):
    """What refers to a table that SQLite can only alter by making it anew stays: role assignments, above all."""
    _drop_all(database)
    upgrade(settings.database.url, "0007")
    rows = [
        "INSERT INTO domains (id, name, description, enabled) VALUES ('default', 'Default', '', true)",
        "INSERT INTO users (id, domain_id, name, enabled, tokens_valid_after, extra, options)"
        " VALUES ('u', 'default', 'u', true, '2026-01-01 00:00:00', '{}', '{}')",
        *(f"INSERT INTO roles (id, name) VALUES ('{name}1', '{name}')" for name in ("admin", "member", "reader")),
        "INSERT INTO assignments (user_id, role_id, target_kind, target_id) VALUES ('u', 'admin1', 'system', '')",
    ]
    with database.engine.begin() as connection:
        for row in rows:
            connection.exec_driver_sql(row)
    upgrade(settings.database.url)
    with database.read() as session:
        assert read_roles(session, "u", "system", "") == (
            ("admin1", "admin"),
            ("member1", "member"),
            ("reader1", "reader"),
        )


def test_ec2_credentials_are_found_by_their_keys_after_0017(settings, database):
    """Until then their ids were what they were found by; objects that are there have no further attributes."""
    _drop_all(database)
    upgrade(settings.database.url, "0013")
    rows = [
        "INSERT INTO domains (id, name, description, enabled) VALUES ('default', 'Default', '', true)",
        "INSERT INTO users (id, domain_id, name, enabled, tokens_valid_after, extra, options)"
        " VALUES ('u', 'default', 'u', true, '2026-01-01 00:00:00', '{}', '{}')",
        "INSERT INTO credentials (id, user_id, type, sealed, last_counter)"
        " VALUES ('hash', 'u', 'ec2', 'x', 0), ('random', 'u', 'cert', 'x', 0)",
    ]
    with database.engine.begin() as connection:
        for row in rows:
            connection.exec_driver_sql(row)
    upgrade(settings.database.url)
    with database.read() as session:
        found = session.execute(select(Credential.id, Credential.access_hash, Credential.extra).order_by(Credential.id))
        assert found.all() == [("hash", "hash", {}), ("random", None, {})]
        assert session.execute(select(Domain.tags, Domain.extra)).all() == [([], {})]


def test_a_second_upgrade_does_nothing(settings, database):
    _drop_all(database)
    upgrade(settings.database.url)
    upgrade(settings.database.url)
