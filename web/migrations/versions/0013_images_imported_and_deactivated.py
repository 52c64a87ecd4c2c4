"""images that are imported, and what operators want of hosts' caches."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade():
    op.create_table(
        "host_images",
        sa.Column("host_id", sa.String(length=255), nullable=False),
        sa.Column("image_id", sa.String(length=255), nullable=False),
        sa.Column("kept", sa.Boolean(), nullable=False),
        sa.Column("fetch_wanted", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(["host_id"], ["hosts.id"], name="fk_host_images_host_id_hosts", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["image_id"], ["images.id"], name="fk_host_images_image_id_images", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("host_id", "image_id", name="pk_host_images"),
    )
    op.create_table(
        "image_tasks",
        sa.Column("id", sa.String(length=255), nullable=False),
        sa.Column("image_id", sa.String(length=255), nullable=False),
        sa.Column("project_id", sa.String(length=255), nullable=True),
        sa.Column("user_id", sa.String(length=255), nullable=True),
        sa.Column("request_id", sa.String(length=255), nullable=True),
        sa.Column("type", sa.String(length=255), nullable=False),
        sa.Column("input", sa.JSON(), nullable=False),
        sa.Column("uri", sa.Text(), nullable=True),
        sa.Column("status", sa.String(length=255), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("updated_at", sa.DateTime(), nullable=False),
        sa.Column("expires_at", sa.DateTime(), nullable=True),
        sa.ForeignKeyConstraint(["image_id"], ["images.id"], name="fk_image_tasks_image_id_images", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_image_tasks"),
    )
    with op.batch_alter_table("image_tasks", schema=None) as batch_op:
        batch_op.create_index("ix_image_tasks_image_id", ["image_id"], unique=False)
        batch_op.create_index("ix_image_tasks_status", ["status"], unique=False)
    with op.batch_alter_table("images", schema=None) as batch_op:
        batch_op.add_column(sa.Column("failed_import", sa.String(length=255), nullable=True))


def downgrade():
    with op.batch_alter_table("images", schema=None) as batch_op:
        batch_op.drop_column("failed_import")
    with op.batch_alter_table("image_tasks", schema=None) as batch_op:
        batch_op.drop_index("ix_image_tasks_status")
        batch_op.drop_index("ix_image_tasks_image_id")
    op.drop_table("image_tasks")
    op.drop_table("host_images")
