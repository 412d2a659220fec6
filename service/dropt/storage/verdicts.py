"""Looks at the evidence: what each saw and decided, never changed."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import insert, select

from dropt.spec.ids import JobId
from dropt.storage.clock import now_expression
from dropt.storage.session import Session
from dropt.storage.tables import verdict


@dataclass(frozen=True, slots=True)
class LookRow:
    """One look as it is stored; looks count from 1 in each attempt at a verdict."""

    job_id: JobId
    attempt: int
    look: int
    project: str
    decision: str
    result: dict[str, Any]
    created_at: datetime


def add_look(
    session: Session,
    job_id: str,
    attempt: int,
    look: int,
    decision: str,
    result: object,
    *,
    project: str,
) -> None:
    """Store a look; `result` is any value that pydantic writes as a JSON object.

    Storing the same look twice is an error of the caller and rolls its transaction back.
    """
    session.execute(
        insert(verdict).values(
            job_id=job_id,
            attempt=attempt,
            look=look,
            project=project,
            decision=decision,
            result=result,
            created_at=now_expression(),
        )
    )


def list_looks(
    session: Session, job_id: str, *, project: str, attempt: int | None = None
) -> list[LookRow]:
    """The looks of a job, in order; of one attempt when it is named."""
    wanted = [verdict.c.job_id == job_id, verdict.c.project == project]
    if attempt is not None:
        wanted.append(verdict.c.attempt == attempt)
    in_order = (verdict.c.attempt, verdict.c.look)
    rows = session.execute(select(verdict).where(*wanted).order_by(*in_order))
    return [LookRow(**row._asdict()) for row in rows]
