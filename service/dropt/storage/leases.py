"""Leases: a worker's time-limited claim on a pack; and the fence that every report passes."""

import logging
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Float,
    and_,
    bindparam,
    delete,
    func,
    insert,
    or_,
    select,
    tuple_,
    update,
)

from dropt.errors import LeaseLost, NotFound
from dropt.spec.ids import JobId, LeaseId, TrialId, WorkerId, new_id
from dropt.spec.protocol import ReportAnswer, Step
from dropt.spec.results import TrialState
from dropt.storage.clock import epoch_expression, now_expression
from dropt.storage.session import Session
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


class Loser(NamedTuple):
    """A lease that has lost trials to others."""

    lease_id: LeaseId
    worker_id: WorkerId
    n_trials: int


class Given(NamedTuple):
    """The trials that a worker was given and has not ended: its own, and those of others now."""

    held: list[HeldTrial]
    lost: list[TrialId]


def hold(session: Session, pairs: Collection[tuple[TrialId, int]], *, project: str) -> None:
    """Lock the trials of a report: the fence, and the only one.

    Raises:
        LeaseLost: a trial is not running under that attempt; the error names all such trials.
    """
    wanted = {"ids": [id for id, _ in pairs], "of_project": project}
    if lost := set(pairs) - {(id, attempt) for id, attempt in session.execute(_HOLD, wanted)}:
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
    wanted = {"of_lease": lease_id, "of_project": project}
    row = session.execute(_LOCKED if lock else _ONE, wanted).one_or_none()
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
    renew_s: float | None = None,
) -> bool:
    """Store the answer to report number `sequence`; False when it is not the next one.

    With `renew_s` the lease is renewed for that long in the same statement.
    """
    values = {
        "of_lease": lease_id, "of_project": project, "before": sequence - 1, "sequence": sequence,
        "body_sha256": body_sha256, "answer": answer,
    }  # fmt: skip
    if renew_s is None:
        return session.scalars(_ANSWER, values).one_or_none() is not None
    return session.scalars(_ANSWER_AND_RENEW, values | {"renew_s": renew_s}).first() is not None


def held_trials(session: Session, lease_id: str, *, project: str) -> list[HeldTrial]:
    """What the worker was given under this lease, has not ended and has not lost, by id."""
    return given_trials(session, lease_id, project=project).held


def given_trials(session: Session, lease_id: str, *, project: str) -> Given:
    """What the worker was given under this lease and has not ended, by id."""
    rows = session.execute(_GIVEN, {"of_lease": lease_id, "of_project": project}).all()
    return Given(
        held=[HeldTrial(*row[:4]) for row in rows if row.is_held],
        lost=[row.id for row in rows if not row.is_held],
    )


def losers(
    session: Session, pairs: Collection[tuple[TrialId, int]], *, project: str
) -> list[Loser]:
    """The leases under which the attempt before each of these (trial, attempt) was lost."""
    earlier = {(id, attempt - 1) for id, attempt in pairs}
    rows = session.execute(
        select(lease_trial.c.lease_id, lease.c.worker_id, func.count())
        .join(lease, lease.c.id == lease_trial.c.lease_id)
        .where(tuple_(lease_trial.c.trial_id, lease_trial.c.attempt).in_(sorted(earlier)))
        .where(lease_trial.c.project == project)
        .group_by(lease_trial.c.lease_id, lease.c.worker_id)
        .order_by(lease_trial.c.lease_id)
    )
    return [Loser(*row) for row in rows]


def _columns() -> tuple[ColumnElement[object], ...]:
    return (*lease.c, (lease.c.expires_at - epoch_expression()).label("expires_in_s"))


def _is_held() -> ColumnElement[bool]:
    is_current = trial.c.attempt == lease_trial.c.attempt
    return and_(is_current, or_(trial.c.state == "running", trial.c.state == "cancelled"))


# Built once: to build such a statement takes as long as to carry it out.
_ONE = select(*_columns()).where(
    lease.c.id == bindparam("of_lease"), lease.c.project == bindparam("of_project")
)
_LOCKED = _ONE.with_for_update()
_ANSWER = (
    update(lease)
    .where(lease.c.id == bindparam("of_lease"), lease.c.project == bindparam("of_project"))
    .where(lease.c.sequence == bindparam("before"))
    .values({name: bindparam(name) for name in ("sequence", "body_sha256", "answer")})
    .returning(lease.c.id)
)
_ANSWER_AND_RENEW = _ANSWER.values(
    expires_at=epoch_expression() + bindparam("renew_s", type_=Float)
)
_GIVEN = (
    select(
        trial.c.id, lease_trial.c.attempt, trial.c.state, trial.c.stop_requested,
        _is_held().label("is_held"),
    )
    .join(trial, lease_trial.c.trial_id == trial.c.id)
    .where(lease_trial.c.lease_id == bindparam("of_lease"))
    .where(lease_trial.c.project == bindparam("of_project"))
    .order_by(trial.c.id)
)  # fmt: skip
_HOLD = (
    select(trial.c.id, trial.c.attempt)
    .where(trial.c.id.in_(bindparam("ids", expanding=True)), trial.c.state == "running")
    .where(trial.c.project == bindparam("of_project"))
    .order_by(trial.c.id)  # one lock order, or two reports deadlock on PostgreSQL
    .with_for_update()  # no effect on SQLite, where BEGIN IMMEDIATE has the lock
)
