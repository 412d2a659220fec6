"""Deletion: every row of a job, in one transaction, and what is left to do outside of it."""

from collections.abc import Sequence

from sqlalchemy import Select, delete, select

from dropt.storage.clock import now_expression
from dropt.storage.insertion import insert_or_ignore
from dropt.storage.session import Session
from dropt.storage.tables import (
    arm,
    dataset,
    discarded_study,
    event,
    job,
    lease,
    lease_trial,
    measurement,
    rung,
    trial,
    trial_artifact,
    verdict,
    webhook,
)

OF_TRIALS = (lease_trial, trial_artifact, rung, measurement)
OF_JOBS = (webhook, verdict, event, arm)


def delete_job(session: Session, job_id: str, *, project: str) -> None:
    """Delete a job and everything that refers to it; its artifacts are unreferenced then."""
    trials: Select[tuple[str]] = select(trial.c.id).where(
        trial.c.job_id == job_id, trial.c.project == project
    )
    for table in OF_TRIALS:
        session.execute(delete(table).where(table.c.trial_id.in_(trials)))
    session.execute(delete(trial).where(trial.c.job_id == job_id, trial.c.project == project))
    leases = select(lease.c.id).where(lease.c.job_id == job_id, lease.c.project == project)
    session.execute(delete(lease_trial).where(lease_trial.c.lease_id.in_(leases)))
    session.execute(delete(lease).where(lease.c.job_id == job_id, lease.c.project == project))
    for table in OF_JOBS:
        session.execute(delete(table).where(table.c.job_id == job_id, table.c.project == project))
    session.execute(delete(job).where(job.c.id == job_id, job.c.project == project))


def delete_dataset(session: Session, name: str, *, project: str) -> None:
    """Delete a data set; the bytes of an uploaded one are unreferenced then."""
    session.execute(delete(dataset).where(dataset.c.name == name, dataset.c.project == project))


def discard_studies(session: Session, names: Sequence[str], *, project: str) -> None:
    """Note the studies of a deleted job, which Optuna still has."""
    for name in names:
        session.execute(
            insert_or_ignore(session, discarded_study).values(
                name=name, project=project, created_at=now_expression()
            )
        )


def discarded_studies(session: Session) -> list[str]:
    """The names of all studies that Optuna is to delete."""
    return list(session.scalars(select(discarded_study.c.name).order_by(discarded_study.c.name)))


def forget_study(session: Session, name: str) -> None:
    """Optuna has deleted this study."""
    session.execute(delete(discarded_study).where(discarded_study.c.name == name))
