"""The end of a job: succeeded with a verdict, failed with a reason, or cancelled."""

import logging

from dropt.spec.results import WORKING, EndedBy, Failure, JobState, VerdictRead
from dropt.storage import arms, events, jobs, trials
from dropt.storage.clock import now_expression
from dropt.storage.jobs import JobRow
from dropt.storage.session import Session
from dropt.tuning.service import Service

logger = logging.getLogger(__name__)

RETRYABLE = ("max_failed_trials",)  # going on can help: the user allows as many failures again


def finish(
    service: Service,
    job: JobRow,
    verdict: VerdictRead | None,
    *,
    state: JobState = "succeeded",
    ended_by: EndedBy = "budget",
    failure: Failure | None = None,
) -> None:
    """End a job once; its open trials are cancelled, its samplers forgotten.

    What its user has cancelled meanwhile ends as cancelled, whatever else was about to be said;
    of a job that was stopped that is said, and the verdict of an earlier attempt stays on failure.
    """
    answer = {} if verdict is None else {"verdict": verdict, "verdict_word": verdict.verdict}
    reason = job.reason if state == "cancelled" else failure and failure.message
    from_: tuple[JobState, ...] = ("cancelling",) if state == "cancelled" else ("queued", *WORKING)
    with service.job_lock(job.id), service.database.writing() as session:
        current = jobs.lock(session, job.id, project=job.project)
        if state != "cancelled" and not current.has_aims_of(job):
            return  # it was extended or stopped meanwhile: the next step decides anew
        told = current.verdict
        if state == "succeeded" and current.stop is not None:
            ended_by = "stopped"
        moved = jobs.move(
            session, job.id, project=job.project, from_=from_, state=state, phase=None,
            ended_by=ended_by, failure=failure, reason=reason, finished_at=now_expression(),
            **answer,
        )  # fmt: skip
        if not moved:
            return
        drop_open_trials(session, job)
        if verdict is not None and not _is_told(verdict, told):
            events.record(
                session, job.id, "verdict.updated", project=job.project, verdict=verdict.verdict,
                provisional=False,
            )  # fmt: skip
        events.record(
            session, job.id, "job.finished", project=job.project, state=state, ended_by=ended_by
        )
    service.forget(job.id)
    logger.info("job.finished", extra={"job": job.id, "state": state})


def _is_told(verdict: VerdictRead, told: VerdictRead | None) -> bool:
    """Whether the look that gave this verdict has told it."""
    return told is not None and not told.provisional and told.attempt == verdict.attempt


def fail(service: Service, job: JobRow, reason: str, message: str) -> None:
    """End a job as failed, for a reason that its user reads."""
    failure = Failure(reason=reason, message=message, retryable=reason in RETRYABLE)
    finish(service, job, None, state="failed", ended_by="failure", failure=failure)


def drop_open_trials(session: Session, job: JobRow) -> None:
    """Cancel what waits or runs, and give up the rest of the budgets."""
    for row in trials.cancel_open(session, job.id, project=job.project):
        events.record(
            session, job.id, "trial.cancelled", project=job.project, trial=row.id,
            attempt=row.attempt,
        )  # fmt: skip
    for arm in arms.list_of(session, job.id, project=job.project):
        arms.close(session, job.id, arm.arm, project=job.project)
