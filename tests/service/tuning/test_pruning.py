from math import nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dropt.spec.job import Direction, Pruner
from dropt.tuning.pruning import (
    Decision,
    RungScore,
    bracket_of,
    decide_by_halving,
    decide_by_median,
    judge,
    rung_epochs,
)

GO_ON, STOP = Decision.GO_ON, Decision.STOP
HALVING = Pruner()


def judged(
    value: float | None,
    rivals: list[float | None],
    *,
    pruner: Pruner = HALVING,
    direction: Direction = "minimize",
    number: int = 100,
) -> Decision:
    """The decision at the only rung, over rivals with the numbers 0, 1, 2, ..."""
    scores = [RungScore(i, rival) for i, rival in enumerate(rivals)]
    return judge(
        pruner, rung=9, rungs=(9,), number=number, value=value, rivals=scores, direction=direction
    )


@pytest.mark.parametrize(
    ("rungs", "epochs", "expected"),
    [
        ((0.34,), 27, (9,)),
        ((0.34,), 3, (1,)),
        ((0.34,), 2, (1,)),
        ((0.34,), 1, ()),
        ((0.99,), 10, ()),
        ((0.01,), 10, (1,)),
        ((0.67, 0.34, 0.33), 27, (9, 18)),
        ((0.1, 0.3, 0.9), 100, (10, 30, 90)),
    ],
)
def test_rungs_are_shares_of_the_epochs(
    rungs: tuple[float, ...], epochs: int, expected: tuple[int, ...]
) -> None:
    assert rung_epochs(Pruner(rungs=rungs), epochs) == expected


def test_the_first_rung_is_at_about_a_third_by_default() -> None:
    assert rung_epochs(Pruner(), 27) == (9,)
    assert rung_epochs(Pruner(), 100) == (34,)


def test_no_pruner_has_no_rungs() -> None:
    assert rung_epochs(Pruner(name="none"), 27) == ()


@given(st.lists(st.floats(0.001, 0.999), max_size=10), st.integers(1, 1000))
def test_rungs_rise_and_come_before_the_end(rungs: list[float], epochs: int) -> None:
    found = rung_epochs(Pruner(rungs=tuple(rungs)), epochs)
    assert list(found) == sorted(set(found))
    assert all(1 <= rung < epochs for rung in found)


def test_one_in_three_goes_on() -> None:
    rivals: list[float | None] = [1.0, 2.0, 3.0, 4.0, 5.0]
    assert [judged(value, rivals) for value in (0.5, 1.5, 2.0, 2.5)] == [GO_ON, GO_ON, GO_ON, STOP]


def test_a_rung_with_fewer_scores_than_the_factor_stops_nobody() -> None:
    assert judged(9.0, []) is GO_ON
    assert judged(9.0, [1.0]) is GO_ON
    assert judged(9.0, [1.0, 2.0]) is STOP


def test_ties_go_on() -> None:
    assert judged(1.0, [1.0, 1.0, 1.0, 1.0]) is GO_ON


def test_the_largest_values_go_on_when_they_are_the_best() -> None:
    rivals: list[float | None] = [0.1, 0.2, 0.3, 0.4, 0.5]
    assert judged(0.6, rivals, direction="maximize") is GO_ON
    assert judged(0.05, rivals, direction="maximize") is STOP


@pytest.mark.parametrize("value", [None, nan])
@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_a_training_that_diverged_is_the_worst(value: float | None, direction: Direction) -> None:
    assert judged(value, [1.0, 2.0], direction=direction) is STOP
    assert judged(1.0, [value, value], direction=direction) is GO_ON
    assert judged(value, [value, value], direction=direction) is GO_ON  # a tie


def test_a_score_of_the_trial_itself_from_an_earlier_attempt_is_ignored() -> None:
    assert judged(9.0, [1.0, 2.0], number=1) is GO_ON


def test_an_epoch_that_is_no_rung_stops_nobody() -> None:
    rivals = [RungScore(0, 1.0), RungScore(1, 1.0)]
    decision = judge(
        HALVING, rung=8, rungs=(9,), number=5, value=9.0, rivals=rivals, direction="minimize"
    )
    assert decision is GO_ON


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30), st.integers(2, 5))
def test_halving_keeps_at_least_the_best_share(scores: list[float], factor: int) -> None:
    kept = [
        score
        for i, score in enumerate(scores)
        if decide_by_halving(scores[:i] + scores[i + 1 :], score, factor=factor) is GO_ON
    ]
    n = len(scores) // factor
    assert kept == (
        scores if n == 0 else [score for score in scores if score <= sorted(scores)[n - 1]]
    )


def test_hyperband_with_one_rung_spares_every_second_trial() -> None:
    pruner = Pruner(name="hyperband")
    rivals: list[float | None] = [1.0, 1.0, 2.0, 2.0]  # numbers 0 and 2 share a bracket
    assert judged(9.0, rivals, pruner=pruner, number=100) is STOP
    assert judged(9.0, rivals, pruner=pruner, number=101) is GO_ON


def test_hyperband_compares_within_a_bracket() -> None:
    pruner = Pruner(name="hyperband", rungs=(0.3, 0.6))
    others = [RungScore(i, 1.0) for i in (0, 2, 3, 5)]  # brackets 0, 2, 0, 2

    def decide(number: int, rung: int, *peers: int) -> Decision:
        rivals = [*others, *(RungScore(i, 1.0) for i in peers)]
        return judge(
            pruner, rung=rung, rungs=(3, 6), number=number, value=9.0, rivals=rivals,
            direction="minimize",
        )  # fmt: skip

    assert decide(9, 3) is STOP
    assert decide(10, 3) is GO_ON  # bracket 1 skips the first rung
    assert decide(10, 6, 4) is GO_ON  # one peer is fewer than the factor
    assert decide(10, 6, 4, 7) is STOP
    assert decide(11, 6, 8) is GO_ON  # bracket 2 skips both


def test_brackets_go_round_by_the_number_of_the_trial() -> None:
    assert [bracket_of(number, (3, 6)) for number in range(5)] == [0, 1, 2, 0, 1]


def test_the_median_needs_five_others() -> None:
    pruner = Pruner(name="median")
    assert judged(9.0, [1.0] * 4, pruner=pruner) is GO_ON
    assert judged(9.0, [1.0] * 5, pruner=pruner) is STOP
    assert judged(1.0, [1.0] * 5, pruner=pruner) is GO_ON


@pytest.mark.parametrize(("score", "decision"), [(2.9, GO_ON), (3.0, GO_ON), (3.1, STOP)])
def test_worse_than_the_median_stops(score: float, decision: Decision) -> None:
    assert decide_by_median([1.0, 2.0, 3.0, 4.0, 5.0], score) is decision


def test_without_a_pruner_everyone_goes_on() -> None:
    assert judged(None, [1.0] * 50, pruner=Pruner(name="none")) is GO_ON
