"""The tables: our truth. Every row has a project, and every function here filters by it."""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
)

from dropt.spec.inspection import Inspection
from dropt.spec.job import JobSpec
from dropt.spec.keys import Scope
from dropt.spec.protocol import (
    DatasetOffer,
    InspectionFailure,
    ModelOffer,
    Registration,
    ReportAnswer,
    TrialParams,
)
from dropt.spec.results import Failure, StopRequest, VerdictRead
from dropt.spec.space import Dropout, Space
from dropt.spec.webhooks import Notify
from dropt.storage.columns import Document, UtcTime

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _project() -> Column[str]:
    return Column("project", String(64), ForeignKey("project.id"), nullable=False)


def _at(name: str, *, nullable: bool = True) -> Column[datetime]:
    return Column(name, UtcTime, nullable=nullable)


project = Table(
    "project",
    metadata,
    Column("id", String(64), primary_key=True),
    _at("created_at", nullable=False),
)

api_key = Table(
    "api_key",
    metadata,
    Column("id", String(40), primary_key=True),
    _project(),
    Column("name", String(200), nullable=False),
    Column("handle", String(8), nullable=False, unique=True),  # of its text, to find it by
    Column("sha256", String(64), nullable=False),
    Column("scopes", Document(tuple[Scope, ...]), nullable=False),
    Column("parent", String(40), ForeignKey("api_key.id")),  # of a session: the key logged in with
    _at("created_at", nullable=False),
    _at("expires_at"),
    _at("last_used_at"),
    _at("revoked_at"),
    Index(None, "project", "created_at", "id"),
    Index(None, "parent"),
)

worker = Table(
    "worker",
    metadata,
    Column("id", String(40), primary_key=True),
    _project(),
    Column("name", String(200), nullable=False),
    Column("registration", Document(Registration), nullable=False),
    Column("state", String(16), nullable=False),  # live | draining | gone
    _at("registered_at", nullable=False),
    _at("last_seen_at", nullable=False),
)

dataset = Table(
    "dataset",
    metadata,
    Column("id", String(40), primary_key=True),
    _project(),
    Column("name", String(200), nullable=False),
    Column("kind", String(16), nullable=False),  # offered | uploaded
    Column("sha256", String(64), nullable=False),
    Column("offer", Document(DatasetOffer), nullable=False),
    Column("bytes", BigInteger),
    _at("created_at", nullable=False),
    UniqueConstraint("project", "name"),
)

model_offer = Table(
    "model_offer",
    metadata,
    Column("worker_id", String(40), ForeignKey("worker.id"), primary_key=True),
    Column("name", String(200), primary_key=True),
    _project(),
    Column("offer", Document(ModelOffer), nullable=False),
    Index(None, "project", "name"),
)

dataset_offer = Table(
    "dataset_offer",
    metadata,
    Column("worker_id", String(40), ForeignKey("worker.id"), primary_key=True),
    Column("name", String(200), primary_key=True),
    _project(),
    Column("sha256", String(64), nullable=False),
)

inspection = Table(
    "inspection",
    metadata,
    Column("id", String(40), primary_key=True),
    _project(),
    Column("key", String(64), nullable=False),  # SHA-256 of model, arguments, data, loss, batch
    Column("request", Document(dict[str, Any]), nullable=False),
    Column("state", String(16), nullable=False),  # waiting | running | done | failed
    Column("attempt", Integer, nullable=False),
    Column("failures", Integer, nullable=False),
    Column("lease_id", String(40)),
    Column("result", Document(Inspection)),
    Column("failure", Document(InspectionFailure)),
    _at("created_at", nullable=False),
    _at("finished_at"),
    UniqueConstraint("project", "key"),
)

job = Table(
    "job",
    metadata,
    Column("id", String(40), primary_key=True),
    _project(),
    Column("revision", Integer, nullable=False),
    Column("name", String(200), nullable=False),
    Column("labels", Document(dict[str, str]), nullable=False),
    Column("priority", Integer, nullable=False),
    Column("model", String(200), nullable=False),
    Column("dataset", String(200), nullable=False),
    Column("state", String(16), nullable=False),
    Column("phase", String(16)),
    Column("ended_by", String(16)),
    Column("reason", Text),
    Column("spec", Document(JobSpec), nullable=False),
    Column("inspection_id", String(40), ForeignKey("inspection.id")),
    Column("space", Document(Space)),
    Column("min_effect", Float),  # frozen when the comparison starts
    Column("detectable_effect", Float),
    Column("warnings", Document(tuple[str, ...]), nullable=False),
    Column("failure", Document(Failure)),
    Column("verdict", Document(VerdictRead)),  # the latest VerdictRead
    Column("verdict_word", String(32)),
    Column("event_sequence", Integer, nullable=False),
    Column("verdict_attempt", Integer, nullable=False, server_default="1"),
    Column("stop", Document(StopRequest)),
    Column("paused_seconds", Float, nullable=False, server_default="0"),  # pauses that are over
    _at("paused_at"),
    Column("cloned_from", String(40)),
    Column("notify", Document(Notify)),
    Column("notify_secret", String(200)),
    _at("created_at", nullable=False),
    _at("started_at"),
    _at("search_started_at"),
    _at("search_ended_at"),
    _at("finished_at"),
    Index(None, "project", "created_at", "id"),
    Index(None, "state"),
)

arm = Table(
    "arm",
    metadata,
    Column("job_id", String(40), ForeignKey("job.id"), primary_key=True),
    Column("arm", String(64), primary_key=True),
    _project(),
    Column("searched", Boolean, nullable=False),
    Column("target", Integer, nullable=False),
    Column("issued", Integer, nullable=False),
    Column("study", String(120)),
    Column("study_id", Integer),  # of Optuna, null until mirrored
    Column(
        "winner", Document(dict[str, Any])
    ),  # {trial, params, rates}: what the comparison trains
)

trial = Table(
    "trial",
    metadata,
    Column("id", String(40), primary_key=True),
    _project(),
    Column("job_id", String(40), ForeignKey("job.id"), nullable=False),
    Column("arm", String(64), nullable=False),
    Column("phase", String(16), nullable=False),  # see `TrialPhase`
    Column("number", Integer, nullable=False),  # from 0 within job, arm and phase
    Column("candidate", Integer),  # shortlist: place of the configuration in its arm
    Column("origin", String(40)),  # the search trial whose configuration this is
    Column("seed_index", String(80), nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("epochs", Integer, nullable=False),
    Column("params", Document(TrialParams), nullable=False),
    Column("rates", Document(dict[str, float]), nullable=False),  # true rate by group
    Column(
        "sites", Document(dict[str, Dropout]), nullable=False
    ),  # dropout by site, rates above 0 only
    Column("state", String(16), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("failures", Integer, nullable=False),
    Column("losses", Integer, nullable=False),  # lost in a row without an epoch between
    Column("lease_id", String(40), ForeignKey("lease.id")),
    Column("worker_id", String(40), ForeignKey("worker.id")),
    Column("stop_requested", Boolean, nullable=False),
    Column("value", Float),  # the objective on validation, of the epoch that counts
    Column("values", Document(dict[str, dict[str, float | None]]), nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("best_epoch", Integer),
    Column("reason", String(32)),
    Column("detail", Text),
    Column("seconds", Float, nullable=False),
    Column("optuna_id", Integer),
    Column("mirrored", String(16)),  # the state that Optuna has been told
    Column("superseded", Boolean, nullable=False, server_default=false()),  # earlier evidence
    _at("created_at", nullable=False),
    _at("started_at"),
    _at("finished_at"),
    UniqueConstraint("job_id", "arm", "phase", "number"),
    Index(None, "state", "job_id"),
    Index(None, "lease_id"),
)

rung = Table(
    "rung",
    metadata,
    Column("trial_id", String(40), ForeignKey("trial.id"), primary_key=True),
    Column("epoch", Integer, primary_key=True),
    _project(),
    Column("job_id", String(40), nullable=False),
    Column("arm", String(64), nullable=False),
    Column("value", Float, nullable=False),
    Column("decision", String(16), nullable=False),  # go_on | stop
    Index(None, "job_id", "arm", "epoch"),
)

measurement = Table(
    "measurement",
    metadata,
    Column("trial_id", String(40), ForeignKey("trial.id"), primary_key=True),
    Column("epoch", Integer, primary_key=True),
    Column("attempt", Integer, primary_key=True),
    _project(),
    Column("train_loss", Float),
    Column("train_eval_loss", Float),
    Column("validation_loss", Float),
    Column("metrics", Document(dict[str, float | None]), nullable=False),
    Column("seconds", Float, nullable=False),
    _at("at", nullable=False),
)

lease = Table(
    "lease",
    metadata,
    Column("id", String(40), primary_key=True),
    _project(),
    Column("worker_id", String(40), ForeignKey("worker.id"), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("job_id", String(40)),
    Column("inspection_id", String(40)),
    Column("step", String(16)),
    Column("slots", Integer, nullable=False),
    Column("is_open", Boolean, nullable=False),
    Column("expires_at", Float, nullable=False),  # seconds since 1970 by the database's clock
    Column("sequence", Integer, nullable=False),  # of the last report taken, 0 before the first
    Column("body_sha256", String(64)),
    Column("answer", Document(ReportAnswer)),
    _at("created_at", nullable=False),
    Index(None, "worker_id", "is_open"),
)

lease_trial = Table(  # what a worker was given and has not ended: from this it is told "lost"
    "lease_trial",
    metadata,
    Column("lease_id", String(40), ForeignKey("lease.id"), primary_key=True),
    Column("trial_id", String(40), ForeignKey("trial.id"), primary_key=True),
    Column("attempt", Integer, nullable=False),
    _project(),
    Index(None, "trial_id"),
)

event = Table(
    "event",
    metadata,
    Column("job_id", String(40), ForeignKey("job.id"), primary_key=True),
    Column("sequence", Integer, primary_key=True),
    _project(),
    Column("type", String(40), nullable=False),
    Column("trial_id", String(40)),
    Column("attempt", Integer),
    Column("data", Document(dict[str, Any]), nullable=False),
    _at("at", nullable=False),
)

artifact = Table(
    "artifact",
    metadata,
    Column("project", String(64), ForeignKey("project.id"), primary_key=True),
    Column("sha256", String(64), primary_key=True),
    Column("bytes", BigInteger, nullable=False),
    _at("created_at", nullable=False),
)

trial_artifact = Table(
    "trial_artifact",
    metadata,
    Column("trial_id", String(40), ForeignKey("trial.id"), primary_key=True),
    Column("role", String(40), primary_key=True),  # scores:test
    _project(),
    Column("sha256", String(64), nullable=False),
)

verdict = Table(
    "verdict",
    metadata,
    Column("job_id", String(40), ForeignKey("job.id"), primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("look", Integer, primary_key=True),  # from 1; immutable once written
    _project(),
    Column("decision", String(32), nullable=False),
    Column("result", Document(dict[str, Any]), nullable=False),
    _at("created_at", nullable=False),
)

webhook = Table(  # what is to be told to the listener of a job: an outbox, written with the event
    "webhook",
    metadata,
    Column("id", String(40), primary_key=True),
    _project(),
    Column("job_id", String(40), ForeignKey("job.id"), nullable=False),
    Column("sequence", Integer, nullable=False),
    Column("state", String(16), nullable=False),  # waiting | delivered | failed
    Column("attempts", Integer, nullable=False),
    Column("due_at", Float, nullable=False),  # seconds since 1970 by the database's clock
    Column("expires_at", Float, nullable=False),
    Column("problem", Text),  # of the last attempt that failed
    _at("created_at", nullable=False),
    UniqueConstraint("job_id", "sequence"),
    Index(None, "state", "due_at"),
)

discarded_study = Table(  # of a deleted job: Optuna still has it
    "discarded_study",
    metadata,
    Column("name", String(120), primary_key=True),
    _project(),
    _at("created_at", nullable=False),
)

idempotency = Table(
    "idempotency",
    metadata,
    Column("project", String(64), ForeignKey("project.id"), primary_key=True),
    Column("path", String(200), primary_key=True),
    Column("key", String(255), primary_key=True),
    Column("body_sha256", String(64), nullable=False),
    Column("status", Integer, nullable=False),
    Column("headers", Document(dict[str, str]), nullable=False),
    Column("answer", Document(Any)),
    _at("created_at", nullable=False),
)
