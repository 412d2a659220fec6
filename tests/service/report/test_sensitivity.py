from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from tests.service.conftest import Done
from tests.service.report.formulas import searched

from dropt.report.sensitivity import FEWEST_TRIALS, MOST_TRIALS, sensitivity
from dropt.spec.report import RateResponse, Sensitivity
from dropt.spec.space import Dropout
from dropt.storage.trials import TrialRow


def found(done: Done, rows: list[TrialRow], **chosen: float) -> Sensitivity | None:
    assert done.job.space is not None
    placed = {
        site: Dropout(rate=chosen[group.group.replace(".", "_").replace(":", "_")])
        for group in done.job.space.groups
        for site in group.sites
        if chosen.get(group.group.replace(".", "_").replace(":", "_"), 0.0) > 0
    }
    return sensitivity(done.job.spec, done.job.space, rows, chosen=placed)


def of_group(one: Sensitivity | None, group: str) -> RateResponse:
    assert one is not None
    return next(response for response in one.responses if response.group == group)


def loss(rates: dict[str, float], lr: float, *, group: str) -> float:
    return 0.3 + 2.0 * (rates[group] - 0.3) ** 2


GROUP = "layers.1:out"


def test_a_rate_that_matters_is_told_apart_from_none(done: Done) -> None:
    rows = searched(done, partial(loss, group=GROUP), n=48)
    one = found(done, rows, layers_1_out=0.3)
    response = of_group(one, GROUP)
    assert not response.is_flat
    assert response.alike is not None
    assert 0.0 < response.alike[0] <= response.chosen == 0.3 <= response.alike[1]
    nothing = response.points[0]
    assert nothing.rate == 0.0
    assert nothing.effect == pytest.approx(-2.0 * 0.3**2, abs=0.03)
    assert nothing.interval[1] < 0.0
    assert one is not None
    assert one.importance[0].name == f"rate of {GROUP}"
    assert one.importance[0].share > 0.8


def test_a_flat_response_is_called_flat(done: Done) -> None:
    one = found(done, searched(done, lambda rates, lr: 0.3, n=30), layers_1_out=0.3)
    assert one is not None
    assert all(response.is_flat for response in one.responses)
    assert all(share.interval[0] < 0.05 for share in one.importance)


def test_the_chosen_rate_is_compared_with_itself_alone(done: Done) -> None:
    response = of_group(
        found(done, searched(done, partial(loss, group=GROUP), n=20), layers_1_out=0.25), GROUP
    )
    (chosen,) = (point for point in response.points if point.rate == response.chosen)
    assert (chosen.effect, chosen.interval) == (0.0, (0.0, 0.0))
    assert sum(point.trials for point in response.points) == 20


def test_a_learning_rate_that_matters_is_not_credited_to_dropout(done: Done) -> None:
    one = found(
        done, searched(done, lambda rates, lr: 0.3 + 0.2 * abs(np.log10(lr) + 2.5), n=40),
        layers_1_out=0.3,
    )  # fmt: skip
    assert one is not None
    assert one.importance[0].name == "learning rate"
    assert of_group(one, GROUP).is_flat


def test_a_diverged_trial_does_not_make_all_others_equal(done: Done) -> None:
    rows = searched(done, partial(loss, group=GROUP), n=40)
    rows[3] = replace(rows[3], value=1e6)
    assert not of_group(found(done, rows, layers_1_out=0.3), GROUP).is_flat


def test_too_few_trials_say_nothing(done: Done) -> None:
    rows = searched(done, partial(loss, group=GROUP), n=FEWEST_TRIALS)
    assert found(done, rows) is not None
    assert found(done, rows[:-1]) is None
    assert found(done, [replace(row, state="pruned") for row in rows]) is None
    assert found(done, [replace(row, arm="without") for row in rows]) is None
    assert found(done, [replace(row, value=0.3) for row in rows]) is None


@pytest.mark.slow
def test_many_trials_are_cut_to_the_best(done: Done) -> None:
    one = found(done, searched(done, partial(loss, group=GROUP), n=400), layers_1_out=0.3)
    assert one is not None
    assert one.trials == MOST_TRIALS
