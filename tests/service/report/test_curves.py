from dataclasses import replace
from datetime import UTC, datetime

import pytest
from tests.service.conftest import Done

from dropt.report.curves import MOST_POINTS, curves_of, diagnose
from dropt.report.intervals import mean_interval
from dropt.spec.results import ArmScore
from dropt.storage.measurements import Point
from dropt.storage.trials import TrialRow

AT = datetime(2026, 11, 24, tzinfo=UTC)


def point(epoch: int, loss: float | None, train_eval: float | None = None) -> Point:
    return Point(epoch, 1, loss, train_eval, loss, {}, 0.1, AT)


def rows(done: Done) -> list[TrialRow]:
    return done.trials(phase="compare", arm="with")[:2]


def test_where_a_seed_stopped_early_the_mean_stops_too(done: Done) -> None:
    first, second = rows(done)
    points: dict[str, list[Point]] = {
        first.id: [point(epoch, 1.0) for epoch in (1, 2, 3)],
        second.id: [point(epoch, 3.0) for epoch in (1, 2)],
    }
    curve = curves_of("with", [first, second], points)
    assert curve is not None
    assert curve.epoch == (1, 2)
    assert curve.validation.mean == (2.0, 2.0)


def test_a_loss_that_was_not_finite_is_missing_and_not_zero(done: Done) -> None:
    first, second = rows(done)
    points: dict[str, list[Point]] = {first.id: [point(1, None)], second.id: [point(1, None)]}
    curve = curves_of("with", [first, second], points)
    assert curve is not None
    assert (curve.validation.mean, curve.validation.low) == ((None,), (None,))


def test_training_loss_in_evaluation_mode_is_preferred(done: Done) -> None:
    first, _ = rows(done)
    curve = curves_of("with", [first], {first.id: [point(1, 2.0, train_eval=0.5)]})
    assert curve is not None
    assert curve.train_in_evaluation
    assert (curve.train.mean, curve.train.low) == ((0.5,), (None,))


def test_long_curves_keep_their_ends(done: Done) -> None:
    first, _ = rows(done)
    long = [point(epoch, 1.0) for epoch in range(1, 1001)]
    curve = curves_of("with", [first], {first.id: long})
    assert curve is not None
    assert len(curve.epoch) == MOST_POINTS
    assert (curve.epoch[0], curve.epoch[-1]) == (1, 1000)
    assert curves_of("with", [replace(first, id=first.id)], {}) is None


def score(arm: str, gap: float | None) -> ArmScore:
    return ArmScore(
        arm=arm, trials=1, trial=None, mean=0.3, std=None, seeds=5, train_validation_gap=gap
    )


def test_a_small_gap_is_no_overfitting() -> None:
    found = diagnose([score("without", 0.4), score("with", 0.05), score("textbook", None)])
    assert [(one.arm, one.word) for one in found] == [
        ("without", "overfits"), ("with", "little_gap")
    ]  # fmt: skip


def test_one_value_has_no_interval() -> None:
    assert mean_interval([2.0]) == (2.0, None)
    mean, bounds = mean_interval([1.0, 3.0])
    assert mean == 2.0
    assert bounds == pytest.approx((2.0 - 12.7062, 2.0 + 12.7062), abs=1e-3)
