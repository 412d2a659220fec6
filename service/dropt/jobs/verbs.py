"""What a user does with jobs: submit, pause, resume, stop and cancel."""

import logging
from collections.abc import Mapping
from functools import partial

from dropt.errors import BadState, JobAlreadyFinished
from dropt.jobs.extending import is_retryable, retry
from dropt.jobs.listeners import check_listener
from dropt.jobs.quotas import admit_job
from dropt.jobs.reading import job_read
from dropt.jobs.replaying import once
from dropt.jobs.submission import resolve_known, warnings_of
from dropt.spec.job import DatasetRef, JobCreate, ModelRef
from dropt.spec.results import JobRead, JobState, StopRequest
from dropt.storage import datasets, events, jobs
from dropt.storage.clock import now, now_expression
from dropt.storage.jobs import JobRow
from dropt.storage.session import Session
from dropt.tuning.ending import drop_open_trials, finish
from dropt.tuning.phases import close_budgets
from dropt.tuning.service import Idempotency, Service

logger = logging.getLogger(__name__)

IDLE: tuple[JobState, ...] = ("queued", "paused")  # no worker needs to hear of a cancellation
CANCELLABLE: tuple[JobState, ...] = (*IDLE, "running", "stopping")
ALLOWED: Mapping[JobState, tuple[str, ...]] = {
    "queued": ("pause", "cancel", "extend", "clone", "delete"),
    "running": ("pause", "stop", "cancel", "extend", "clone"),
    "paused": ("resume", "stop", "cancel", "extend", "clone"),
    "stopping": ("cancel", "clone"),
    "cancelling": ("clone",),
    "succeeded": ("extend", "clone", "delete"),
    "failed": ("clone", "delete"),
    "cancelled": ("clone", "delete"),
}


def submit(
    service: Service,
    body: JobCreate,
    *,
    project: str,
    key: Idempotency | None = None,
    origin: JobRow | None = None,
) -> tuple[JobRead, bool]:
    """Queue a job; it starts when a worker is free. The flag says that this is a replay.

    `origin` is the job that it is a clone of; a clone that names no listener takes its listener.

    Raises:
        InvalidRequest: a name that nobody offers, or a choice that does not fit the data.
        QuotaExceeded: too many jobs wait, or they have too many trials.
        IdempotencyKeyReused: the key came with another body.
    """
    with service.database.writing() as session:
        work = partial(_insert, session, service, body, project=project, origin=origin)
        answer, is_replay = once(session, key, work, project=project)
    if not is_replay:
        logger.debug("job.stored", extra={"job": answer.id})
        service.wake.set()
    return answer, is_replay


def pause(service: Service, job_id: str, *, project: str) -> tuple[JobRead, bool]:
    """Start no new trials; running ones finish. The flag says whether this changed anything.

    Raises:
        BadState: it ends, or has ended.
        NotFound: no such job.
    """
    with service.database.writing() as session:
        job = jobs.lock(session, job_id, project=project)
        if job.state == "paused":
            return job_read(session, job), False
        require(job, "pause", ("queued", "running"))
        return _move(
            session, job, "paused", paused_at=now_expression(), reason="Paused by its user."
        ), True  # fmt: skip


def resume(service: Service, job_id: str, *, project: str) -> tuple[JobRead, bool]:
    """Go on with a job that was paused, or that failed in a way that going on can help.

    Raises:
        BadState: it ends, or has ended for good.
        NotFound: no such job.
    """
    with service.database.writing() as session:
        job = jobs.lock(session, job_id, project=project)
        if job.state in ("queued", "running"):
            return job_read(session, job), False
        if is_retryable(job):
            retry(session, job)
            answer = job_read(session, jobs.get(session, job_id, project=project))
        else:
            require(job, "resume", ("paused",))
            answer = _move(
                session, job, "running" if job.started_at else "queued", reason=None,
                paused_at=None, paused_seconds=job.paused_seconds + _pause_s(session, job),
            )  # fmt: skip
    service.forget(job.id)
    service.wake.set()
    return answer, True


def stop(
    service: Service, job_id: str, *, project: str, evidence: bool = True
) -> tuple[JobRead, bool]:
    """End the search now and decide with what there is; without `evidence`, decide nothing.

    In the evidence, the seeds of the current look are the last ones.

    Raises:
        BadState: it has not started, or is being cancelled.
        JobAlreadyFinished: it has ended otherwise.
        NotFound: no such job.
    """
    with service.database.writing() as session:
        job = jobs.lock(session, job_id, project=project)
        if job.state == "stopping" or (job.state == "succeeded" and job.stop is not None):
            return job_read(session, job), False
        if job.is_done:
            raise _finished(job, "stop")
        require(job, "stop", ("running", "paused"))
        if job.phase is None:
            raise bad_state(job, "stop")
        if job.phase == "search":
            close_budgets(session, job, reason="stopped")
        elif not evidence:
            drop_open_trials(session, job)
        answer = _move(
            session, job, "stopping", stop=StopRequest(phase=job.phase, evidence=evidence),
            reason="Stopped by its user; what runs may end.", paused_at=None,
            paused_seconds=job.paused_seconds + _pause_s(session, job),
        )  # fmt: skip
    service.wake.set()
    return answer, True


def cancel(
    service: Service, job_id: str, *, project: str, reason: str | None = None
) -> tuple[JobRead, bool]:
    """Drop the running trials of a job at once; results so far are kept.

    The flag says whether this call changed anything.

    Raises:
        JobAlreadyFinished: it succeeded or failed.
        NotFound: no such job.
    """
    with service.database.writing() as session:
        job = jobs.lock(session, job_id, project=project)
        if job.state in ("succeeded", "failed"):
            raise _finished(job, "cancel")
        is_new = job.state in CANCELLABLE
        if is_new:
            _move(session, job, "cancelling", why=reason, reason=reason)
            drop_open_trials(session, job)
        job_now = jobs.get(session, job_id, project=project)
    if job.state in IDLE:
        finish(service, job_now, None, state="cancelled", ended_by="cancelled")
    service.wake.set()
    with service.database.reading() as session:
        return job_read(session, jobs.get(session, job_id, project=project)), is_new


def require(job: JobRow, verb: str, states: tuple[JobState, ...]) -> None:
    """Raise BadState unless the job is in one of these states."""
    if job.state not in states:
        raise bad_state(job, verb)


def bad_state(job: JobRow, verb: str) -> BadState:
    """The error that names the state, and what is possible in it."""
    allowed = [*ALLOWED[job.state], *(["resume", "extend"] if is_retryable(job) else [])]
    return BadState(
        f"Job {job.id} is {job.state}, which allows no {verb}; possible: {', '.join(allowed)}",
        members={"state": job.state, "allowed": allowed},
    )


def _finished(job: JobRow, verb: str) -> JobAlreadyFinished:
    return JobAlreadyFinished(
        f"Job {job.id} has {job.state}; there is nothing left to {verb}",
        members={"state": job.state},
    )


def _move(
    session: Session, job: JobRow, state: JobState, *, why: str | None = None, **values: object
) -> JobRead:
    jobs.update(session, job.id, project=job.project, state=state, **values)
    events.record(session, job.id, "job.state", project=job.project, state=state, reason=why)
    return job_read(session, jobs.get(session, job.id, project=job.project))


def _pause_s(session: Session, job: JobRow) -> float:
    """How long the pause has lasted that ends now."""
    if job.paused_at is None or job.started_at is None:
        return 0.0
    return (now(session) - job.paused_at).total_seconds()


def _insert(
    session: Session, service: Service, body: JobCreate, *, project: str, origin: JobRow | None
) -> JobRead:
    spec = resolve_known(session, body, project=project)
    admit_job(session, service.quotas, spec, project=project)
    offer = datasets.get(session, spec.dataset.name, project=project).offer
    warnings = warnings_of(offer, spec)
    job = jobs.insert(
        session, spec, project=project, name=body.name or _name(body), labels=body.labels,
        priority=body.priority, warnings=warnings,
        reason=f"Waiting for a worker that offers model '{spec.model.name}'.",
        cloned_from=origin and origin.id, **_listener(service, body, origin),
    )  # fmt: skip
    events.record(session, job.id, "job.state", project=project, state="queued")
    for warning in warnings:
        events.record(session, job.id, "warning", project=project, message=warning)
    return job_read(session, jobs.get(session, job.id, project=project))


def _listener(service: Service, body: JobCreate, origin: JobRow | None) -> dict[str, object]:
    """The columns of the listener: as named, or those of the job that is cloned."""
    if body.notify is not None:
        check_listener(service.webhooks, body.notify)
        return {"notify": body.notify.listener(), "notify_secret": body.notify.secret}
    if origin is None:
        return {}
    return {"notify": origin.notify, "notify_secret": origin.notify_secret}


def _name(body: JobCreate) -> str:
    model = body.model.name if isinstance(body.model, ModelRef) else body.model
    data = body.dataset.name if isinstance(body.dataset, DatasetRef) else body.dataset
    return f"{model} on {data}"[:200]
