"""Inspections: the sites of a model on a data set, looked up once per model, data and setting."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import ColumnElement, Select, and_, or_, select, update

from dropt.errors import NotFound
from dropt.spec.ids import LeaseId, new_id
from dropt.spec.inspection import Inspection
from dropt.spec.protocol import InspectionFailure
from dropt.storage.clock import epoch_expression, now_expression
from dropt.storage.insertion import insert_or_ignore
from dropt.storage.session import Session
from dropt.storage.tables import inspection, lease

MAX_ATTEMPTS = 3  # then the model is taken for one that kills its process


@dataclass(frozen=True, slots=True)
class InspectionRow:
    """One inspection as it is stored."""

    id: str
    project: str
    key: str
    request: dict[str, Any]
    state: Literal["waiting", "running", "done", "failed"]
    attempt: int
    failures: int
    lease_id: LeaseId | None
    result: Inspection | None
    failure: InspectionFailure | None
    created_at: datetime
    finished_at: datetime | None


def find(session: Session, key: str, *, project: str) -> InspectionRow | None:
    """The inspection of that key, whatever its state."""
    query = select(inspection).where(inspection.c.key == key, inspection.c.project == project)
    row = session.execute(query).one_or_none()
    return None if row is None else InspectionRow(**row._asdict())


def get(session: Session, inspection_id: str, *, project: str) -> InspectionRow:
    """The inspection of that id.

    Raises:
        NotFound: no such inspection in this project.
    """
    query = select(inspection).where(*_is(inspection_id, project))
    row = session.execute(query).one_or_none()
    if row is None:
        raise NotFound(f"No inspection {inspection_id}")
    return InspectionRow(**row._asdict())


def request(session: Session, key: str, body: Mapping[str, Any], *, project: str) -> str:
    """The id of the inspection of that key: the one that is there, or a new one that waits.

    One that has failed waits again: the fault may have been the worker's. While it waits, the
    last who asked decides what is stored of the request.
    """
    start = {"state": "waiting", "attempt": 0, "failures": 0}
    session.execute(
        insert_or_ignore(session, inspection).values(
            id=new_id("ins"),
            project=project,
            key=key,
            request=dict(body),
            created_at=now_expression(),
            **start,
        )
    )
    wanted = (inspection.c.key == key, inspection.c.project == project)
    again = update(inspection).where(*wanted, inspection.c.state == "failed")
    session.execute(again.values(failure=None, lease_id=None, finished_at=None, **start))
    waits = update(inspection).where(*wanted, inspection.c.state == "waiting")
    session.execute(waits.values(request=dict(body)))
    id: str = session.scalars(select(inspection.c.id).where(*wanted)).one()
    return id


def list_free(session: Session, *, project: str) -> list[Mapping[str, Any]]:
    """The requests of those that wait or were lost, oldest first."""
    return list(session.scalars(_free(project).with_only_columns(inspection.c.request)))


def claim(
    session: Session,
    lease_id: str,
    accepts: Callable[[Mapping[str, Any]], bool],
    *,
    project: str,
) -> InspectionRow | None:
    """Take the oldest inspection that waits or was lost, and that the worker can do.

    `accepts` is asked with the request. One that was lost too often fails: `worker-lost`.
    """
    for row in session.execute(_free(project)).all():
        if row.state == "running" and row.attempt >= MAX_ATTEMPTS:
            _end_lost(session, row.id, row.attempt)
        elif accepts(row.request):
            claimed = _start(session, row.id, row.attempt, lease_id)
            if claimed is not None:
                return claimed
    return None


def finish(
    session: Session,
    inspection_id: str,
    lease_id: str,
    outcome: Inspection | InspectionFailure,
    *,
    project: str,
) -> bool:
    """Store what was found, or why nothing was; False when the lease no longer has it."""
    is_found = isinstance(outcome, Inspection)
    ended = (
        update(inspection)
        .where(*_is(inspection_id, project), *_runs_under(lease_id))
        .values(
            state="done" if is_found else "failed",
            result=outcome if is_found else None,
            failure=None if is_found else outcome,
            finished_at=now_expression(),
        )
        .returning(inspection.c.id)
    )
    return session.scalars(ended).one_or_none() is not None


def requeue(
    session: Session, inspection_id: str, lease_id: str, *, project: str, failed: bool = False
) -> bool:
    """Let it wait again: given back or, with `failed`, to be tried once more."""
    changed = (
        update(inspection)
        .where(*_is(inspection_id, project), *_runs_under(lease_id))
        .values(
            state="waiting",
            lease_id=None,
            attempt=inspection.c.attempt - int(not failed),
            failures=inspection.c.failures + int(failed),
        )
        .returning(inspection.c.id)
    )
    return session.scalars(changed).one_or_none() is not None


def _is(inspection_id: str, project: str) -> tuple[ColumnElement[bool], ...]:
    return (inspection.c.id == inspection_id, inspection.c.project == project)


def _runs_under(lease_id: str) -> tuple[ColumnElement[bool], ...]:
    return (inspection.c.state == "running", inspection.c.lease_id == lease_id)


def _free(project: str) -> Select[Any]:
    """Those that wait or were lost, oldest first."""
    is_lost = and_(inspection.c.state == "running", lease.c.expires_at < epoch_expression())
    return (
        select(inspection)
        .outerjoin(lease, inspection.c.lease_id == lease.c.id)
        .where(inspection.c.project == project, or_(inspection.c.state == "waiting", is_lost))
        .order_by(inspection.c.created_at, inspection.c.id)
    )


def _start(session: Session, id: str, attempt: int, lease_id: str) -> InspectionRow | None:
    """None when another claim was first: it has raised the attempt."""
    started = (
        update(inspection)
        .where(inspection.c.id == id, inspection.c.attempt == attempt)
        .where(inspection.c.state.in_(("waiting", "running")))
        .values(state="running", attempt=attempt + 1, lease_id=lease_id)
        .returning(*inspection.c)
    )
    row = session.execute(started).one_or_none()
    return None if row is None else InspectionRow(**row._asdict())


def _end_lost(session: Session, id: str, attempt: int) -> None:
    failure = InspectionFailure(
        reason="worker-lost", detail=f"lost {attempt} times: the worker died or fell silent"
    )
    session.execute(
        update(inspection)
        .where(inspection.c.id == id, inspection.c.attempt == attempt)
        .where(inspection.c.state == "running")
        .values(state="failed", failure=failure, finished_at=now_expression())
    )
