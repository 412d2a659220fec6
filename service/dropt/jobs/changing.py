"""What of a job may change at any time: its name, labels, priority and listener."""

from typing import Any

from dropt.errors import StaleRevision
from dropt.jobs.listeners import check_listener
from dropt.jobs.reading import job_read
from dropt.spec.changes import JobChange
from dropt.spec.results import JobRead
from dropt.storage import jobs
from dropt.tuning.service import Service


def change(
    service: Service, job_id: str, wanted: JobChange, *, project: str, revision: int | None = None
) -> JobRead:
    """Change what is named, if the job still has this revision.

    Raises:
        StaleRevision: it has another.
        InvalidRequest: webhooks may not go to the listener.
        NotFound: no such job.
    """
    values = _columns(service, wanted)
    with service.database.writing() as session:
        job = jobs.lock(session, job_id, project=project)
        if revision is not None and revision != job.revision:
            raise StaleRevision(
                f"Job {job_id} has revision {job.revision}, not {revision}; read it again",
                members={"revision": job.revision},
            )
        if values:
            jobs.update(session, job_id, project=project, **values)
        answer = job_read(session, jobs.get(session, job_id, project=project))
    service.wake.set()
    return answer


def _columns(service: Service, wanted: JobChange) -> dict[str, Any]:
    named = wanted.model_fields_set
    values: dict[str, Any] = {
        field: getattr(wanted, field)
        for field in ("name", "labels", "priority")
        if field in named and getattr(wanted, field) is not None
    }
    if "notify" in named:
        if wanted.notify is None:
            return values | {"notify": None, "notify_secret": None}
        check_listener(service.webhooks, wanted.notify)
        values |= {"notify": wanted.notify.listener(), "notify_secret": wanted.notify.secret}
    return values
