import math
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dropt.spec.space import Dropout
from dropt.tuning.shortlist import (
    PLANS,
    ArmName,
    Candidate,
    Configuration,
    Entry,
    Round,
    ShortlistPlan,
    draw_up,
    is_eligible,
    rank,
)

FLAT_ROUNDS: dict[ArmName, tuple[Round, ...]] = {"without": (Round(3, 1),), "with": (Round(3, 1),)}
PLAN = ShortlistPlan(2, 2, FLAT_ROUNDS)


def candidate(
    name: str, value: float | None, *, lr: float, completed: bool = True, **rates: float
) -> Candidate:
    return Candidate(name, Configuration({"lr": lr}, placed(rates)), value, completed)


def placed(rates: Mapping[str, float]) -> dict[str, Dropout]:
    return {site: Dropout(rate=rate) for site, rate in rates.items()}


def shown(entries: tuple[Entry, ...]) -> list[tuple[float, dict[str, float], tuple[float, ...]]]:
    """What an entry trains and the values that it brings: lr, rates above 0, values."""
    return [
        (
            entry.configuration.params["lr"],
            {site: dropout.rate for site, dropout in entry.configuration.on.items()},
            entry.values,
        )
        for entry in entries
    ]


def entry(name: str, *values: float, arm: ArmName = "with") -> Entry:
    return Entry(arm, Configuration({"lr": 0.1}, placed({"a": 0.2})), values, name)


def test_shortlists_have_the_sizes_of_their_effort() -> None:
    """The table of the design: 20 trainings flat, 42 in a race in which `without` gets more."""
    sizes = {
        effort: [plan.n_trainings("without"), plan.n_trainings("with")]
        for effort, plan in PLANS.items()
    }
    assert sizes == {"quick": [10, 10], "default": [26, 16], "thorough": [26, 16]}


def test_best_of_each_arm_enter_and_exchange_their_nuisances() -> None:
    without = [candidate(f"o{k}", 0.5 + k / 10, lr=k + 1.0) for k in range(4)]
    with_ = [
        candidate("w0", 0.4, lr=10.0, a=0.3, b=0.0),
        candidate("w1", 0.6, lr=20.0, a=0.1, b=0.2),
        candidate("w2", 0.7, lr=30.0, a=0.2, b=0.2),
    ]
    lists = draw_up({"without": without, "with": with_}, PLAN, "minimize")
    assert shown(lists["without"]) == [
        (1.0, {}, (0.5,)), (2.0, {}, (0.6,)), (10.0, {}, ()), (20.0, {}, ()),
    ]  # fmt: skip
    assert shown(lists["with"]) == [
        (10.0, {"a": 0.3}, (0.4,)), (20.0, {"a": 0.1, "b": 0.2}, (0.6,)),
        (1.0, {"a": 0.3}, ()), (2.0, {"a": 0.3}, ()),
    ]  # fmt: skip
    assert [e.trial for e in lists["with"]] == ["w0", "w1", None, None]
    assert {e.arm for e in lists["without"]} == {"without"}


def test_direction_says_which_trials_are_best() -> None:
    trials = {
        "without": [candidate("low", 0.1, lr=1.0), candidate("high", 0.9, lr=2.0)],
        "with": [candidate("w", 0.5, lr=3.0, a=0.2)],
    }
    plan = ShortlistPlan(1, 0, FLAT_ROUNDS)
    for direction, best in (("minimize", "low"), ("maximize", "high")):
        lists = draw_up(trials, plan, direction)  # type: ignore[arg-type]  # keys are arm names
        assert [e.trial for e in lists["without"]] == [best]


def test_exchanged_configuration_that_is_on_the_list_enters_once() -> None:
    without = [candidate("o0", 0.5, lr=1.0)]
    with_ = [candidate("w0", 0.4, lr=1.0, a=0.3), candidate("w1", 0.6, lr=1.0, a=0.1)]
    lists = draw_up({"without": without, "with": with_}, PLAN, "minimize")
    assert shown(lists["without"]) == [(1.0, {}, (0.5,))]
    assert shown(lists["with"]) == [(1.0, {"a": 0.3}, (0.4,)), (1.0, {"a": 0.1}, (0.6,))]


def test_exchanged_configuration_that_was_searched_brings_its_value() -> None:
    without = [candidate(f"o{k}", 0.5 + k / 10, lr=k + 1.0) for k in range(4)]
    with_ = [candidate("w0", 0.4, lr=4.0, a=0.3)]
    lists = draw_up({"without": without, "with": with_}, PLAN, "minimize")
    assert shown(lists["without"])[-1] == (4.0, {}, (0.8,))
    assert lists["without"][-1].trial == "o3"


def test_trials_of_the_same_configuration_are_one_entry_with_their_mean() -> None:
    without = [
        candidate("lucky", 0.1, lr=1.0),
        candidate("again", 0.9, lr=1.0, a=0.0),
        candidate("steady", 0.4, lr=2.0),
    ]
    with_ = [candidate("w", 0.5, lr=3.0, a=0.2)]
    plan = ShortlistPlan(2, 0, FLAT_ROUNDS)
    lists = draw_up({"without": without, "with": with_}, plan, "minimize")
    assert [(e.trial, e.values) for e in lists["without"]] == [
        ("steady", (0.4,)), ("lucky", (0.1, 0.9)),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arm", "trial", "eligible"),
    [
        ("with", candidate("t", 0.5, lr=1.0, a=0.2), True),
        ("with", candidate("t", 0.5, lr=1.0, a=0.0), False),
        ("with", candidate("t", 0.5, lr=1.0), False),
        ("without", candidate("t", 0.5, lr=1.0), True),
        ("without", candidate("t", 0.5, lr=1.0, completed=False), False),
        ("without", candidate("t", None, lr=1.0), False),
        ("without", candidate("t", math.nan, lr=1.0), False),
        ("without", candidate("t", math.inf, lr=1.0), False),
    ],
)
def test_only_finished_configurations_are_eligible(
    arm: ArmName, trial: Candidate, eligible: bool
) -> None:
    assert is_eligible(arm, trial) == eligible


def test_pruned_trials_neither_enter_nor_lend_their_nuisances() -> None:
    without = [candidate("o", 0.5, lr=1.0)]
    with_ = [
        candidate("pruned", 0.1, lr=9.0, a=0.4, completed=False),
        candidate("w", 0.4, lr=2.0, a=0.2),
    ]
    lists = draw_up({"without": without, "with": with_}, PLAN, "minimize")
    assert {e.configuration.params["lr"] for es in lists.values() for e in es} == {1.0, 2.0}


@pytest.mark.parametrize("empty", ["without", "with"])
def test_arm_without_an_eligible_trial_is_refused(empty: ArmName) -> None:
    trials: dict[ArmName, list[Candidate]] = {
        "without": [candidate("o", 0.5, lr=1.0)],
        "with": [candidate("w", 0.5, lr=1.0, a=0.2)],
    }
    trials[empty] = []
    with pytest.raises(ValueError, match=f"'{empty}' has no eligible trial"):
        draw_up(trials, PLAN, "minimize")


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9)), min_size=1, max_size=12),
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9)), min_size=1, max_size=12),
)
def test_no_list_holds_a_configuration_twice_or_too_many(
    without: list[tuple[int, int]], with_: list[tuple[int, int]]
) -> None:
    trials: dict[ArmName, list[Candidate]] = {
        "without": [candidate("o", float(value), lr=float(lr)) for lr, value in without],
        "with": [candidate("w", float(value), lr=float(lr), a=0.2) for lr, value in with_],
    }
    for arm, entries in draw_up(trials, PLAN, "maximize").items():
        keys = [e.configuration.key for e in entries]
        assert len(set(keys)) == len(keys) <= PLAN.n_best + PLAN.n_exchanged
        assert all(bool(key[1]) == (arm == "with") for key in keys)


def test_ranking_takes_the_mean_of_all_values_the_searched_ones_included() -> None:
    lucky, steady = entry("lucky", 0.1), entry("steady", 0.3)
    ranked = rank([(lucky, [0.5, 0.6]), (steady, [0.3, 0.3])], "minimize")
    assert [s.entry for s in ranked] == [steady, lucky]
    assert [s.mean for s in ranked] == pytest.approx([0.3, 0.4])
    assert [s.n_values for s in ranked] == [3, 3]


def test_ranking_of_exchanged_entries_rests_on_fresh_values_alone() -> None:
    exchanged = Entry("with", Configuration({"lr": 1.0}, placed({"a": 0.2})), (), None)
    (standing,) = rank([(exchanged, [0.8, 0.9])], "maximize")
    assert standing.mean == pytest.approx(0.85)


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
@pytest.mark.parametrize("lost", [None, math.nan])
def test_diverged_seed_ranks_a_configuration_last(direction: str, lost: float | None) -> None:
    unstable, poor = entry("unstable", 0.5), entry("poor", 0.5)
    poor_value = 9.0 if direction == "minimize" else 0.0
    ranked = rank([(unstable, [0.5, lost]), (poor, [poor_value])], direction)  # type: ignore[arg-type]  # a Direction
    assert [s.entry for s in ranked] == [poor, unstable]


def test_entry_without_fresh_values_does_not_compete() -> None:
    assert [s.entry.trial for s in rank([(entry("a", 0.9), []), (entry("b", 0.1), [0.1])],
                                        "maximize")] == ["b"]  # fmt: skip
    assert rank([(entry("a", 0.9), [])], "maximize") == ()


def test_ties_keep_the_order_of_the_search() -> None:
    ranked = rank([(entry("first", 0.5), [0.5]), (entry("second", 0.5), [0.5])], "maximize")
    assert [s.entry.trial for s in ranked] == ["first", "second"]
