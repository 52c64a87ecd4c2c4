"""rebuilds and images of servers."""

import sqlalchemy as sa
from alembic import op

from web.models.base import UTCDateTime

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade():
    op.create_table(
        "server_images",
        sa.Column("image_id", sa.String(length=255), nullable=False),
        sa.Column("server_id", sa.String(length=255), nullable=False),
        sa.Column("host_id", sa.String(length=255), nullable=False),
        sa.Column("backup_type", sa.String(length=255), nullable=True),
        sa.Column("rotation", sa.Integer(), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("created_at", UTCDateTime(), nullable=False),
        sa.Column("observed_state", sa.String(length=255), nullable=True),
        sa.Column("observed_progress", sa.Float(), nullable=False),
        sa.Column("observed_error", sa.Text(), nullable=True),
        sa.Column("progressed_at", UTCDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["host_id"], ["hosts.id"], name=op.f("fk_server_images_host_id_hosts"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["image_id"], ["images.id"], name=op.f("fk_server_images_image_id_images"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("image_id", name=op.f("pk_server_images")),
    )
    with op.batch_alter_table("server_images", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_server_images_host_id"), ["host_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_server_images_server_id"), ["server_id"], unique=False)
    with op.batch_alter_table("servers", schema=None) as batch_op:
        batch_op.add_column(sa.Column("image_task", sa.String(length=255), nullable=True))
        batch_op.add_column(sa.Column("rebuild_wanted", sa.Integer(), nullable=False, server_default="0"))
        batch_op.add_column(sa.Column("observed_rebuild_done", sa.Integer(), nullable=False, server_default="0"))


def downgrade():
    with op.batch_alter_table("servers", schema=None) as batch_op:
        batch_op.drop_column("observed_rebuild_done")
        batch_op.drop_column("rebuild_wanted")
        batch_op.drop_column("image_task")
    op.drop_table("server_images")
