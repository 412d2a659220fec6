import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import optuna
import pytest
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState
from tests.service.tuning.spaces import make_site, make_space

from dropt.spec.ids import TrialId
from dropt.spec.job import Objective
from dropt.spec.protocol import TrialParams
from dropt.spec.results import Cost, VerdictRead
from dropt.spec.space import Dropout
from dropt.storage.engine import optuna_url
from dropt.tuning.sampling import Known
from dropt.tuning.studies import (
    Mirrored,
    mirror_rows,
    note_text,
    open_storage,
    open_study,
    write_note,
)

SPACE = make_space()
NLL = Objective(metric="nll", direction="minimize")
RATES = {":in": 0.2, "layers.1:out": 0.0, "layers.3:out": 0.35}
NOTE = "The comparison says **helps**."


@pytest.fixture
def storage(database_url: str) -> Iterator[BaseStorage]:
    opened = open_storage(optuna_url(database_url))
    yield opened
    opened.remove_session()
    opened._backend.engine.dispose()  # type: ignore[attr-defined]  # of the cached storage


def make_row(number: int = 0, **fields: Any) -> Known:
    values: dict[str, Any] = {
        "trial": TrialId(f"trl_{number}"), "number": number, "state": "running",
        "params": TrialParams(lr=0.003, weight_decay=1e-4), "rates": RATES, "rungs": {},
    }  # fmt: skip
    return Known(**values | fields)


def mirror(storage: BaseStorage, *rows: Known, arm: str = "with") -> list[Mirrored]:
    return mirror_rows(storage, "job_1", arm, rows, space=SPACE, objective=NLL)


def stored(storage: BaseStorage, arm: str = "with") -> list[FrozenTrial]:
    """The trials of the study of an arm, as Optuna reads them."""
    return optuna.load_study(study_name=f"job_1/{arm}", storage=storage).trials


def test_a_study_has_name_direction_and_metric(storage: BaseStorage) -> None:
    accuracy = Objective(metric="accuracy", direction="maximize")
    study_id = open_study(storage, "job_1", "with", accuracy)
    study = optuna.load_study(study_name="job_1/with", storage=storage)
    assert study.direction == optuna.study.StudyDirection.MAXIMIZE
    assert study.metric_names == ["accuracy"]
    assert open_study(storage, "job_1", "with", accuracy) == study_id


def test_a_running_trial_is_written_whole_with_true_rates(storage: BaseStorage) -> None:
    (mirrored,) = mirror(storage, make_row())
    (trial,) = stored(storage)
    assert (mirrored.trial, mirrored.state) == ("trl_0", "running")
    assert mirrored.optuna_id == trial._trial_id
    assert trial.state == TrialState.RUNNING
    assert trial.params == {
        "lr": 0.003, "weight_decay": 1e-4,
        "rate/:in": 0.2, "rate/layers.1:out": 0.0, "rate/layers.3:out": 0.35,
    }  # fmt: skip
    assert trial.user_attrs == {"trial": "trl_0"}


def test_kinds_and_schedules_are_shown_where_dropout_is_on(storage: BaseStorage) -> None:
    site = make_site("a:out", "conv", kinds=("channel", "element"))
    choice = {"match": "*", "kinds": ["channel", "element"]}
    space = make_space(site, sites=[choice], schedules=["constant", "early"])
    on = {"a:out": Dropout(kind="element", rate=0.1, schedule=space.schedules[1])}
    rows = [
        make_row(0, rates={"a:out": 0.1}, sites=on),
        make_row(1, rates={"a:out": 0.0}, sites={}),
    ]
    mirror_rows(storage, "job_1", "with", rows, space=space, objective=NLL)
    first, second = stored(storage)
    assert first.params["kind/a:out"] == "element"
    assert first.params["schedule"] == "early/6.75"
    assert first.distributions["kind/a:out"].choices == ("channel", "element")  # type: ignore[attr-defined]
    assert set(second.params) == {"lr", "weight_decay", "rate/a:out"}


@pytest.mark.parametrize("seen_running", [True, False])
@pytest.mark.parametrize(
    ("fields", "state", "value"),
    [
        ({"state": "completed", "value": 0.4, "rungs": {9: 0.5}}, TrialState.COMPLETE, 0.4),
        ({"state": "completed", "value": None}, TrialState.FAIL, None),
        ({"state": "pruned", "rungs": {3: 0.9, 9: 0.7}, "value": 0.6}, TrialState.PRUNED, 0.7),
        ({"state": "pruned"}, TrialState.PRUNED, None),
        ({"state": "failed", "diverged": True, "rungs": {9: 0.7}}, TrialState.FAIL, None),
        ({"state": "cancelled"}, TrialState.FAIL, None),
    ],
)
def test_an_end_is_written_with_its_rungs(
    storage: BaseStorage,
    seen_running: bool,
    fields: dict[str, Any],
    state: TrialState,
    value: float | None,
) -> None:
    row = make_row(**fields)
    if seen_running:
        (mirrored,) = mirror(storage, make_row())
        row = replace(row, optuna_id=mirrored.optuna_id)
    mirror(storage, row)
    (trial,) = stored(storage)
    assert (trial.state, trial.value) == (state, value)
    assert trial.intermediate_values == row.rungs
    assert trial.params["lr"] == 0.003


def test_numbers_are_ours(storage: BaseStorage) -> None:
    mirror(storage, make_row(2), make_row(0), make_row(1))
    mirror(storage, make_row(4), make_row(3, state="completed", value=1.0))
    assert [trial.user_attrs["trial"] for trial in stored(storage)] == [
        f"trl_{number}" for number in range(5)
    ]


def test_what_a_crash_left_unsaid_is_found_again(storage: BaseStorage) -> None:
    (first,) = mirror(storage, make_row())
    ended = make_row(state="completed", value=0.4)
    assert mirror(storage, ended)[0].optuna_id == first.optuna_id
    assert mirror(storage, ended)[0].optuna_id == first.optuna_id
    (trial,) = stored(storage)
    assert trial.value == 0.4


def test_a_crash_between_a_rung_and_the_end_is_repaired(storage: BaseStorage) -> None:
    (mirrored,) = mirror(storage, make_row())
    storage.set_trial_intermediate_value(mirrored.optuna_id, 9, 0.9)
    mirror(storage, make_row(state="completed", value=0.4, rungs={9: 0.5}))
    (trial,) = stored(storage)
    assert (trial.value, trial.intermediate_values) == (0.4, {9: 0.5})


def test_another_value_than_the_one_in_optuna_is_logged_and_stays_ours(
    storage: BaseStorage, caplog: pytest.LogCaptureFixture
) -> None:
    mirror(storage, make_row(state="completed", value=0.4))
    with caplog.at_level(logging.WARNING, logger="dropt.tuning.studies"):
        mirror(storage, make_row(state="completed", value=0.4))
        assert caplog.messages == []
        mirror(storage, make_row(state="completed", value=0.3))
    assert caplog.messages == ["study.differs"]
    assert stored(storage)[0].value == 0.4


def test_arms_are_studies_of_their_own(storage: BaseStorage) -> None:
    mirror(storage, make_row())
    mirror(storage, make_row(rates={}), arm="without")
    assert set(stored(storage, "without")[0].params) == {"lr", "weight_decay"}
    assert len(stored(storage)) == 1


def test_a_trial_has_a_parameter_even_where_nothing_is_searched(storage: BaseStorage) -> None:
    space = make_space(also={"lr": 0.01, "weight_decay": 0.0})
    row = make_row(state="completed", value=1.0, rates={}, params=TrialParams(lr=0.01))
    mirror_rows(storage, "job_1", "without", [row], space=space, objective=NLL)
    assert stored(storage, "without")[0].params == {"lr": 0.01}


def test_a_rate_beyond_the_range_of_its_group_is_stored(storage: BaseStorage) -> None:
    mirror(storage, make_row(rates={":in": 0.9}))
    assert stored(storage)[0].params["rate/:in"] == 0.9


def make_verdict(**fields: Any) -> VerdictRead:
    values: dict[str, Any] = {
        "job": "job_1", "revision": 3, "provisional": False, "verdict": "helps",
        "summary": "Dropout lowers the test loss.", "metric": "nll", "direction": "minimize",
        "min_effect": 0.01, "effect": 0.0251, "interval": (0.0101, 0.0401), "seeds": 8,
        "examples": 360, "cost": Cost(device_seconds={}),
    }  # fmt: skip
    return VerdictRead(**values | fields)


def test_a_note_says_verdict_interval_and_where_to_read_on() -> None:
    text = note_text(make_verdict(), arm="with", link="/v1/jobs/job_1")
    assert "[this job](/v1/jobs/job_1)" in text
    assert "**helps**\n" in text
    assert "Dropout lowers the test loss." in text
    assert "+0.0251, interval +0.0101 to +0.0401, 8 paired seeds, 360 examples" in text


def test_a_note_before_the_verdict_says_so() -> None:
    assert "No verdict yet." in note_text(None, arm="with", link="/")
    undecided = make_verdict(verdict="not_tested", provisional=True, effect=None, interval=None)
    text = note_text(undecided, arm="with", link="/")
    assert "**not tested**, provisional" in text
    assert "interval" not in text


@pytest.mark.slow
def test_the_dashboard_reads_the_note(storage: BaseStorage) -> None:
    from optuna_dashboard import get_note  # over 2 s

    study_id = open_study(storage, "job_1", "with", NLL)
    study = optuna.load_study(study_name="job_1/with", storage=storage)
    for text in (NOTE, "long " * 1000, NOTE, ""):
        assert write_note(storage, study_id, text)
        assert get_note(study) == text


def test_a_note_that_has_not_changed_is_not_written(storage: BaseStorage) -> None:
    study_id = open_study(storage, "job_1", "with", NLL)
    assert write_note(storage, study_id, NOTE)
    assert not write_note(storage, study_id, NOTE)
    assert write_note(storage, study_id, NOTE + " Certainly.")
