"""What a user does with jobs: submit and cancel."""

import logging

from dropt.errors import JobAlreadyFinished, QuotaExceeded
from dropt.jobs.reading import job_read
from dropt.jobs.submission import resolve_known, warnings_of
from dropt.spec.job import DatasetRef, JobCreate, ModelRef
from dropt.spec.results import JobRead, JobState
from dropt.storage import datasets, events, idempotency, jobs
from dropt.storage.session import Session
from dropt.tuning.ending import drop_open_trials
from dropt.tuning.service import Idempotency, Service

logger = logging.getLogger(__name__)

MAX_QUEUED = 100  # jobs of a project that wait for a worker
CANCELLABLE: tuple[JobState, ...] = ("queued", "running")


def submit(
    service: Service, body: JobCreate, *, project: str, key: Idempotency | None = None
) -> tuple[JobRead, bool]:
    """Queue a job; it starts when a worker is free. The flag says that this is a replay.

    Raises:
        InvalidRequest: a name that nobody offers, or a choice that does not fit the data.
        QuotaExceeded: too many jobs wait.
        IdempotencyKeyReused: the key came with another body.
    """
    with service.database.writing() as session:
        if key is not None:
            known = idempotency.reserve(
                session, key.path, key.key, key.body_sha256, project=project
            )
            if known is not None:
                return JobRead.model_validate(known.answer), True
        answer = _insert(session, body, project=project)
        if key is not None:
            idempotency.store(
                session, key.path, key.key, key.body_sha256, 202,
                {"Location": f"/v1/jobs/{answer.id}"},
                answer.model_dump(mode="json", by_alias=True), project=project,
            )  # fmt: skip
    logger.debug("job.stored", extra={"job": answer.id})
    service.wake.set()
    return answer, False


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
            raise JobAlreadyFinished(
                f"Job {job_id} has {job.state}; there is nothing left to cancel",
                members={"state": job.state},
            )
        moved = jobs.move(
            session, job_id, project=project, from_=CANCELLABLE, state="cancelling",
            reason=reason,
        )  # fmt: skip
        if moved:
            drop_open_trials(session, job)
            events.record(
                session, job_id, "job.state", project=project, state="cancelling", reason=reason
            )
        answer = job_read(session, jobs.get(session, job_id, project=project))
    service.wake.set()
    return answer, moved


def _insert(session: Session, body: JobCreate, *, project: str) -> JobRead:
    spec = resolve_known(session, body, project=project)
    if jobs.count(session, project=project, state=["queued"]) >= MAX_QUEUED:
        raise QuotaExceeded(
            f"{MAX_QUEUED} jobs of this project wait already; cancel some, or start workers",
            members={"limit": MAX_QUEUED},
        )
    offer = datasets.get(session, spec.dataset.name, project=project).offer
    job = jobs.insert(
        session, spec, project=project, name=body.name or _name(body), labels=body.labels,
        priority=body.priority, warnings=warnings_of(offer, spec),
        reason=f"Waiting for a worker that offers model '{spec.model.name}'.",
    )  # fmt: skip
    events.record(session, job.id, "job.state", project=project, state="queued")
    return job_read(session, job)


def _name(body: JobCreate) -> str:
    model = body.model.name if isinstance(body.model, ModelRef) else body.model
    data = body.dataset.name if isinstance(body.dataset, DatasetRef) else body.dataset
    return f"{model} on {data}"[:200]
