"""volumes whose content is made anew from an image."""

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

COLUMNS = ("reimage_wanted", "reimage_begun", "observed_reimage_ready", "observed_reimage_done")


def upgrade():
    with op.batch_alter_table("volumes", schema=None) as batch_op:
        for name in COLUMNS:
            batch_op.add_column(sa.Column(name, sa.Integer(), nullable=False, server_default="0"))


def downgrade():
    with op.batch_alter_table("volumes", schema=None) as batch_op:
        for name in reversed(COLUMNS):
            batch_op.drop_column(name)
