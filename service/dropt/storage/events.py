"""Events: the history of a job, in the order of insertion."""

from collections.abc import Collection
from typing import Any

from sqlalchemy import Row, bindparam, insert, select, update

from dropt.errors import NotFound
from dropt.spec.results import EventRead
from dropt.storage import webhooks
from dropt.storage.clock import now_expression
from dropt.storage.session import Session
from dropt.storage.tables import event, job


def record(
    session: Session,
    job_id: str,
    type: str,
    *,
    project: str,
    trial: str | None = None,
    attempt: int | None = None,
    **data: Any,
) -> int:
    """Append an event and return its sequence, from 1 without gaps.

    The counter is a column of the job: transactions that write events of one job wait for
    each other, so an event is never seen before the one that precedes it. What the listener of
    the job is to be told is stored in the same transaction.

    Raises:
        NotFound: no such job in this project.
    """
    found = session.execute(_COUNT, {"of_job": job_id, "of_project": project}).one_or_none()
    if found is None:
        raise NotFound(f"No job {job_id}")
    sequence: int = found.event_sequence
    written = {
        "job_id": job_id, "sequence": sequence, "project": project, "type": type,
        "trial_id": trial, "attempt": attempt, "data": data,
    }  # fmt: skip
    session.execute(_APPEND, written)
    if found.notify is not None and type in found.notify.events:
        webhooks.add(session, job_id, sequence, project=project)
    return sequence


def list_after(
    session: Session,
    job_id: str,
    *,
    project: str,
    limit: int,
    after: int = 0,
    types: Collection[str] = (),
) -> list[EventRead]:
    """At most `limit` events of the job with a sequence above `after`, oldest first."""
    wanted = [event.c.job_id == job_id, event.c.project == project, event.c.sequence > after]
    if types:
        wanted.append(event.c.type.in_(types))
    rows = session.execute(select(event).where(*wanted).order_by(event.c.sequence).limit(limit))
    return [_read(row) for row in rows]


def get(session: Session, job_id: str, sequence: int, *, project: str) -> EventRead:
    """One event of a job.

    Raises:
        NotFound: no such event in this project.
    """
    wanted = (event.c.job_id == job_id, event.c.project == project, event.c.sequence == sequence)
    row = session.execute(select(event).where(*wanted)).one_or_none()
    if row is None:
        raise NotFound(f"No event {sequence} of job {job_id}")
    return _read(row)


def _read(row: Row[Any]) -> EventRead:
    return EventRead(
        sequence=row.sequence,
        type=row.type,
        at=row.at,
        job=row.job_id,
        trial=row.trial_id,
        attempt=row.attempt,
        data=row.data,
    )


# Built once: to build such a statement takes as long as to carry it out.
_COUNT = (
    update(job)
    .where(job.c.id == bindparam("of_job"), job.c.project == bindparam("of_project"))
    .values(event_sequence=job.c.event_sequence + 1)
    .returning(job.c.event_sequence, job.c.notify)
)
_APPEND = insert(event).values(at=now_expression())
