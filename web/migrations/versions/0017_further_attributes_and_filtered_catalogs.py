"""further attributes of identity's objects, domains' tags and options, endpoint groups, policies."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

OPEN = ("domains", "projects", "groups", "roles", "credentials", "regions", "catalog_services", "endpoints")


def upgrade():
    for table in OPEN:
        with op.batch_alter_table(table) as batch:
            batch.add_column(sa.Column("extra", sa.JSON(), nullable=False, server_default="{}"))
            if table == "domains":
                batch.add_column(sa.Column("tags", sa.JSON(), nullable=False, server_default="[]"))
            if table == "credentials":
                batch.add_column(sa.Column("access_hash", sa.String(255), nullable=True))
    op.execute("UPDATE credentials SET access_hash = id WHERE type = 'ec2'")
    op.create_index(op.f("ix_credentials_access_hash"), "credentials", ["access_hash"], unique=True)
    op.create_table(
        "domain_options",
        sa.Column("domain_id", sa.String(255), nullable=False),
        sa.Column("section", sa.String(255), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("value", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["domain_id"], ["domains.id"], name=op.f("fk_domain_options_domain_id_domains"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("domain_id", "section", "name", name=op.f("pk_domain_options")),
    )
    op.create_table(
        "policies",
        sa.Column("id", sa.String(255), nullable=False),
        sa.Column("type", sa.String(255), nullable=False),
        sa.Column("blob", sa.Text(), nullable=False),
        sa.Column("extra", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_policies")),
    )
    op.create_table(
        "endpoint_groups",
        sa.Column("id", sa.String(255), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("filters", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_endpoint_groups")),
    )
    op.create_table(
        "project_endpoints",
        sa.Column("project_id", sa.String(255), nullable=False),
        sa.Column("endpoint_id", sa.String(255), nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name=op.f("fk_project_endpoints_project_id_projects"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("project_id", "endpoint_id", name=op.f("pk_project_endpoints")),
    )
    op.create_index(op.f("ix_project_endpoints_endpoint_id"), "project_endpoints", ["endpoint_id"])
    op.create_table(
        "project_endpoint_groups",
        sa.Column("project_id", sa.String(255), nullable=False),
        sa.Column("endpoint_group_id", sa.String(255), nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id"],
            ["projects.id"],
            name=op.f("fk_project_endpoint_groups_project_id_projects"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["endpoint_group_id"],
            ["endpoint_groups.id"],
            name=op.f("fk_project_endpoint_groups_endpoint_group_id_endpoint_groups"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("project_id", "endpoint_group_id", name=op.f("pk_project_endpoint_groups")),
    )
    op.create_index(
        op.f("ix_project_endpoint_groups_endpoint_group_id"), "project_endpoint_groups", ["endpoint_group_id"]
    )


def downgrade():
    for table in ("project_endpoint_groups", "project_endpoints", "endpoint_groups", "policies", "domain_options"):
        op.drop_table(table)
    # Found by their id again, which of one whose access key was changed is the old key's.
    op.execute("DELETE FROM credentials WHERE type = 'ec2' AND access_hash <> id")
    op.drop_index(op.f("ix_credentials_access_hash"), "credentials")
    for table in OPEN:
        with op.batch_alter_table(table) as batch:
            batch.drop_column("extra")
            if table == "credentials":
                batch.drop_column("access_hash")
            if table == "domains":
                batch.drop_column("tags")
