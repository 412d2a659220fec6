"""What is new about a job, for a reader that follows it."""

from dataclasses import dataclass

from dropt.errors import NotFound
from dropt.jobs.reading import best_trials, progress
from dropt.spec.results import EventRead, EvidenceProgress, Progress
from dropt.storage import arms, events, jobs, trials
from dropt.storage.jobs import JobRow
from dropt.storage.session import Session
from dropt.tuning.service import Service

NOTHING = Progress(fraction=0.0, arms=(), evidence=EvidenceProgress())


@dataclass(frozen=True)
class News:
    """The events after those that a reader has, and how far the job is.

    `is_complete`: there are no others now. `is_over`: there will be none.
    """

    job: str
    events: list[EventRead]
    progress: Progress
    is_complete: bool
    is_over: bool


def news(service: Service, job_id: str, *, project: str, after: int, limit: int) -> News:
    """At most `limit` events after a sequence, and the progress, as of one moment.

    A job that was deleted meanwhile is over, without an event that says so.
    """
    with service.database.reading() as session:
        try:
            job = jobs.get(session, job_id, project=project)
        except NotFound:
            return News(job_id, [], NOTHING, is_complete=True, is_over=True)
        found = events.list_after(session, job_id, project=project, after=after, limit=limit)
        is_complete = len(found) < limit
        return News(
            job_id, found, _progress(session, job) if is_complete else NOTHING,
            is_complete=is_complete, is_over=is_complete and job.is_done,
        )  # fmt: skip


def _progress(session: Session, job: JobRow) -> Progress:
    counts = trials.counts(session, job.id, project=job.project)
    of_job = arms.list_of(session, job.id, project=job.project)
    return progress(job, of_job, counts, best_trials(session, job))
