"""metadata definitions: namespaces, what is in them, and types of resources."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

TIMES = ("created_at", "updated_at")


def _times():
    return [sa.Column(name, sa.DateTime(), nullable=False) for name in TIMES]


def _create_part(table, *columns):
    op.create_table(
        table,
        sa.Column("namespace_id", sa.String(length=255), nullable=False),
        sa.Column("name", sa.String(length=80), nullable=False),
        *columns,
        *_times(),
        sa.ForeignKeyConstraint(
            ["namespace_id"],
            ["metadef_namespaces.id"],
            name=f"fk_{table}_namespace_id_metadef_namespaces",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("namespace_id", "name", name=f"pk_{table}"),
    )


def upgrade():
    op.create_table(
        "metadef_namespaces",
        sa.Column("id", sa.String(length=255), nullable=False),
        sa.Column("namespace", sa.String(length=80), nullable=False),
        sa.Column("display_name", sa.String(length=80), nullable=True),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("visibility", sa.String(length=255), nullable=False),
        sa.Column("protected", sa.Boolean(), nullable=False),
        sa.Column("owner", sa.String(length=255), nullable=True),
        *_times(),
        sa.PrimaryKeyConstraint("id", name="pk_metadef_namespaces"),
        sa.UniqueConstraint("namespace", name="uq_metadef_namespaces_namespace"),
    )
    op.create_index("ix_metadef_namespaces_owner", "metadef_namespaces", ["owner"])
    op.create_table(
        "metadef_resource_types",
        sa.Column("name", sa.String(length=80), nullable=False),
        *_times(),
        sa.PrimaryKeyConstraint("name", name="pk_metadef_resource_types"),
    )
    _create_part("metadef_properties", sa.Column("definition", sa.JSON(), nullable=False))
    _create_part(
        "metadef_objects",
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("required", sa.JSON(), nullable=False),
        sa.Column("properties", sa.JSON(), nullable=False),
    )
    _create_part("metadef_tags")
    _create_part(
        "metadef_associations",
        sa.Column("prefix", sa.String(length=80), nullable=True),
        sa.Column("properties_target", sa.String(length=80), nullable=True),
        sa.ForeignKeyConstraint(
            ["name"], ["metadef_resource_types.name"], name="fk_metadef_associations_name_metadef_resource_types"
        ),
    )
    op.create_index("ix_metadef_associations_name", "metadef_associations", ["name"])


def downgrade():
    for table in ("associations", "tags", "objects", "properties", "resource_types", "namespaces"):
        op.drop_table(f"metadef_{table}")
