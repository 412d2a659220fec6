"""The stored Optuna studies: one per searched arm, for the dashboard and for whoever reads Optuna.

They mirror our tables and decide nothing. A study holds true rates, the values of trials at rungs
and at their end, and a note with the verdict. Everything here may be repeated after a crash: a
trial carries our id, by which it is found again.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
)
from optuna.exceptions import DuplicatedStudyError
from optuna.storages import BaseStorage, RDBStorage, get_storage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from dropt.spec.ids import TrialId
from dropt.spec.job import Objective
from dropt.spec.results import TrialState as OurState
from dropt.spec.results import VerdictRead
from dropt.spec.space import Range, Space
from dropt.storage import optuna_rows
from dropt.storage.engine import engine_options
from dropt.storage.session import Session
from dropt.tuning.points import (
    KIND_PREFIX,
    RATE_PREFIX,
    SCHEDULE,
    is_with_dropout,
    kind_of,
    schedule_of,
)
from dropt.tuning.sampling import Known, hand_over_logs, is_number

logger = logging.getLogger(__name__)

TRIAL_ATTRIBUTE: Final = "trial"  # of a stored trial: our id
METRIC_NAMES: Final = "study:metric_names"  # what Study.metric_names reads; its setter warns
NOTE_VERSION: Final = "dashboard:note_ver"  # as optuna_dashboard 0.21 stores notes; it is slow
NOTE_PART: Final = "dashboard:note_str:"  # to import, so its save_note is not called
NOTE_PART_LENGTH: Final = 2045


@dataclass(frozen=True)
class Mirrored:
    """A trial that the stored study now has, and the state that it was told."""

    trial: TrialId
    optuna_id: int
    state: OurState


def open_storage(url: str) -> BaseStorage:
    """Optuna's storage behind `url`, whose schema the migrations have made."""
    hand_over_logs()
    options = engine_options(url)
    return get_storage(RDBStorage(url, engine_kwargs=options, skip_table_creation=True))


def close_storage(storage: BaseStorage) -> None:
    """Close the connections of a storage from `open_storage`."""
    storage.remove_session()
    _engine(storage).dispose()


def study_name(job_id: str, arm: str) -> str:
    """The name of the study of an arm."""
    return f"{job_id}/{arm}"


def open_study(storage: BaseStorage, job_id: str, arm: str, objective: Objective) -> int:
    """The id of the study of an arm, which is made when it is not there."""
    name = study_name(job_id, arm)
    direction = StudyDirection[objective.direction.upper()]
    try:
        study_id = storage.get_study_id_from_name(name)
    except KeyError:
        try:
            study_id = storage.create_new_study([direction], name)
        except DuplicatedStudyError:  # another replica made it just now
            study_id = storage.get_study_id_from_name(name)
    if METRIC_NAMES not in storage.get_study_system_attrs(study_id):
        storage.set_study_system_attr(study_id, METRIC_NAMES, [objective.metric])
    return study_id


def delete_study(storage: BaseStorage, name: str) -> None:
    """Delete the study of this name, if it is there."""
    try:
        storage.delete_study(storage.get_study_id_from_name(name))
    except KeyError:  # it never was, or another replica was first
        return


def mirror_rows(
    storage: BaseStorage,
    job_id: str,
    arm: str,
    rows: Sequence[Known],
    *,
    space: Space,
    objective: Objective,
) -> list[Mirrored]:
    """Bring trials of one arm into its study, and say what it was told.

    All in one transaction: a trial that is new there is written whole, one that was running gets
    its values at rungs and its end. Written in the order of their numbers, from 0 and without a
    gap, trials have the same numbers in Optuna. What has ended in Optuna cannot change: where a
    value differs from ours, ours stands.
    """
    study_id = open_study(storage, job_id, arm, objective)
    rows = sorted(rows, key=lambda row: row.number)
    with _engine(storage).begin() as session:
        optuna_rows.lock_study(session, study_id)
        ids = _ids(session, study_id, rows)
        new = [row for row in rows if row.trial not in ids]
        made = optuna_rows.insert_many(
            session, study_id, [_template(row, space, arm) for row in new],
            [(TRIAL_ATTRIBUTE, json.dumps(row.trial)) for row in new],
        )  # fmt: skip
        ended = {ids[row.trial]: row for row in rows if row.trial in ids and row.is_final}
        before = optuna_rows.end_many(
            session, {id: _template(row, space, arm) for id, row in ended.items()}
        )
    for optuna_id, stored in before.items():
        _compare(ended[optuna_id], stored)
    ids |= dict(zip((row.trial for row in new), made, strict=True))
    return [Mirrored(row.trial, ids[row.trial], row.state) for row in rows]


def note_text(verdict: VerdictRead | None, *, arm: str, link: str) -> str:
    """What the note of a study says, as Markdown: verdict, interval, and where to read on."""
    lines = [f"Search trials of arm **{arm}** of [this job]({link}), scored on validation."]
    if verdict is None:
        return "\n\n".join([*lines, "No verdict yet."])
    word = verdict.verdict.replace("_", " ")
    lines.append(f"Verdict: **{word}**" + (", provisional" if verdict.provisional else ""))
    lines.append(verdict.summary)
    if verdict.effect is not None and verdict.interval is not None:
        low, high = verdict.interval
        lines.append(
            f"Effect on test {verdict.metric}: {verdict.effect:+.4g}, interval {low:+.4g} to "
            f"{high:+.4g}, {verdict.seeds} paired seeds, {verdict.examples} examples. "
            "Positive is better with dropout."
        )
    return "\n\n".join(lines)


def write_note(storage: BaseStorage, study_id: int, text: str) -> bool:
    """Make `text` the note of a study; False when it was that already."""
    attributes = storage.get_study_system_attrs(study_id)
    n_before = sum(name.startswith(NOTE_PART) for name in attributes)
    cuts = range(0, max(len(text), 1), NOTE_PART_LENGTH)
    parts = [text[cut : cut + NOTE_PART_LENGTH] for cut in cuts]
    parts += [""] * (n_before - len(parts))  # parts cannot be removed
    if all(attributes.get(f"{NOTE_PART}{i}") == part for i, part in enumerate(parts)):
        return False
    for index, part in enumerate(parts):
        storage.set_study_system_attr(study_id, f"{NOTE_PART}{index}", part)
    version = attributes.get(NOTE_VERSION, 0) + 1
    storage.set_study_system_attr(study_id, NOTE_VERSION, version)
    return True


def _engine(storage: BaseStorage) -> Any:  # Any: the cache has no way to say it
    return storage._backend.engine  # type: ignore[attr-defined]


def _ids(session: Session, study_id: int, rows: Sequence[Known]) -> dict[TrialId, int]:
    """Optuna's id of each trial that it has, those that a crash left unsaid included."""
    ids = {row.trial: row.optuna_id for row in rows if row.optuna_id is not None}
    texts = {json.dumps(row.trial): row.trial for row in rows if row.optuna_id is None}
    found = optuna_rows.find(session, study_id, TRIAL_ATTRIBUTE, texts)
    return ids | {texts[text]: optuna_id for text, optuna_id in found.items()}


def _template(row: Known, space: Space, arm: str) -> FrozenTrial:
    """The whole trial as Optuna stores it; one that waits or runs is running there."""
    params = _params(row, space, arm)
    return create_trial(
        state=_state(row),
        value=_value(row),
        params=params,
        distributions=_distributions(params, space),
        intermediate_values=dict(row.rungs) if row.is_final else {},
    )


def _compare(row: Known, stored: optuna_rows.Stored) -> None:
    value = _value(row)
    if (stored.state, stored.value) != (_state(row), value):
        differs = {"trial": row.trial, "ours": value, "optuna": stored.value}
        logger.warning("study.differs", extra=differs)


def _state(row: Known) -> TrialState:
    if row.state == "completed" and is_number(row.value):
        return TrialState.COMPLETE
    if row.state == "pruned":
        return TrialState.PRUNED
    return TrialState.FAIL if row.is_final else TrialState.RUNNING


def _value(row: Known) -> float | None:
    """The value of a completed trial, of a pruned one that at its last rung, if it has one."""
    if _state(row) is TrialState.COMPLETE:
        return row.value
    if _state(row) is TrialState.PRUNED and row.rungs:
        return row.rungs[max(row.rungs)]
    return None


def _params(row: Known, space: Space, arm: str) -> dict[str, float | str]:
    """What is searched, and always the learning rate: no trial may be without a parameter.

    A group that is off has no kind to show.
    """
    names = [name for name, of in space.also.items() if isinstance(of, Range) or name == "lr"]
    params: dict[str, float | str] = {n: float(getattr(row.params, n)) for n in names}
    if not is_with_dropout(arm):
        return params
    for group in space.groups:
        params[RATE_PREFIX + group.group] = row.rates.get(group.group, 0.0)
        kind = kind_of(group, row.sites)
        if len(group.kinds) > 1 and kind in group.kinds:
            params[KIND_PREFIX + group.group] = kind
    if len(space.schedules) > 1 and row.sites:
        params[SCHEDULE] = schedule_of(space, row.sites).label
    return params


def _distributions(params: Mapping[str, float | str], space: Space) -> dict[str, BaseDistribution]:
    """The range of each parameter, widened where a placement of the user lies outside."""
    ranges = {name: of for name, of in space.also.items() if isinstance(of, Range)}
    highest = {RATE_PREFIX + group.group: group.high for group in space.groups}
    choices: dict[str, tuple[str, ...]] = {
        KIND_PREFIX + group.group: group.kinds for group in space.groups
    }
    choices[SCHEDULE] = tuple(one.label for one in space.schedules)
    found: dict[str, BaseDistribution] = {}
    for name, value in params.items():
        if isinstance(value, str):
            found[name] = CategoricalDistribution(choices[name])
        elif of := ranges.get(name):
            low, high = min(of.low, value), max(of.high, value)
            found[name] = FloatDistribution(low, high, log=of.log)
        elif name in highest:
            found[name] = FloatDistribution(0.0, max(highest[name], value))
        else:
            found[name] = FloatDistribution(value, value)
    return found
