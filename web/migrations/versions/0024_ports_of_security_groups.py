"""the ports of a security group are found by an index: a group's deletion, and rules that name it, ask for them."""

from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None

NAME = "ix_port_security_groups_security_group_id"


def upgrade():
    op.create_index(NAME, "port_security_groups", ["security_group_id"])


def downgrade():
    op.drop_index(NAME, "port_security_groups")
