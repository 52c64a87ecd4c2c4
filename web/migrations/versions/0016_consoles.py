"""tokens of consoles, and where consoles are seen."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade():
    op.create_table(
        "console_tokens",
        sa.Column("digest", sa.String(length=255), nullable=False),
        sa.Column("server_id", sa.String(length=255), nullable=False),
        sa.Column("host_id", sa.String(length=255), nullable=False),
        sa.Column("kind", sa.String(length=255), nullable=False),
        sa.Column("port", sa.Integer(), nullable=False),
        sa.Column("user_id", sa.String(length=255), nullable=False),
        sa.Column("request_id", sa.String(length=255), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("expires_at", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(["host_id"], ["hosts.id"], name="fk_console_tokens_host_id_hosts", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["server_id"], ["servers.id"], name="fk_console_tokens_server_id_servers", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("digest", name="pk_console_tokens"),
    )
    with op.batch_alter_table("console_tokens", schema=None) as batch_op:
        batch_op.create_index("ix_console_tokens_server_id", ["server_id"], unique=False)
        batch_op.create_index("ix_console_tokens_expires_at", ["expires_at"], unique=False)
    with op.batch_alter_table("servers", schema=None) as batch_op:
        batch_op.add_column(sa.Column("observed_consoles", sa.JSON(), nullable=False, server_default="{}"))


def downgrade():
    with op.batch_alter_table("servers", schema=None) as batch_op:
        batch_op.drop_column("observed_consoles")
    with op.batch_alter_table("console_tokens", schema=None) as batch_op:
        batch_op.drop_index("ix_console_tokens_expires_at")
        batch_op.drop_index("ix_console_tokens_server_id")
    op.drop_table("console_tokens")
