"""The first tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "project",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_project"),
    )
    op.create_table(
        "artifact",
        sa.Column("project", sa.String(length=64), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["project"], ["project.id"], name="fk_artifact_project_project"),
        sa.PrimaryKeyConstraint("project", "sha256", name="pk_artifact"),
    )
    op.create_table(
        "dataset",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("project", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("offer", sa.JSON(), nullable=False),
        sa.Column("bytes", sa.BigInteger()),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["project"], ["project.id"], name="fk_dataset_project_project"),
        sa.PrimaryKeyConstraint("id", name="pk_dataset"),
        sa.UniqueConstraint("project", "name", name="uq_dataset_project_name"),
    )
    op.create_table(
        "idempotency",
        sa.Column("project", sa.String(length=64), nullable=False),
        sa.Column("path", sa.String(length=200), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("body_sha256", sa.String(length=64), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("headers", sa.JSON(), nullable=False),
        sa.Column("answer", sa.JSON()),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["project"], ["project.id"], name="fk_idempotency_project_project"
        ),
        sa.PrimaryKeyConstraint("project", "path", "key", name="pk_idempotency"),
    )
    op.create_table(
        "inspection",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("project", sa.String(length=64), nullable=False),
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("request", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("lease_id", sa.String(length=40)),
        sa.Column("result", sa.JSON()),
        sa.Column("failure", sa.JSON()),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True)),
        sa.ForeignKeyConstraint(["project"], ["project.id"], name="fk_inspection_project_project"),
        sa.PrimaryKeyConstraint("id", name="pk_inspection"),
        sa.UniqueConstraint("project", "key", name="uq_inspection_project_key"),
    )
    op.create_table(
        "worker",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("project", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("registration", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("registered_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["project"], ["project.id"], name="fk_worker_project_project"),
        sa.PrimaryKeyConstraint("id", name="pk_worker"),
    )
    op.create_table(
        "dataset_offer",
        sa.Column("worker_id", sa.String(length=40), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("project", sa.String(length=64), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(
            ["project"], ["project.id"], name="fk_dataset_offer_project_project"
        ),
        sa.ForeignKeyConstraint(
            ["worker_id"], ["worker.id"], name="fk_dataset_offer_worker_id_worker"
        ),
        sa.PrimaryKeyConstraint("worker_id", "name", name="pk_dataset_offer"),
    )
    op.create_table(
        "job",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("project", sa.String(length=64), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("model", sa.String(length=200), nullable=False),
        sa.Column("dataset", sa.String(length=200), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("phase", sa.String(length=16)),
        sa.Column("ended_by", sa.String(length=16)),
        sa.Column("reason", sa.Text()),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("inspection_id", sa.String(length=40)),
        sa.Column("space", sa.JSON()),
        sa.Column("min_effect", sa.Float()),
        sa.Column("detectable_effect", sa.Float()),
        sa.Column("warnings", sa.JSON(), nullable=False),
        sa.Column("failure", sa.JSON()),
        sa.Column("verdict", sa.JSON()),
        sa.Column("verdict_word", sa.String(length=32)),
        sa.Column("event_sequence", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True)),
        sa.Column("search_started_at", sa.DateTime(timezone=True)),
        sa.Column("search_ended_at", sa.DateTime(timezone=True)),
        sa.Column("finished_at", sa.DateTime(timezone=True)),
        sa.ForeignKeyConstraint(
            ["inspection_id"], ["inspection.id"], name="fk_job_inspection_id_inspection"
        ),
        sa.ForeignKeyConstraint(["project"], ["project.id"], name="fk_job_project_project"),
        sa.PrimaryKeyConstraint("id", name="pk_job"),
    )
    op.create_index("ix_job_project_created_at_id", "job", ["project", "created_at", "id"])
    op.create_index("ix_job_state", "job", ["state"])
    op.create_table(
        "lease",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("project", sa.String(length=64), nullable=False),
        sa.Column("worker_id", sa.String(length=40), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("job_id", sa.String(length=40)),
        sa.Column("inspection_id", sa.String(length=40)),
        sa.Column("step", sa.String(length=16)),
        sa.Column("slots", sa.Integer(), nullable=False),
        sa.Column("is_open", sa.Boolean(), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=False),
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("body_sha256", sa.String(length=64)),
        sa.Column("answer", sa.JSON()),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["project"], ["project.id"], name="fk_lease_project_project"),
        sa.ForeignKeyConstraint(["worker_id"], ["worker.id"], name="fk_lease_worker_id_worker"),
        sa.PrimaryKeyConstraint("id", name="pk_lease"),
    )
    op.create_index("ix_lease_worker_id_is_open", "lease", ["worker_id", "is_open"])
    op.create_table(
        "model_offer",
        sa.Column("worker_id", sa.String(length=40), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("project", sa.String(length=64), nullable=False),
        sa.Column("offer", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["project"], ["project.id"], name="fk_model_offer_project_project"
        ),
        sa.ForeignKeyConstraint(
            ["worker_id"], ["worker.id"], name="fk_model_offer_worker_id_worker"
        ),
        sa.PrimaryKeyConstraint("worker_id", "name", name="pk_model_offer"),
    )
    op.create_index("ix_model_offer_project_name", "model_offer", ["project", "name"])
    op.create_table(
        "arm",
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("arm", sa.String(length=64), nullable=False),
        sa.Column("project", sa.String(length=64), nullable=False),
        sa.Column("searched", sa.Boolean(), nullable=False),
        sa.Column("target", sa.Integer(), nullable=False),
        sa.Column("issued", sa.Integer(), nullable=False),
        sa.Column("study", sa.String(length=120)),
        sa.Column("study_id", sa.Integer()),
        sa.Column("winner", sa.JSON()),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name="fk_arm_job_id_job"),
        sa.ForeignKeyConstraint(["project"], ["project.id"], name="fk_arm_project_project"),
        sa.PrimaryKeyConstraint("job_id", "arm", name="pk_arm"),
    )
    op.create_table(
        "event",
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("project", sa.String(length=64), nullable=False),
        sa.Column("type", sa.String(length=40), nullable=False),
        sa.Column("trial_id", sa.String(length=40)),
        sa.Column("attempt", sa.Integer()),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name="fk_event_job_id_job"),
        sa.ForeignKeyConstraint(["project"], ["project.id"], name="fk_event_project_project"),
        sa.PrimaryKeyConstraint("job_id", "sequence", name="pk_event"),
    )
    op.create_table(
        "trial",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("project", sa.String(length=64), nullable=False),
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("arm", sa.String(length=64), nullable=False),
        sa.Column("phase", sa.String(length=16), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("candidate", sa.Integer()),
        sa.Column("origin", sa.String(length=40)),
        sa.Column("seed_index", sa.String(length=80), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("epochs", sa.Integer(), nullable=False),
        sa.Column("params", sa.JSON(), nullable=False),
        sa.Column("rates", sa.JSON(), nullable=False),
        sa.Column("sites", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("losses", sa.Integer(), nullable=False),
        sa.Column("lease_id", sa.String(length=40)),
        sa.Column("worker_id", sa.String(length=40)),
        sa.Column("stop_requested", sa.Boolean(), nullable=False),
        sa.Column("value", sa.Float()),
        sa.Column("values", sa.JSON(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("best_epoch", sa.Integer()),
        sa.Column("reason", sa.String(length=32)),
        sa.Column("detail", sa.Text()),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.Column("optuna_id", sa.Integer()),
        sa.Column("mirrored", sa.String(length=16)),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True)),
        sa.Column("finished_at", sa.DateTime(timezone=True)),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name="fk_trial_job_id_job"),
        sa.ForeignKeyConstraint(["lease_id"], ["lease.id"], name="fk_trial_lease_id_lease"),
        sa.ForeignKeyConstraint(["project"], ["project.id"], name="fk_trial_project_project"),
        sa.ForeignKeyConstraint(["worker_id"], ["worker.id"], name="fk_trial_worker_id_worker"),
        sa.PrimaryKeyConstraint("id", name="pk_trial"),
        sa.UniqueConstraint(
            "job_id", "arm", "phase", "number", name="uq_trial_job_id_arm_phase_number"
        ),
    )
    op.create_index("ix_trial_lease_id", "trial", ["lease_id"])
    op.create_index("ix_trial_state_job_id", "trial", ["state", "job_id"])
    op.create_table(
        "verdict",
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("look", sa.Integer(), nullable=False),
        sa.Column("project", sa.String(length=64), nullable=False),
        sa.Column("decision", sa.String(length=32), nullable=False),
        sa.Column("result", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name="fk_verdict_job_id_job"),
        sa.ForeignKeyConstraint(["project"], ["project.id"], name="fk_verdict_project_project"),
        sa.PrimaryKeyConstraint("job_id", "attempt", "look", name="pk_verdict"),
    )
    op.create_table(
        "lease_trial",
        sa.Column("lease_id", sa.String(length=40), nullable=False),
        sa.Column("trial_id", sa.String(length=40), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("project", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["lease_id"], ["lease.id"], name="fk_lease_trial_lease_id_lease"),
        sa.ForeignKeyConstraint(
            ["project"], ["project.id"], name="fk_lease_trial_project_project"
        ),
        sa.ForeignKeyConstraint(["trial_id"], ["trial.id"], name="fk_lease_trial_trial_id_trial"),
        sa.PrimaryKeyConstraint("lease_id", "trial_id", name="pk_lease_trial"),
    )
    op.create_index("ix_lease_trial_trial_id", "lease_trial", ["trial_id"])
    op.create_table(
        "measurement",
        sa.Column("trial_id", sa.String(length=40), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("project", sa.String(length=64), nullable=False),
        sa.Column("train_loss", sa.Float()),
        sa.Column("train_eval_loss", sa.Float()),
        sa.Column("validation_loss", sa.Float()),
        sa.Column("metrics", sa.JSON(), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["project"], ["project.id"], name="fk_measurement_project_project"
        ),
        sa.ForeignKeyConstraint(["trial_id"], ["trial.id"], name="fk_measurement_trial_id_trial"),
        sa.PrimaryKeyConstraint("trial_id", "epoch", "attempt", name="pk_measurement"),
    )
    op.create_table(
        "rung",
        sa.Column("trial_id", sa.String(length=40), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("project", sa.String(length=64), nullable=False),
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("arm", sa.String(length=64), nullable=False),
        sa.Column("value", sa.Float(), nullable=False),
        sa.Column("decision", sa.String(length=16), nullable=False),
        sa.ForeignKeyConstraint(["project"], ["project.id"], name="fk_rung_project_project"),
        sa.ForeignKeyConstraint(["trial_id"], ["trial.id"], name="fk_rung_trial_id_trial"),
        sa.PrimaryKeyConstraint("trial_id", "epoch", name="pk_rung"),
    )
    op.create_index("ix_rung_job_id_arm_epoch", "rung", ["job_id", "arm", "epoch"])
    op.create_table(
        "trial_artifact",
        sa.Column("trial_id", sa.String(length=40), nullable=False),
        sa.Column("role", sa.String(length=40), nullable=False),
        sa.Column("project", sa.String(length=64), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(
            ["project"], ["project.id"], name="fk_trial_artifact_project_project"
        ),
        sa.ForeignKeyConstraint(
            ["trial_id"], ["trial.id"], name="fk_trial_artifact_trial_id_trial"
        ),
        sa.PrimaryKeyConstraint("trial_id", "role", name="pk_trial_artifact"),
    )


def downgrade() -> None:
    op.drop_table("trial_artifact")
    op.drop_table("rung")
    op.drop_table("measurement")
    op.drop_table("lease_trial")
    op.drop_table("verdict")
    op.drop_table("trial")
    op.drop_table("event")
    op.drop_table("arm")
    op.drop_table("model_offer")
    op.drop_table("lease")
    op.drop_table("job")
    op.drop_table("dataset_offer")
    op.drop_table("worker")
    op.drop_table("inspection")
    op.drop_table("idempotency")
    op.drop_table("dataset")
    op.drop_table("artifact")
    op.drop_table("project")
