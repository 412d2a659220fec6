"""Trials and what Optuna knows of them: its studies mirror the tables, a moment later."""

from sqlalchemy import select, update

from dropt.spec.ids import JobId
from dropt.spec.results import TrialState
from dropt.storage.session import Session
from dropt.storage.tables import trial
from dropt.storage.trial_rows import TrialRow


def unmirrored(session: Session, job_id: str, limit: int, *, project: str) -> list[TrialRow]:
    """At most `limit` search trials whose state Optuna has not been told, by arm and number."""
    wanted = (
        trial.c.job_id == job_id,
        trial.c.project == project,
        trial.c.phase == "search",
        trial.c.mirrored.is_distinct_from(trial.c.state),
    )
    in_order = (trial.c.arm, trial.c.number)
    rows = session.execute(select(trial).where(*wanted).order_by(*in_order).limit(limit))
    return [TrialRow(**row._asdict()) for row in rows]


def unmirrored_jobs(session: Session) -> list[tuple[str, JobId]]:
    """(project, job) of all jobs with a search trial whose state Optuna has not been told."""
    is_behind = trial.c.mirrored.is_distinct_from(trial.c.state)
    jobs = select(trial.c.project, trial.c.job_id).where(trial.c.phase == "search", is_behind)
    return [(project, job_id) for project, job_id in session.execute(jobs.distinct())]


def set_mirrored(
    session: Session, trial_id: str, optuna_id: int, state: TrialState, *, project: str
) -> None:
    """Note that Optuna knows the trial under `optuna_id` in this state."""
    session.execute(
        update(trial)
        .where(trial.c.id == trial_id, trial.c.project == project)
        .values(optuna_id=optuna_id, mirrored=state)
    )
