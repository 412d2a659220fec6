"""Pauses, stops, extensions and clones of jobs; webhooks; studies that wait to be deleted."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

JOB_COLUMNS = (
    "verdict_attempt", "stop", "paused_seconds", "paused_at", "cloned_from", "notify",
    "notify_secret",
)  # fmt: skip


def upgrade() -> None:
    with op.batch_alter_table("job") as job:
        job.add_column(
            sa.Column("verdict_attempt", sa.Integer(), nullable=False, server_default="1")
        )
        job.add_column(sa.Column("stop", sa.JSON()))
        job.add_column(sa.Column("paused_seconds", sa.Float(), nullable=False, server_default="0"))
        job.add_column(sa.Column("paused_at", sa.DateTime(timezone=True)))
        job.add_column(sa.Column("cloned_from", sa.String(length=40)))
        job.add_column(sa.Column("notify", sa.JSON()))
        job.add_column(sa.Column("notify_secret", sa.String(length=200)))
    with op.batch_alter_table("trial") as trial:
        trial.add_column(
            sa.Column("superseded", sa.Boolean(), nullable=False, server_default=sa.false())
        )
    op.create_table(
        "webhook",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("project", sa.String(length=64), nullable=False),
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("due_at", sa.Float(), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=False),
        sa.Column("problem", sa.Text()),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name="fk_webhook_job_id_job"),
        sa.ForeignKeyConstraint(["project"], ["project.id"], name="fk_webhook_project_project"),
        sa.PrimaryKeyConstraint("id", name="pk_webhook"),
        sa.UniqueConstraint("job_id", "sequence", name="uq_webhook_job_id_sequence"),
    )
    op.create_index("ix_webhook_state_due_at", "webhook", ["state", "due_at"])
    op.create_table(
        "discarded_study",
        sa.Column("name", sa.String(length=120), nullable=False),
        sa.Column("project", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["project"], ["project.id"], name="fk_discarded_study_project_project"
        ),
        sa.PrimaryKeyConstraint("name", name="pk_discarded_study"),
    )


def downgrade() -> None:
    op.drop_table("discarded_study")
    op.drop_table("webhook")
    with op.batch_alter_table("trial") as trial:
        trial.drop_column("superseded")
    with op.batch_alter_table("job") as job:
        for name in JOB_COLUMNS:
            job.drop_column(name)
