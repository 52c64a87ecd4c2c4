"""servers that are shelved."""

import sqlalchemy as sa
from alembic import op

from web.models.base import UTCDateTime

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

TEXTS, TIMES = ("disk_image_id", "shelve", "shelved_image_id"), ("shelved_at", "offloaded_at")


def upgrade():
    with op.batch_alter_table("servers", schema=None) as batch_op:
        for name in TEXTS:
            batch_op.add_column(sa.Column(name, sa.String(length=255), nullable=True))
        for name in TIMES:
            batch_op.add_column(sa.Column(name, UTCDateTime(), nullable=True))


def downgrade():
    with op.batch_alter_table("servers", schema=None) as batch_op:
        for name in (*TEXTS, *TIMES):
            batch_op.drop_column(name)
