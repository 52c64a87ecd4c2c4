"""Alembic migrations: `upgrade` brings a database to the models beside this folder."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config


def build_config(url: str) -> Config:
    """Alembic's configuration for the database at ``url``."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
    return config


def upgrade(url: str, revision: str = "head") -> None:
    """Bring the database to the revision (the newest); nothing to do is fine."""
    command.upgrade(build_config(url), revision)
