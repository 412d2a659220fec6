import json
from collections.abc import Iterator

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import Engine

from dropt.storage import optuna_rows
from dropt.storage.engine import optuna_url
from dropt.storage.optuna_rows import MAX_IDS
from dropt.tuning.studies import close_storage, open_storage

DISTRIBUTIONS = {
    "lr": FloatDistribution(1e-4, 1e-1, log=True),
    "kind": CategoricalDistribution(("element", "channel")),
}


@pytest.fixture
def storage(database_url: str) -> Iterator[BaseStorage]:
    opened = open_storage(optuna_url(database_url))
    yield opened
    close_storage(opened)


def engine_of(storage: BaseStorage) -> Engine:
    engine: Engine = storage._backend.engine  # type: ignore[attr-defined]  # of the cached storage
    return engine


def make_trial(number: int, *, state: TrialState = TrialState.RUNNING) -> FrozenTrial:
    is_complete = state == TrialState.COMPLETE
    return create_trial(
        state=state, value=float(number) if is_complete else None,
        params={"lr": 1e-3 * (number % 7 + 1), "kind": ("element", "channel")[number % 2]},
        distributions=DISTRIBUTIONS,
        intermediate_values={} if state == TrialState.RUNNING else {9: 0.5 + number},
    )  # fmt: skip


def write(storage: BaseStorage, study_id: int, trials: list[FrozenTrial]) -> list[int]:
    with engine_of(storage).begin() as session:
        optuna_rows.lock_study(session, study_id)
        names = [("of", json.dumps(f"t{place}")) for place in range(len(trials))]
        return optuna_rows.insert_many(session, study_id, trials, names)


def test_trials_are_what_optuna_itself_would_have_written(storage: BaseStorage) -> None:
    """Both ways are read back by Optuna, in the time zone of this machine."""
    trials = [make_trial(n, state=TrialState.COMPLETE) for n in range(3)] + [make_trial(3)]
    for one in trials:
        one.user_attrs = {"of": f"t{trials.index(one)}"}
    ours = storage.create_new_study([StudyDirection.MINIMIZE], "ours")
    theirs = storage.create_new_study([StudyDirection.MINIMIZE], "theirs")
    write(storage, ours, trials)
    for one in trials:
        storage.create_new_trial(theirs, one)
    for mine, own in zip(
        storage.get_all_trials(ours), storage.get_all_trials(theirs), strict=True
    ):
        mine._trial_id = own._trial_id
        assert mine == own


def test_optuna_goes_on_numbering_where_we_ended(storage: BaseStorage) -> None:
    study_id = storage.create_new_study([StudyDirection.MINIMIZE], "s")
    write(storage, study_id, [make_trial(0), make_trial(1)])
    study = optuna.load_study(study_name="s", storage=storage)
    study.add_trial(make_trial(2, state=TrialState.COMPLETE))
    write(storage, study_id, [make_trial(3)])
    assert [trial.number for trial in study.trials] == [0, 1, 2, 3]


def test_more_trials_than_fit_a_statement_are_found_and_ended(storage: BaseStorage) -> None:
    n = MAX_IDS + 20
    study_id = storage.create_new_study([StudyDirection.MINIMIZE], "s")
    ids = write(storage, study_id, [make_trial(number) for number in range(n)])
    ends = {id: make_trial(n, state=TrialState.COMPLETE) for n, id in enumerate(ids)}
    with engine_of(storage).begin() as session:
        texts = [json.dumps(f"t{place}") for place in range(n)]
        assert optuna_rows.find(session, study_id, "of", texts) == dict(
            zip(texts, ids, strict=True)
        )
        assert optuna_rows.end_many(session, ends) == {}
    stored = storage.get_all_trials(study_id)
    assert [trial.value for trial in stored] == [float(number) for number in range(n)]
    assert {trial.state for trial in stored} == {TrialState.COMPLETE}


def test_what_has_ended_stays_and_is_told(storage: BaseStorage) -> None:
    study_id = storage.create_new_study([StudyDirection.MINIMIZE], "s")
    (ended,) = write(storage, study_id, [make_trial(5, state=TrialState.COMPLETE)])
    with engine_of(storage).begin() as session:
        told = optuna_rows.end_many(session, {ended: make_trial(6, state=TrialState.COMPLETE)})
    assert told == {ended: (TrialState.COMPLETE, 5.0)}
    assert storage.get_trial(ended).value == 5.0
