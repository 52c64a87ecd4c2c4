"""a move's status, moves that confirm themselves, and attachments in place of those of a lost host."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade():
    with op.batch_alter_table("migrations", schema=None) as batch_op:
        batch_op.add_column(sa.Column("unattended", sa.Boolean(), nullable=False, server_default=sa.false()))
        batch_op.add_column(sa.Column("status", sa.String(length=255), nullable=False, server_default="preparing"))
        batch_op.create_index(batch_op.f("ix_migrations_status"), ["status"], unique=False)

    with op.batch_alter_table("volume_attachments", schema=None) as batch_op:
        batch_op.add_column(sa.Column("replaced", sa.Boolean(), nullable=False, server_default=sa.false()))


def downgrade():
    with op.batch_alter_table("volume_attachments", schema=None) as batch_op:
        batch_op.drop_column("replaced")

    with op.batch_alter_table("migrations", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_migrations_status"))
        batch_op.drop_column("status")
        batch_op.drop_column("unattended")
