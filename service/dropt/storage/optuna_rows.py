"""Optuna's tables: trials written many at once.

Its own interface writes each parameter and value of each trial alone: 9 ms of CPU per trial on
SQLite, a twentieth of that here. The rows are those that it would write, of Optuna 5.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeVar

from optuna.distributions import distribution_to_json
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Table, delete, func, insert, select, update

from dropt.storage.session import Session

Item = TypeVar("Item")

MAX_IDS = 500  # in one statement: databases allow some thousands


class Stored(NamedTuple):
    """The end of a trial as Optuna has it."""

    state: TrialState
    value: float | None


def _table(model: Any) -> Table:  # Any: Optuna's models are not typed
    table: Table = model.__table__
    return table


study = _table(models.StudyModel)
trial = _table(models.TrialModel)
param = _table(models.TrialParamModel)
attribute = _table(models.TrialUserAttributeModel)
value = _table(models.TrialValueModel)
rung = _table(models.TrialIntermediateValueModel)


def lock_study(session: Session, study_id: int) -> None:
    """Let no other process number trials of the study until the transaction ends."""
    session.execute(select(study.c.study_id).where(study.c.study_id == study_id).with_for_update())


def find(session: Session, study_id: int, key: str, texts: Collection[str]) -> dict[str, int]:
    """Optuna's ids of the trials that carry these JSON texts as their attribute `key`."""
    found: dict[str, int] = {}
    for some in _in_parts(sorted(texts)):
        rows = session.execute(
            select(attribute.c.value_json, attribute.c.trial_id)
            .join(trial, trial.c.trial_id == attribute.c.trial_id)
            .where(
                trial.c.study_id == study_id,
                attribute.c.key == key,
                attribute.c.value_json.in_(some),
            )
        )
        found |= {row.value_json: row.trial_id for row in rows}
    return found


def insert_many(
    session: Session,
    study_id: int,
    trials: Sequence[FrozenTrial],
    attributes: Sequence[tuple[str, str]],
) -> list[int]:
    """Add trials whole, each with an attribute (name, JSON); Optuna's ids in the order given.

    They are numbered on from what the study has; `lock_study` comes first.
    """
    if not trials:
        return []
    n_before = session.scalars(
        select(func.count()).select_from(trial).where(trial.c.study_id == study_id)
    ).one()
    rows = [
        {"study_id": study_id, "number": n_before + place, "state": one.state,
         "datetime_start": _stored_time(one.datetime_start),
         "datetime_complete": _stored_time(one.datetime_complete)}
        for place, one in enumerate(trials)
    ]  # fmt: skip
    start = insert(trial).returning(trial.c.trial_id, sort_by_parameter_order=True)
    ids = list(session.scalars(start, rows))
    by_id = dict(zip(ids, trials, strict=True))
    _insert(session, param, _params(by_id))
    _insert(session, attribute, [
        {"trial_id": id, "key": key, "value_json": text}
        for id, (key, text) in zip(ids, attributes, strict=True)
    ])  # fmt: skip
    _insert_values(session, by_id)
    return ids


def end_many(session: Session, ends: Mapping[int, FrozenTrial]) -> dict[int, Stored]:
    """End trials that run, with their values; those that had ended before, as they stand."""
    stored = _stored(session, ends)
    running = {id: one for id, one in ends.items() if stored[id].state == TrialState.RUNNING}
    if running:
        for table in (value, rung):  # a crash may have left some
            for some in _in_parts(list(running)):
                session.execute(delete(table).where(table.c.trial_id.in_(some)))
        _insert_values(session, running)
        for id, one in running.items():
            session.execute(
                update(trial)
                .where(trial.c.trial_id == id)
                .values(state=one.state, datetime_complete=_stored_time(one.datetime_complete))
            )
    return {id: one for id, one in stored.items() if id not in running}


def _stored(session: Session, ids: Iterable[int]) -> dict[int, Stored]:
    found: dict[int, Stored] = {}
    for some in _in_parts(list(ids)):
        rows = session.execute(
            select(trial.c.trial_id, trial.c.state, value.c.value)
            .outerjoin(value, value.c.trial_id == trial.c.trial_id)
            .where(trial.c.trial_id.in_(some))
        )
        found |= {id: Stored(state, number) for id, state, number in rows}
    return found


def _params(trials: Mapping[int, FrozenTrial]) -> list[dict[str, object]]:
    return [
        {"trial_id": id, "param_name": name,
         "param_value": one.distributions[name].to_internal_repr(of),
         "distribution_json": distribution_to_json(one.distributions[name])}
        for id, one in trials.items()
        for name, of in one.params.items()
    ]  # fmt: skip


def _insert_values(session: Session, trials: Mapping[int, FrozenTrial]) -> None:
    """Values at the end and at rungs; all of them are finite."""
    _insert(session, value, [
        {"trial_id": id, "objective": 0, "value": one.value, "value_type": "FINITE"}
        for id, one in trials.items()
        if one.value is not None
    ])  # fmt: skip
    _insert(session, rung, [
        {"trial_id": id, "step": step, "intermediate_value": of,
         "intermediate_value_type": "FINITE"}
        for id, one in trials.items()
        for step, of in sorted(one.intermediate_values.items())
    ])  # fmt: skip


def _insert(session: Session, table: Table, rows: Sequence[Mapping[str, object]]) -> None:
    if rows:
        session.execute(insert(table), rows)


def _stored_time(local: datetime | None) -> datetime | None:
    """Optuna shows local times without a zone and stores them in UTC, without a zone too."""
    return None if local is None else local.astimezone(UTC).replace(tzinfo=None)


def _in_parts(items: Sequence[Item]) -> Iterable[Sequence[Item]]:
    return (items[start : start + MAX_IDS] for start in range(0, len(items), MAX_IDS))
