"""the passwords that guests post, encrypted, to the metadata service."""

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade():
    op.add_column("servers", sa.Column("password_cleared", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("servers", sa.Column("observed_posted_password", sa.Text(), nullable=True))


def downgrade():
    with op.batch_alter_table("servers", schema=None) as batch_op:
        for name in ("password_cleared", "observed_posted_password"):
            batch_op.drop_column(name)
