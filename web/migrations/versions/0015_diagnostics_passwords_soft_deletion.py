"""diagnostics, new passwords and deletions that can be taken back."""

import sqlalchemy as sa
from alembic import op

from web.models.base import UTCDateTime

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

COUNTERS = ("diagnostics_wanted", "password_wanted", "observed_diagnostics_done", "observed_password_done")
TIMES = ("password_asked_at", "soft_deleted_at")


def upgrade():
    op.create_table(
        "server_diagnostics",
        sa.Column("server_id", sa.String(length=255), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("figures", sa.JSON(), nullable=False),
        sa.Column("read_at", UTCDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["server_id"], ["servers.id"], name=op.f("fk_server_diagnostics_server_id_servers"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("server_id", name=op.f("pk_server_diagnostics")),
    )
    for name in COUNTERS:
        op.add_column("servers", sa.Column(name, sa.Integer(), nullable=False, server_default="0"))
    for name in TIMES:
        op.add_column("servers", sa.Column(name, UTCDateTime(), nullable=True))
    op.add_column("servers", sa.Column("password_secret", sa.Text(), nullable=True))


def downgrade():
    with op.batch_alter_table("servers", schema=None) as batch_op:
        for name in (*COUNTERS, *TIMES, "password_secret"):
            batch_op.drop_column(name)
    op.drop_table("server_diagnostics")
