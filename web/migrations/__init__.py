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


def upgrade(url: str) -> None:
    """Bring the database to the newest revision; nothing to do is fine."""
    command.upgrade(build_config(url), "head")
