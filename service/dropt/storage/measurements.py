"""Measurements: one row per epoch, trial and attempt, never changed; and the rungs."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, NamedTuple

from sqlalchemy import bindparam, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from dropt.errors import FieldError, InvalidRequest
from dropt.spec.ids import TrialId
from dropt.spec.protocol import Measurement
from dropt.storage.clock import now_expression
from dropt.storage.insertion import insert_or_ignore
from dropt.storage.session import Session
from dropt.storage.tables import measurement, rung, trial

MAX_IDS = 500  # in one statement


@dataclass(frozen=True, slots=True)
class Point:
    """One epoch of a curve."""

    epoch: int
    attempt: int
    train_loss: float | None
    train_eval_loss: float | None
    validation_loss: float | None
    metrics: dict[str, float | None]
    seconds: float
    at: datetime


class Consumption(NamedTuple):
    """What trainings have used, repeated epochs of later attempts included."""

    n_epochs: int
    device_seconds: float


def add_many(session: Session, measurements: Sequence[Measurement], *, project: str) -> None:
    """Store measurements of held trials, and what they say of the trial.

    `trial.epoch` becomes the last epoch measured, `trial.seconds` grows, `trial.losses` is 0.

    Raises:
        InvalidRequest: an epoch was measured before in the same attempt.
    """
    if not measurements:
        return
    rows = [_values(one, project) for one in measurements]
    try:
        session.execute(_MEASURED, rows)
    except IntegrityError as error:
        raise InvalidRequest.of(
            FieldError("/measurements", "repeated-epoch", "An epoch is measured once per attempt.")
        ) from error
    session.execute(_PROGRESS, [one | {"of_project": project} for one in _progress(measurements)])


def curve(session: Session, trial_id: str, *, project: str) -> list[Point]:
    """The measurements of a trial by epoch, of the highest attempt that measured it."""
    wanted = (measurement.c.trial_id == trial_id, measurement.c.project == project)
    columns = [measurement.c[name] for name in Point.__dataclass_fields__]
    in_order = (measurement.c.epoch, measurement.c.attempt)
    rows = session.execute(select(*columns).where(*wanted).order_by(*in_order))
    return list({row.epoch: Point(**row._asdict()) for row in rows}.values())


def consumed(session: Session, job_id: str, *, project: str) -> dict[tuple[str, str], Consumption]:
    """What the trials of a job have used so far, by arm and phase."""
    kind = (trial.c.arm, trial.c.phase)
    rows = session.execute(
        select(*kind, func.count(), func.sum(measurement.c.seconds))
        .join(trial, measurement.c.trial_id == trial.c.id)
        .where(trial.c.job_id == job_id, trial.c.project == project)
        .group_by(*kind)
    )
    return {(arm, phase): Consumption(n, seconds) for arm, phase, n, seconds in rows}


def add_rung(
    session: Session,
    trial_id: str,
    epoch: int,
    *,
    project: str,
    job_id: str,
    arm: str,
    value: float,
    decision: Literal["go_on", "stop"],
) -> bool:
    """Store what was decided at a rung; False, and nothing changes, when it was decided before."""
    row = {
        "trial_id": trial_id, "epoch": epoch, "project": project, "job_id": job_id, "arm": arm,
        "value": value, "decision": decision,
    }  # fmt: skip
    start = insert_or_ignore(session, rung).returning(rung.c.trial_id)
    return session.scalars(start, row).one_or_none() is not None


def rung_values(
    session: Session, job_id: str, arm: str, epoch: int, *, project: str
) -> list[tuple[TrialId, float]]:
    """The values that trials of an arm had at a rung, by trial."""
    wanted = (rung.c.job_id == job_id, rung.c.arm == arm, rung.c.epoch == epoch)
    rows = session.execute(
        select(rung.c.trial_id, rung.c.value)
        .where(*wanted, rung.c.project == project)
        .order_by(rung.c.trial_id)
    )
    return [(TrialId(id), value) for id, value in rows]


def rungs_of(
    session: Session, ids: Sequence[str], *, project: str
) -> dict[TrialId, dict[int, float]]:
    """The values that these trials had at rungs, by trial and epoch."""
    found: dict[TrialId, dict[int, float]] = {}
    for start in range(0, len(ids), MAX_IDS):
        wanted = {"ids": ids[start : start + MAX_IDS], "of_project": project}
        for id, epoch, value in session.execute(_RUNGS, wanted):
            found.setdefault(id, {})[epoch] = value
    return found


def rung_scores(
    session: Session, job_id: str, arm: str, epoch: int, *, project: str
) -> list[tuple[int, float]]:
    """The values that trials of an arm had at a rung, by the number of the trial."""
    wanted = {"of_job": job_id, "of_arm": arm, "of_epoch": epoch, "of_project": project}
    rows = session.execute(_SCORES, wanted)
    return [(number, value) for number, value in rows]


def _values(one: Measurement, project: str) -> dict[str, object]:
    return {
        "trial_id": one.trial,
        "epoch": one.epoch,
        "attempt": one.attempt,
        "project": project,
        "train_loss": one.train_loss,
        "train_eval_loss": one.train_eval_loss,
        "validation_loss": one.validation_loss,
        "metrics": one.metrics,
        "seconds": one.seconds,
    }


def _progress(measurements: Sequence[Measurement]) -> list[dict[str, object]]:
    last: dict[str, int] = {}
    spent: dict[str, float] = {}
    for one in measurements:
        last[one.trial] = max(last.get(one.trial, 0), one.epoch)
        spent[one.trial] = spent.get(one.trial, 0.0) + one.seconds
    return [{"of_trial": id, "last_epoch": last[id], "spent": spent[id]} for id in sorted(last)]


# Built once: to build such a statement takes as long as to carry it out.
_MEASURED = insert(measurement).values(at=now_expression())
_PROGRESS = (
    update(trial)
    .where(trial.c.id == bindparam("of_trial"), trial.c.project == bindparam("of_project"))
    .values(epoch=bindparam("last_epoch"), seconds=trial.c.seconds + bindparam("spent"), losses=0)
)
_RUNGS = select(rung.c.trial_id, rung.c.epoch, rung.c.value).where(
    rung.c.trial_id.in_(bindparam("ids", expanding=True)),
    rung.c.project == bindparam("of_project"),
)
_SCORES = (
    select(trial.c.number, rung.c.value)
    .join(trial, rung.c.trial_id == trial.c.id)
    .where(rung.c.job_id == bindparam("of_job"), rung.c.arm == bindparam("of_arm"))
    .where(rung.c.epoch == bindparam("of_epoch"), rung.c.project == bindparam("of_project"))
    .order_by(trial.c.number)
)
