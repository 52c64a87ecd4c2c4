"""Migrations lead to the very tables that the models describe."""

from __future__ import annotations

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from web.migrations import upgrade
from web.models import Base


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


def test_a_second_upgrade_does_nothing(settings, database):
    _drop_all(database)
    upgrade(settings.database.url)
    upgrade(settings.database.url)
