"""what a server's disk partitioning was asked to be (OS-DCF:diskConfig)."""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade():
    with op.batch_alter_table("servers", schema=None) as batch_op:
        batch_op.add_column(sa.Column("disk_config", sa.String(length=255), nullable=False, server_default="MANUAL"))


def downgrade():
    with op.batch_alter_table("servers", schema=None) as batch_op:
        batch_op.drop_column("disk_config")
