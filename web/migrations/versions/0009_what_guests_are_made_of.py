"""what guests are made of: properties of their images, disks beside the root disk, what a config drive alone holds."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None
COLUMNS = ("image_properties", "disks", "injected")


def upgrade():
    with op.batch_alter_table("servers", schema=None) as batch_op:
        for name in COLUMNS:
            batch_op.add_column(sa.Column(name, sa.JSON(), nullable=False, server_default="{}"))


def downgrade():
    with op.batch_alter_table("servers", schema=None) as batch_op:
        for name in COLUMNS:
            batch_op.drop_column(name)
