"""Alembic's entry: migrates the database whose URL `kumo db upgrade` hands over."""

from alembic import context

from web.models import Base, Database
from web.models.base import UTCDateTime


def render_item(kind, item, autogen_context):
    """A migration names SQL's own types only: models may change, migrations stay."""
    return "sa.DateTime()" if kind == "type" and isinstance(item, UTCDateTime) else False


database = Database(context.config.get_main_option("sqlalchemy.url"))
with database.engine.connect() as connection:
    if database.is_sqlite:  # a table that is made anew is dropped first, and what refers to it would go along
        connection.connection.driver_connection.execute("PRAGMA foreign_keys=OFF")
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=database.is_sqlite,
        render_item=render_item,
    )
    with context.begin_transaction():
        context.run_migrations()
database.engine.dispose()
