"""servers that are paused, suspended, rescued, or in error because an admin says so."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade():
    with op.batch_alter_table("servers", schema=None) as batch_op:
        batch_op.add_column(sa.Column("rescue_image_id", sa.String(length=255), nullable=True))
        batch_op.add_column(sa.Column("observed_rescue", sa.String(length=255), nullable=True))
        batch_op.add_column(sa.Column("fault_kept", sa.Boolean(), nullable=False, server_default=sa.false()))


def downgrade():
    with op.batch_alter_table("servers", schema=None) as batch_op:
        batch_op.drop_column("fault_kept")
        batch_op.drop_column("observed_rescue")
        batch_op.drop_column("rescue_image_id")
