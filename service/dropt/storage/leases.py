"""Leases: a worker's time-limited claim on a pack; and the fence that every report passes."""

import logging
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, NamedTuple

from sqlalchemy import ColumnElement, and_, delete, insert, or_, select, update
from sqlalchemy.orm import Session

from dropt.errors import LeaseLost, NotFound
from dropt.spec.ids import JobId, LeaseId, TrialId, WorkerId, new_id
from dropt.spec.protocol import ReportAnswer, Step
from dropt.spec.results import TrialState
from dropt.storage.clock import epoch_expression, now_expression
from dropt.storage.tables import lease, lease_trial, trial

logger = logging.getLogger(__name__)

LEASE_S = 30.0  # renewed every 10 s: two renewals may be lost before trials are taken over


@dataclass(frozen=True, slots=True)
class LeaseRow:
    """One lease as it is stored; `expires_in_s` is below 0 once it has expired."""

    id: LeaseId
    project: str
    worker_id: WorkerId
    kind: Literal["inspect", "train"]
    job_id: JobId | None
    inspection_id: str | None
    step: Step | None
    slots: int
    is_open: bool
    expires_at: float
    sequence: int
    body_sha256: str | None
    answer: ReportAnswer | None
    created_at: datetime
    expires_in_s: float


class HeldTrial(NamedTuple):
    """A trial that the worker was given, has not ended, and has not lost."""

    id: TrialId
    attempt: int
    state: TrialState  # running | cancelled
    stop_requested: bool


def hold(session: Session, pairs: Collection[tuple[TrialId, int]], *, project: str) -> None:
    """Lock the trials of a report: the fence, and the only one.

    Raises:
        LeaseLost: a trial is not running under that attempt; the error names all such trials.
    """
    held = (
        select(trial.c.id, trial.c.attempt)
        .where(
            trial.c.id.in_({id for id, _ in pairs}),
            trial.c.state == "running",
            trial.c.project == project,
        )
        .order_by(trial.c.id)  # one lock order, or two reports deadlock on PostgreSQL
        .with_for_update()  # no effect on SQLite, where BEGIN IMMEDIATE has the lock
    )
    if lost := set(pairs) - {(id, attempt) for id, attempt in session.execute(held)}:
        raise LeaseLost(sorted({id for id, _ in lost}))
    logger.debug("report.held", extra={"trials": len(pairs)})


def open_lease(
    session: Session,
    worker_id: str,
    kind: Literal["inspect", "train"],
    *,
    project: str,
    job_id: str | None = None,
    inspection_id: str | None = None,
    step: Step | None = None,
    slots: int = 1,
    lease_s: float = LEASE_S,
) -> LeaseRow:
    """Open a lease for this worker; trials are claimed for it next."""
    values = {
        "id": new_id("lea"),
        "project": project,
        "worker_id": worker_id,
        "kind": kind,
        "job_id": job_id,
        "inspection_id": inspection_id,
        "step": step,
        "slots": slots,
        "is_open": True,
        "expires_at": epoch_expression() + lease_s,
        "sequence": 0,
        "created_at": now_expression(),
    }
    row = session.execute(insert(lease).values(values).returning(*_columns())).one()
    return LeaseRow(**row._asdict())


def get(session: Session, lease_id: str, *, project: str, lock: bool = False) -> LeaseRow:
    """The lease of that id; with `lock`, its other reports wait until this transaction ends.

    Raises:
        NotFound: no such lease, or another project's.
    """
    query = select(*_columns()).where(lease.c.id == lease_id, lease.c.project == project)
    row = session.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise NotFound(f"No lease {lease_id}")
    return LeaseRow(**row._asdict())


def list_open(session: Session, *, project: str, worker_id: str) -> list[LeaseRow]:
    """The open leases of a worker, expired ones included, oldest first."""
    wanted = (lease.c.project == project, lease.c.worker_id == worker_id, lease.c.is_open)
    rows = session.execute(select(*_columns()).where(*wanted).order_by(lease.c.id))
    return [LeaseRow(**row._asdict()) for row in rows]


def renew(
    session: Session,
    ids: Collection[str],
    worker_id: str,
    *,
    project: str,
    lease_s: float = LEASE_S,
) -> set[LeaseId]:
    """Extend the open leases of this worker among `ids`, expired ones too; which they were.

    A renewal takes no trial back: what another lease has claimed meanwhile stays there.
    """
    renewed = (
        update(lease)
        .where(lease.c.id.in_(ids), lease.c.project == project, lease.c.is_open)
        .where(lease.c.worker_id == worker_id)
        .values(expires_at=epoch_expression() + lease_s)
        .returning(lease.c.id)
    )
    return {LeaseId(id) for id in session.scalars(renewed)}


def close(session: Session, lease_id: str, *, project: str) -> bool:
    """Close a lease; False when it was closed. Its trials are requeued or ended before."""
    closed = (
        update(lease)
        .where(lease.c.id == lease_id, lease.c.project == project, lease.c.is_open)
        .values(is_open=False, expires_at=epoch_expression())
        .returning(lease.c.id)
    )
    won = session.scalars(closed).one_or_none() is not None
    if won:
        session.execute(delete(lease_trial).where(lease_trial.c.lease_id == lease_id))
    return won


def discard(session: Session, lease_id: str, *, project: str) -> None:
    """Remove a lease for which nothing could be claimed."""
    session.execute(delete(lease).where(lease.c.id == lease_id, lease.c.project == project))


def expire(session: Session, worker_id: str, *, project: str) -> list[LeaseId]:
    """Let the open leases of a worker expire now: its process is known to be gone.

    The next claim takes their trials, and counts a loss for each.
    """
    expired = (
        update(lease)
        .where(lease.c.worker_id == worker_id, lease.c.project == project, lease.c.is_open)
        .values(expires_at=0.0)
        .returning(lease.c.id)
    )
    return [LeaseId(id) for id in sorted(session.scalars(expired))]


def store_answer(
    session: Session,
    lease_id: str,
    sequence: int,
    body_sha256: str,
    answer: ReportAnswer,
    *,
    project: str,
) -> bool:
    """Store the answer to report number `sequence`; False when it is not the next one."""
    stored = (
        update(lease)
        .where(lease.c.id == lease_id, lease.c.project == project)
        .where(lease.c.sequence == sequence - 1)
        .values(sequence=sequence, body_sha256=body_sha256, answer=answer)
        .returning(lease.c.id)
    )
    return session.scalars(stored).one_or_none() is not None


def held_trials(session: Session, lease_id: str, *, project: str) -> list[HeldTrial]:
    """What the worker was given under this lease, has not ended and has not lost, by id."""
    given = (trial.c.id, lease_trial.c.attempt, trial.c.state, trial.c.stop_requested)
    rows = session.execute(
        select(*given)
        .join(trial, lease_trial.c.trial_id == trial.c.id)
        .where(lease_trial.c.lease_id == lease_id, lease_trial.c.project == project, _is_held())
        .order_by(trial.c.id)
    )
    return [HeldTrial(*row) for row in rows]


def lost_trials(session: Session, lease_id: str, *, project: str) -> list[TrialId]:
    """What the worker was given under this lease and has lost to another attempt, by id."""
    rows = session.scalars(
        select(trial.c.id)
        .join(lease_trial, lease_trial.c.trial_id == trial.c.id)
        .where(lease_trial.c.lease_id == lease_id, lease_trial.c.project == project, ~_is_held())
        .order_by(trial.c.id)
    )
    return [TrialId(id) for id in rows]


def _columns() -> tuple[ColumnElement[object], ...]:
    return (*lease.c, (lease.c.expires_at - epoch_expression()).label("expires_in_s"))


def _is_held() -> ColumnElement[bool]:
    is_current = trial.c.attempt == lease_trial.c.attempt
    return and_(is_current, or_(trial.c.state == "running", trial.c.state == "cancelled"))
