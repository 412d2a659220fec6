"""Keys, and the sessions of browsers that were opened with one."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "api_key",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("project", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("handle", sa.String(length=8), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("scopes", sa.JSON(), nullable=False),
        sa.Column("parent", sa.String(length=40)),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True)),
        sa.Column("last_used_at", sa.DateTime(timezone=True)),
        sa.Column("revoked_at", sa.DateTime(timezone=True)),
        sa.ForeignKeyConstraint(["project"], ["project.id"], name="fk_api_key_project_project"),
        sa.ForeignKeyConstraint(["parent"], ["api_key.id"], name="fk_api_key_parent_api_key"),
        sa.PrimaryKeyConstraint("id", name="pk_api_key"),
        sa.UniqueConstraint("handle", name="uq_api_key_handle"),
    )
    op.create_index("ix_api_key_parent", "api_key", ["parent"])
    op.create_index("ix_api_key_project_created_at_id", "api_key", ["project", "created_at", "id"])


def downgrade() -> None:
    op.drop_table("api_key")
