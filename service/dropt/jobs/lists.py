"""Reads of one project: jobs, arms, trials, events, and the answers of finished jobs."""

from collections.abc import Collection
from contextlib import suppress
from datetime import datetime

from dropt.errors import NoResultYet
from dropt.jobs.answers import best_of, verdict_of
from dropt.jobs.reading import arm_read, best_trials, job_read, job_summary, trial_read
from dropt.spec.results import (
    FINAL_JOB_STATES,
    ArmRead,
    BestRead,
    EventRead,
    JobRead,
    JobState,
    JobSummary,
    TrialPhase,
    TrialRead,
    TrialState,
    VerdictRead,
)
from dropt.storage import arms as stored_arms
from dropt.storage import events as stored_events
from dropt.storage import jobs as stored_jobs
from dropt.storage import measurements
from dropt.storage import trials as stored_trials
from dropt.tuning.service import Service

Mark = tuple[datetime, str]  # (created_at, id) of the last item of the page before
ValueMark = tuple[float | None, str]  # (number or value, id)


def read_job(service: Service, job_id: str, *, project: str) -> JobRead:
    """One job. Raises NotFound."""
    with service.database.reading() as session:
        return job_read(session, stored_jobs.get(session, job_id, project=project))


def revision(service: Service, job_id: str, *, project: str) -> int:
    """The revision of a job, for `ETag`. Raises NotFound."""
    with service.database.reading() as session:
        return stored_jobs.get(session, job_id, project=project).revision


def list_jobs(
    service: Service,
    *,
    project: str,
    limit: int,
    state: Collection[JobState] = (),
    model: str | None = None,
    dataset: str | None = None,
    label: Collection[tuple[str, str]] = (),
    created_after: datetime | None = None,
    after: Mark | None = None,
) -> list[JobSummary]:
    """At most `limit` jobs, newest first."""
    with service.database.reading() as session:
        rows = stored_jobs.list_page(
            session, project=project, limit=limit, state=state, model=model, dataset=dataset,
            label=label, created_after=created_after, after=after,
        )  # fmt: skip
        return [job_summary(session, row) for row in rows]


def verdict(service: Service, job_id: str, *, project: str) -> VerdictRead:
    """The verdict of a job. Raises NotFound, NoResultYet."""
    with service.database.reading() as session:
        return verdict_of(stored_jobs.get(session, job_id, project=project))


def best(service: Service, job_id: str, *, project: str, top: int = 0) -> BestRead:
    """What to use. Raises NotFound, NoResultYet."""
    with service.database.reading() as session:
        return best_of(session, stored_jobs.get(session, job_id, project=project), top=top)


def list_best(
    service: Service,
    *,
    project: str,
    limit: int,
    model: str | None = None,
    dataset: str | None = None,
    after: Mark | None = None,
) -> list[tuple[BestRead, Mark]]:
    """Recommended configurations of finished jobs with a verdict, newest first, with marks."""
    found: list[tuple[BestRead, Mark]] = []
    with service.database.reading() as session:
        while len(found) < limit:
            rows = stored_jobs.list_page(
                session, project=project, limit=limit, state=FINAL_JOB_STATES, model=model,
                dataset=dataset, after=after, has_verdict=True,
            )  # fmt: skip
            for row in rows:
                after = (row.created_at, row.id)
                with suppress(NoResultYet):  # a job that ended before any trial completed
                    found.append((best_of(session, row, top=0), after))
            if len(rows) < limit:
                break
    return found[:limit]


def arms(service: Service, job_id: str, *, project: str) -> list[ArmRead]:
    """The arms of a job in the order of its spec. Raises NotFound."""
    with service.database.reading() as session:
        job = stored_jobs.get(session, job_id, project=project)
        rows = {row.arm: row for row in stored_arms.list_of(session, job_id, project=project)}
        counts = stored_trials.counts(session, job_id, project=project)
        top = best_trials(session, job)
        used = measurements.consumed(session, job_id, project=project)
        return [
            arm_read(
                rows[arm], counts, top.get(arm),
                sum(one.device_seconds for (of, _), one in used.items() if of == arm),
            )
            for arm in job.spec.compare.arms
            if arm in rows
        ]  # fmt: skip


def trials(
    service: Service,
    job_id: str,
    *,
    project: str,
    limit: int,
    by_value: bool = False,
    descending: bool = False,
    after: ValueMark | None = None,
    arm: str | None = None,
    phase: TrialPhase | None = None,
    states: Collection[TrialState] = (),
) -> list[TrialRead]:
    """At most `limit` trials of a job. Raises NotFound."""
    with service.database.reading() as session:
        stored_jobs.get(session, job_id, project=project)
        rows = stored_trials.list_page(
            session, job_id, project=project, limit=limit,
            order_by="value" if by_value else "number", descending=descending, after=after,
            arm=arm, phase=phase, states=states,
        )  # fmt: skip
        return [trial_read(row) for row in rows]


def events(
    service: Service,
    job_id: str,
    *,
    project: str,
    limit: int,
    after: int = 0,
    types: Collection[str] = (),
) -> list[EventRead]:
    """At most `limit` events of a job after a sequence. Raises NotFound."""
    with service.database.reading() as session:
        stored_jobs.get(session, job_id, project=project)
        return stored_events.list_after(
            session, job_id, project=project, after=after, types=types, limit=limit
        )
