"""Events: the history of a job, in the order of insertion."""

from collections.abc import Collection
from typing import Any

from sqlalchemy import insert, select, update
from sqlalchemy.orm import Session

from dropt.errors import NotFound
from dropt.spec.results import EventRead
from dropt.storage.clock import now_expression
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
    each other, so an event is never seen before the one that precedes it.

    Raises:
        NotFound: no such job in this project.
    """
    sequence: int | None = session.scalars(
        update(job)
        .where(job.c.id == job_id, job.c.project == project)
        .values(event_sequence=job.c.event_sequence + 1)
        .returning(job.c.event_sequence)
    ).one_or_none()
    if sequence is None:
        raise NotFound(f"No job {job_id}")
    session.execute(
        insert(event).values(
            job_id=job_id,
            sequence=sequence,
            project=project,
            type=type,
            trial_id=trial,
            attempt=attempt,
            data=data,
            at=now_expression(),
        )
    )
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
    return [
        EventRead(
            sequence=row.sequence,
            type=row.type,
            at=row.at,
            job=row.job_id,
            trial=row.trial_id,
            attempt=row.attempt,
            data=row.data,
        )
        for row in rows
    ]
