"""groups, inherited and implied roles, roles of one domain, application credentials, credentials, trusts, a catalog of one's own."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

NAMING = {
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
}


def upgrade():
    op.create_table(
        "groups",
        sa.Column("id", sa.String(255), nullable=False),
        sa.Column("domain_id", sa.String(255), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["domain_id"], ["domains.id"], name=op.f("fk_groups_domain_id_domains")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_groups")),
        sa.UniqueConstraint("domain_id", "name", name=op.f("uq_groups_domain_id_name")),
    )
    op.create_table(
        "memberships",
        sa.Column("group_id", sa.String(255), nullable=False),
        sa.Column("user_id", sa.String(255), nullable=False),
        sa.ForeignKeyConstraint(
            ["group_id"], ["groups.id"], name=op.f("fk_memberships_group_id_groups"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("fk_memberships_user_id_users"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("group_id", "user_id", name=op.f("pk_memberships")),
    )
    op.create_index(op.f("ix_memberships_user_id"), "memberships", ["user_id"])
    op.create_table(
        "implications",
        sa.Column("prior_id", sa.String(255), nullable=False),
        sa.Column("implied_id", sa.String(255), nullable=False),
        sa.ForeignKeyConstraint(
            ["prior_id"], ["roles.id"], name=op.f("fk_implications_prior_id_roles"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["implied_id"], ["roles.id"], name=op.f("fk_implications_implied_id_roles"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("prior_id", "implied_id", name=op.f("pk_implications")),
    )
    for name in ("domains", "projects"):
        with op.batch_alter_table(name) as batch:
            batch.add_column(sa.Column("tokens_valid_after", sa.DateTime(), nullable=True))
    with op.batch_alter_table("roles", naming_convention=NAMING) as batch:
        batch.drop_constraint("uq_roles_name", type_="unique")
        batch.create_unique_constraint(op.f("uq_roles_domain_id_name"), ["domain_id", "name"])
        batch.create_index(
            "ix_roles_global_name",
            ["name"],
            unique=True,
            sqlite_where=sa.text("domain_id IS NULL"),
            postgresql_where=sa.text("domain_id IS NULL"),
        )
    with op.batch_alter_table("assignments", naming_convention=NAMING) as batch:
        batch.alter_column("user_id", existing_type=sa.String(255), nullable=True)
        batch.add_column(sa.Column("group_id", sa.String(255), nullable=True))
        batch.add_column(sa.Column("inherited", sa.Boolean(), nullable=False, server_default=sa.false()))
        batch.drop_constraint("uq_assignments_user_id_role_id_target_kind_target_id", type_="unique")
        for actor in ("user_id", "group_id"):
            batch.create_unique_constraint(
                op.f(f"uq_assignments_{actor}_role_id_target_kind_target_id_inherited"),
                [actor, "role_id", "target_kind", "target_id", "inherited"],
            )
        batch.create_foreign_key(
            op.f("fk_assignments_group_id_groups"), "groups", ["group_id"], ["id"], ondelete="CASCADE"
        )
        batch.create_index(op.f("ix_assignments_group_id"), ["group_id"])
    op.create_table(
        "access_rules",
        sa.Column("id", sa.String(255), nullable=False),
        sa.Column("user_id", sa.String(255), nullable=False),
        sa.Column("service", sa.String(255), nullable=False),
        sa.Column("method", sa.String(255), nullable=False),
        sa.Column("path", sa.String(255), nullable=False),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("fk_access_rules_user_id_users"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_access_rules")),
        sa.UniqueConstraint(
            "user_id", "service", "method", "path", name=op.f("uq_access_rules_user_id_service_method_path")
        ),
    )
    op.create_table(
        "application_credentials",
        sa.Column("id", sa.String(255), nullable=False),
        sa.Column("user_id", sa.String(255), nullable=False),
        sa.Column("project_id", sa.String(255), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("secret_hash", sa.String(255), nullable=False),
        sa.Column("role_ids", sa.JSON(), nullable=False),
        sa.Column("unrestricted", sa.Boolean(), nullable=False),
        sa.Column("expires_at", sa.DateTime(), nullable=True),
        sa.Column("access_rules", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("fk_application_credentials_user_id_users"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["project_id"],
            ["projects.id"],
            name=op.f("fk_application_credentials_project_id_projects"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_application_credentials")),
        sa.UniqueConstraint("user_id", "name", name=op.f("uq_application_credentials_user_id_name")),
    )
    op.create_index(op.f("ix_application_credentials_project_id"), "application_credentials", ["project_id"])
    op.create_table(
        "credentials",
        sa.Column("id", sa.String(255), nullable=False),
        sa.Column("user_id", sa.String(255), nullable=False),
        sa.Column("project_id", sa.String(255), nullable=True),
        sa.Column("type", sa.String(255), nullable=False),
        sa.Column("sealed", sa.Text(), nullable=False),
        sa.Column("last_counter", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("fk_credentials_user_id_users"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_credentials")),
    )
    for name in ("user_id", "project_id"):
        op.create_index(op.f(f"ix_credentials_{name}"), "credentials", [name])
    op.create_table(
        "regions",
        sa.Column("id", sa.String(255), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("parent_region_id", sa.String(255), nullable=True),
        sa.Column("removed", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_regions")),
    )
    op.create_table(
        "catalog_services",
        sa.Column("id", sa.String(255), nullable=False),
        sa.Column("type", sa.String(255), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("removed", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_catalog_services")),
    )
    op.create_table(
        "endpoints",
        sa.Column("id", sa.String(255), nullable=False),
        sa.Column("service_id", sa.String(255), nullable=False),
        sa.Column("region_id", sa.String(255), nullable=True),
        sa.Column("interface", sa.String(255), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("removed", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_endpoints")),
    )
    op.create_index(op.f("ix_endpoints_service_id"), "endpoints", ["service_id"])
    op.create_table(
        "trusts",
        sa.Column("id", sa.String(255), nullable=False),
        sa.Column("trustor_id", sa.String(255), nullable=False),
        sa.Column("trustee_id", sa.String(255), nullable=False),
        sa.Column("project_id", sa.String(255), nullable=False),
        sa.Column("impersonation", sa.Boolean(), nullable=False),
        sa.Column("role_ids", sa.JSON(), nullable=False),
        sa.Column("expires_at", sa.DateTime(), nullable=True),
        sa.Column("remaining_uses", sa.Integer(), nullable=True),
        sa.Column("redelegation_count", sa.Integer(), nullable=False),
        sa.Column("parent_id", sa.String(255), nullable=True),
        sa.ForeignKeyConstraint(
            ["trustor_id"], ["users.id"], name=op.f("fk_trusts_trustor_id_users"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["trustee_id"], ["users.id"], name=op.f("fk_trusts_trustee_id_users"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name=op.f("fk_trusts_project_id_projects"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["parent_id"], ["trusts.id"], name=op.f("fk_trusts_parent_id_trusts"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_trusts")),
    )
    for name in ("trustor_id", "trustee_id", "project_id", "parent_id"):
        op.create_index(op.f(f"ix_trusts_{name}"), "trusts", [name])
    # What was in the code: admin implies member, member implies reader.
    op.execute(
        "INSERT INTO implications (prior_id, implied_id) SELECT p.id, i.id FROM roles p, roles i "
        "WHERE p.domain_id IS NULL AND i.domain_id IS NULL "
        "AND ((p.name = 'admin' AND i.name = 'member') OR (p.name = 'member' AND i.name = 'reader'))"
    )


def downgrade():
    op.execute("DELETE FROM assignments WHERE user_id IS NULL OR inherited")
    op.execute("DELETE FROM roles WHERE domain_id IS NOT NULL")
    with op.batch_alter_table("assignments", naming_convention=NAMING) as batch:
        batch.drop_index(op.f("ix_assignments_group_id"))
        for actor in ("user_id", "group_id"):
            batch.drop_constraint(
                op.f(f"uq_assignments_{actor}_role_id_target_kind_target_id_inherited"), type_="unique"
            )
        batch.drop_constraint(op.f("fk_assignments_group_id_groups"), type_="foreignkey")
        batch.drop_column("group_id")
        batch.drop_column("inherited")
        batch.alter_column("user_id", existing_type=sa.String(255), nullable=False)
        batch.create_unique_constraint(
            op.f("uq_assignments_user_id_role_id_target_kind_target_id"),
            ["user_id", "role_id", "target_kind", "target_id"],
        )
    with op.batch_alter_table("roles", naming_convention=NAMING) as batch:
        batch.drop_index("ix_roles_global_name")
        batch.drop_constraint(op.f("uq_roles_domain_id_name"), type_="unique")
        batch.create_unique_constraint(op.f("uq_roles_name"), ["name"])
    for name in ("projects", "domains"):
        with op.batch_alter_table(name) as batch:
            batch.drop_column("tokens_valid_after")
    for name in (
        "trusts",
        "endpoints",
        "catalog_services",
        "regions",
        "credentials",
        "application_credentials",
        "access_rules",
        "implications",
        "memberships",
        "groups",
    ):
        op.drop_table(name)
