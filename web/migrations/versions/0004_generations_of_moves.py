"""from which generation of each host a move's phase counts; moves that found no destination."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade():
    with op.batch_alter_table("migrations", schema=None) as batch_op:
        batch_op.add_column(sa.Column("source_generation", sa.Integer(), nullable=False, server_default="0"))
        batch_op.add_column(sa.Column("dest_generation", sa.Integer(), nullable=False, server_default="0"))
        batch_op.alter_column("dest_host_id", existing_type=sa.String(length=255), nullable=True)


def downgrade():
    with op.batch_alter_table("migrations", schema=None) as batch_op:
        batch_op.alter_column("dest_host_id", existing_type=sa.String(length=255), nullable=False)
        batch_op.drop_column("dest_generation")
        batch_op.drop_column("source_generation")
