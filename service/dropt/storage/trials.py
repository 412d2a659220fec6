"""Trials: one configuration trained with one seed. Claimed by leases, ended exactly once."""

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Literal

from sqlalchemy import ColumnElement, and_, bindparam, delete, func, insert, or_, select, update

from dropt.errors import NotFound
from dropt.spec.ids import TrialId
from dropt.spec.results import TrialPhase, TrialState
from dropt.storage.clock import epoch_expression, now_expression
from dropt.storage.losses import failures_after, is_spent, is_to_be_alone, losses_after
from dropt.storage.session import Session
from dropt.storage.tables import lease, lease_trial, trial
from dropt.storage.trial_rows import NewTrial as NewTrial
from dropt.storage.trial_rows import TrialRow as TrialRow

logger = logging.getLogger(__name__)


def insert_many(session: Session, trials: Sequence[NewTrial], *, project: str) -> None:
    """Store new trials, `waiting`."""
    if not trials:
        return
    rows = [
        {
            **{name: getattr(new, name) for name in NewTrial.__dataclass_fields__},
            "rates": dict(new.rates),
            "sites": dict(new.sites),
            "project": project,
        }
        for new in trials
    ]
    session.execute(_NEW, rows)


def get(session: Session, trial_id: str, *, project: str) -> TrialRow:
    """The trial of that id.

    Raises:
        NotFound: no such trial, or another project's.
    """
    query = select(trial).where(trial.c.id == trial_id, trial.c.project == project)
    row = session.execute(query).one_or_none()
    if row is None:
        raise NotFound(f"No trial {trial_id}")
    return TrialRow(**row._asdict())


def get_many(session: Session, ids: Collection[str], *, project: str) -> dict[TrialId, TrialRow]:
    """The trials of these ids, in their order.

    Raises:
        NotFound: one of them is no trial, or another project's.
    """
    rows = session.execute(_OF_IDS, {"ids": sorted(ids), "of_project": project})
    found = {row.id: TrialRow(**row._asdict()) for row in rows}
    if missing := sorted(set(ids) - set(found)):
        raise NotFound(f"No trial {missing[0]}")
    return found


def list_of(
    session: Session,
    job_id: str,
    *,
    project: str,
    arm: str | None = None,
    phase: TrialPhase | None = None,
    states: Iterable[TrialState] = (),
    with_superseded: bool = False,
) -> list[TrialRow]:
    """All trials of a job that fit, by number, then arm, then phase.

    Evidence of an earlier attempt at a verdict is left out unless it is asked for.
    """
    wanted = _fitting(job_id, project, arm=arm, phase=phase, states=states)
    if not with_superseded:
        wanted.append(~trial.c.superseded)
    in_order = (trial.c.number, trial.c.arm, trial.c.phase)
    rows = session.execute(select(trial).where(*wanted).order_by(*in_order))
    return [TrialRow(**row._asdict()) for row in rows]


def list_page(
    session: Session,
    job_id: str,
    *,
    project: str,
    limit: int,
    order_by: Literal["number", "value"] = "number",
    descending: bool = False,
    after: tuple[float | None, str] | None = None,
    arm: str | None = None,
    phase: TrialPhase | None = None,
    states: Iterable[TrialState] = (),
) -> list[TrialRow]:
    """At most `limit` trials; those without a value come last in the order of values.

    `after` is (number or value, id) of the last trial of the page before.
    """
    wanted = _fitting(job_id, project, arm=arm, phase=phase, states=states)
    key: ColumnElement[Any] = trial.c.number if order_by == "number" else trial.c.value
    if after is not None:
        wanted.append(_comes_after(key, after, descending=descending))
    in_order = (key.is_(None), key.desc() if descending else key.asc(), trial.c.id)
    rows = session.execute(select(trial).where(*wanted).order_by(*in_order).limit(limit))
    return [TrialRow(**row._asdict()) for row in rows]


def counts(
    session: Session, job_id: str, *, project: str
) -> dict[tuple[str, TrialPhase, TrialState], int]:
    """How many trials of a job there are, by arm, phase and state; without superseded ones."""
    kind = (trial.c.arm, trial.c.phase, trial.c.state)
    wanted = (*_fitting(job_id, project), ~trial.c.superseded)
    rows = session.execute(select(*kind, func.count()).where(*wanted).group_by(*kind))
    return {(arm, phase, state): n for arm, phase, state, n in rows}


def count_open(session: Session, job_id: str, *, project: str) -> Counter[tuple[str, TrialState]]:
    """How many search trials of a job wait or run, by arm and state."""
    rows = session.execute(_OPEN, {"of_job": job_id, "of_project": project})
    return Counter({(arm, state): n for arm, state, n in rows})


def has_waiting(session: Session, job_id: str, phase: TrialPhase, *, project: str) -> bool:
    """Whether a trial of this phase waits for a worker."""
    wanted = {"of_job": job_id, "of_phase": phase, "of_project": project}
    return session.scalars(_WAITING, wanted).one_or_none() is not None


def count_failed(session: Session, job_id: str, *, project: str) -> int:
    """How many trials of a job failed for another reason than diverging, which is a result."""
    wanted = _fitting(job_id, project, states=("failed",))
    failed = select(func.count()).select_from(trial).where(*wanted, trial.c.reason != "diverged")
    return session.scalars(failed).one()


def claim(
    session: Session,
    lease_id: str,
    worker_id: str,
    job_id: str,
    phase: TrialPhase,
    *,
    project: str,
    limit: int,
    alone: bool = False,
) -> list[TrialRow]:
    """Take up to `limit` trials that wait, or that run under an expired lease: attempt + 1.

    The order is by number, so that the arms go on evenly. Trials that are to be alone in
    their lease (see `losses`) are left out; with `alone` one of them is taken, nothing else.
    Two claims at once never take the same trial: PostgreSQL skips locked rows, on SQLite the
    transaction has the database.
    """
    wanted = {
        "of_job": job_id, "of_project": project, "of_phase": phase,
        "most": min(limit, 1) if alone else limit,
    }  # fmt: skip
    ids = session.scalars(_FREE[alone], wanted).all()
    claimed = _start(session, ids, lease_id, worker_id) if ids else []
    _give(session, lease_id, claimed, project=project)
    for row in claimed:
        logger.debug("lease.claimed", extra={"trial": row.id, "attempt": row.attempt})
    return claimed


def end_lost(session: Session, job_id: str, *, project: str) -> list[TrialRow]:
    """End the trials whose last allowed attempt was lost with its process: `worker-lost`."""
    spent = (
        select(trial.c.id)
        .outerjoin(lease, trial.c.lease_id == lease.c.id)
        .where(*_fitting(job_id, project), _is_free(), is_spent)
        .order_by(trial.c.id)
        .with_for_update(of=trial, skip_locked=True)
    )
    ended = (
        update(trial)
        .where(trial.c.id.in_(session.scalars(spent).all()))
        .values(
            state="failed", reason="worker-lost", lease_id=None, finished_at=now_expression(),
            losses=losses_after, failures=failures_after,
            detail="the worker was lost each time that it trained this trial alone",
        )
    )  # fmt: skip
    rows = session.execute(ended.returning(*trial.c))
    return [TrialRow(**row._asdict()) for row in rows]


def finish(
    session: Session,
    trial_id: str,
    attempt: int,
    *,
    project: str,
    state: TrialState,
    **values: Any,
) -> bool:
    """End a trial that runs under this attempt; False when it does not."""
    of = {"of_project": project, "of_trial": trial_id, "of_attempt": attempt}
    ended = session.scalars(_END.values(state=state, **values), of)
    won = ended.one_or_none() is not None
    if won:
        _take_from_lease(session, [trial_id])
    return won


def requeue(
    session: Session,
    ids: Collection[str],
    *,
    project: str,
    lease_id: str | None = None,
    failed: bool = False,
    **values: Any,
) -> list[TrialId]:
    """Let running trials wait again: given back or, with `failed`, failed with a retry left.

    With `lease_id` only those that still belong to it. Returns which ones changed.
    """
    wanted = [*_running(project), trial.c.id.in_(ids)]
    if lease_id is not None:
        wanted.append(trial.c.lease_id == lease_id)
    changed = (
        update(trial)
        .where(*wanted)
        .values(state="waiting", lease_id=None, failures=trial.c.failures + int(failed), **values)
        .returning(trial.c.id)
    )
    given_back = [TrialId(id) for id in sorted(session.scalars(changed))]
    _take_from_lease(session, given_back)
    return given_back


def cancel_open(
    session: Session,
    job_id: str,
    *,
    project: str,
    phase: TrialPhase | None = None,
    states: Iterable[TrialState] = ("waiting", "running"),
) -> list[TrialRow]:
    """End every trial of the job that is in these states; its worker is told to drop it."""
    cancelled = (
        update(trial)
        .where(*_fitting(job_id, project, phase=phase, states=states))
        .values(state="cancelled", finished_at=now_expression(), lease_id=None)
        .returning(*trial.c)
    )
    return [TrialRow(**row._asdict()) for row in session.execute(cancelled)]


def supersede(
    session: Session, job_id: str, phases: Collection[TrialPhase], *, project: str
) -> None:
    """Set the trials of these phases aside: they belong to an earlier attempt at a verdict."""
    session.execute(
        update(trial)
        .where(*_fitting(job_id, project), trial.c.phase.in_(phases))
        .values(superseded=True)
    )


def request_stop(session: Session, ids: Collection[str], *, project: str) -> None:
    """Ask the worker to end these trials at their last measured epoch: pruned."""
    session.execute(
        update(trial).where(*_running(project), trial.c.id.in_(ids)).values(stop_requested=True)
    )


def _fitting(
    job_id: str,
    project: str,
    *,
    arm: str | None = None,
    phase: TrialPhase | None = None,
    states: Iterable[TrialState] = (),
) -> list[ColumnElement[bool]]:
    wanted = [trial.c.job_id == job_id, trial.c.project == project]
    if arm is not None:
        wanted.append(trial.c.arm == arm)
    if phase is not None:
        wanted.append(trial.c.phase == phase)
    if chosen := tuple(states):
        wanted.append(trial.c.state.in_(chosen))
    return wanted


def _comes_after(
    key: ColumnElement[Any], after: tuple[float | None, str], *, descending: bool
) -> ColumnElement[bool]:
    value, last_id = after
    if value is None:
        return and_(key.is_(None), trial.c.id > last_id)
    beyond = key < value if descending else key > value
    return or_(key.is_(None), beyond, and_(key == value, trial.c.id > last_id))


def _is_free() -> ColumnElement[bool]:
    is_expired = lease.c.expires_at < epoch_expression()
    is_free = or_(trial.c.state == "waiting", and_(trial.c.state == "running", is_expired))
    return and_(trial.c.state.in_(("waiting", "running")), is_free)  # the first finds an index


def _running(project: str) -> tuple[ColumnElement[bool], ...]:
    return (trial.c.project == project, trial.c.state == "running")


def _start(session: Session, ids: Sequence[str], lease_id: str, worker_id: str) -> list[TrialRow]:
    values = {"ids": list(ids), "lease_id": lease_id, "worker_id": worker_id}
    rows = [TrialRow(**row._asdict()) for row in session.execute(_START, values)]
    return sorted(rows, key=lambda row: (row.number, row.arm))


def _give(session: Session, lease_id: str, claimed: Sequence[TrialRow], *, project: str) -> None:
    """Note what the worker was given; a lease may get back a trial that it had lost."""
    if not claimed:
        return
    ids = [row.id for row in claimed]
    if any(row.attempt > 1 for row in claimed):
        session.execute(
            delete(lease_trial).where(
                lease_trial.c.lease_id == lease_id, lease_trial.c.trial_id.in_(ids)
            )
        )
    given = [
        {"lease_id": lease_id, "trial_id": row.id, "attempt": row.attempt, "project": project}
        for row in claimed
    ]
    session.execute(_GIVE, given)


def _take_from_lease(session: Session, ids: Collection[str]) -> None:
    """Forget who was given the current attempt of these trials: the worker ended it itself."""
    if ids:
        session.execute(_TAKE, {"ids": list(ids)})


# Built once: to build such a statement takes as long as to carry it out.
_OF_IDS = (
    select(trial)
    .where(trial.c.id.in_(bindparam("ids", expanding=True)))
    .where(trial.c.project == bindparam("of_project"))
    .order_by(trial.c.id)
)
_OPEN = (
    select(trial.c.arm, trial.c.state, func.count())
    .where(trial.c.state.in_(("waiting", "running")), trial.c.job_id == bindparam("of_job"))
    .where(trial.c.phase == "search", trial.c.project == bindparam("of_project"))
    .group_by(trial.c.arm, trial.c.state)
)
_WAITING = (
    select(trial.c.id)
    .where(trial.c.state == "waiting", trial.c.job_id == bindparam("of_job"))
    .where(trial.c.phase == bindparam("of_phase"), trial.c.project == bindparam("of_project"))
    .limit(1)
)
_END = (
    update(trial)
    .where(trial.c.state == "running", trial.c.project == bindparam("of_project"))
    .where(trial.c.id == bindparam("of_trial"), trial.c.attempt == bindparam("of_attempt"))
    .values(finished_at=now_expression(), lease_id=None)
    .returning(trial.c.id)
)
_TAKE = delete(lease_trial).where(
    lease_trial.c.trial_id.in_(bindparam("ids", expanding=True)),
    lease_trial.c.attempt
    == select(trial.c.attempt).where(trial.c.id == lease_trial.c.trial_id).scalar_subquery(),
)
_FREE = {
    alone: select(trial.c.id)
    .outerjoin(lease, trial.c.lease_id == lease.c.id)
    .where(trial.c.job_id == bindparam("of_job"), trial.c.project == bindparam("of_project"))
    .where(trial.c.phase == bindparam("of_phase"), _is_free(), ~is_spent)
    .where(is_to_be_alone if alone else ~is_to_be_alone)
    .order_by(trial.c.number, trial.c.arm)
    .limit(bindparam("most"))
    .with_for_update(of=trial, skip_locked=True)
    for alone in (False, True)
}
_START = (
    update(trial)
    .where(trial.c.id.in_(bindparam("ids", expanding=True)))
    .values(
        state="running", attempt=trial.c.attempt + 1, lease_id=bindparam("lease_id"),
        worker_id=bindparam("worker_id"), losses=losses_after, failures=failures_after,
        started_at=func.coalesce(trial.c.started_at, now_expression()),
    )
    .returning(*trial.c)
)  # fmt: skip
_GIVE = insert(lease_trial)
_NEW = insert(trial).values(
    state="waiting", attempt=0, failures=0, losses=0, stop_requested=False, values={}, epoch=0,
    seconds=0.0, created_at=now_expression(),
)  # fmt: skip
