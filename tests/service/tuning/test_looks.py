import numpy as np
import pytest

from dropt.tuning.evidence import CrossedStatistics
from dropt.tuning.looks import PLANS, LookPlan, is_futile, plan_looks, simulate_t, spend_linearly
from dropt.tuning.student import normal_quantile, t_critical

N_PATHS = 1_000_000


def any_claim(paths: np.ndarray, plan: LookPlan) -> float:
    """Share of paths whose interval excludes 0 at one of the looks."""
    pairs = zip(plan.levels, plan.looks, strict=True)
    criticals = np.array([t_critical(level, n_seeds - 1) for level, n_seeds in pairs])
    return float((np.abs(paths) > criticals).any(axis=1).mean())


@pytest.mark.parametrize("cap", sorted(PLANS))
def test_levels_are_those_of_linear_spending(cap: int) -> None:
    plan = PLANS[cap]
    paths = simulate_t(plan.looks, N_PATHS, np.random.default_rng(cap))
    assert spend_linearly(paths, plan.looks) == pytest.approx(plan.levels, rel=0.04)
    assert 0.049 <= any_claim(paths, plan) <= 0.051


def test_looking_without_adjustment_makes_far_more_false_claims() -> None:
    plan = LookPlan((5, 8, 12, 20), (0.05,) * 4)
    paths = simulate_t(plan.looks, N_PATHS, np.random.default_rng(0))
    assert any_claim(paths, plan) == pytest.approx(0.137, abs=0.002)


@pytest.mark.parametrize(
    ("cap", "effect"), [(5, 1.69), (8, 1.28), (12, 0.99), (20, 0.72), (30, 0.58)]
)
def test_plans_find_their_effect_with_a_power_of_80_percent(cap: int, effect: float) -> None:
    paths = simulate_t(PLANS[cap].looks, 40_000, np.random.default_rng(cap), effect=effect)
    assert any_claim(paths, PLANS[cap]) == pytest.approx(0.80, abs=0.015)


def test_drawn_t_statistics_have_the_law_of_t_at_each_look() -> None:
    looks = (2, 5, 6)
    paths = simulate_t(looks, 40_000, np.random.default_rng(1))
    for k, n_seeds in enumerate(looks):
        outside = np.abs(paths[:, k]) > t_critical(0.1, n_seeds - 1)
        assert float(outside.mean()) == pytest.approx(0.1, abs=0.006)  # 4 standard errors


def test_efforts_have_their_caps() -> None:
    assert plan_looks("quick").looks == (5, 8)
    assert plan_looks("default").levels == (0.0126, 0.0102, 0.0141, 0.0269)
    assert plan_looks("thorough").cap == 30


@pytest.mark.parametrize(
    ("possible", "cap"), [(0, 0), (4, 0), (5, 5), (7, 5), (8, 8), (12, 12), (29, 20), (99, 30)]
)
def test_fewer_possible_seeds_give_a_smaller_plan(possible: int, cap: int) -> None:
    assert plan_looks("thorough", seeds_possible=possible).cap == cap


def test_effort_bounds_the_plan_however_many_seeds_are_possible() -> None:
    assert plan_looks("quick", seeds_possible=200).cap == 8


def test_next_look_is_the_first_one_not_yet_reached() -> None:
    plan = PLANS[20]
    assert [plan.next_look(n) for n in (0, 4, 5, 11, 12, 20)] == [5, 5, 8, 12, 20, None]


def noisy_examples(
    effect: float, *, n_seeds: int = 8, ms_residual: float = 1.0
) -> CrossedStatistics:
    """Statistics whose examples alone leave a standard error of 0.01 at 8 seeds."""
    n_examples = 1000
    ms_example = 1.0 + 0.01**2 * 8 * n_examples
    return CrossedStatistics(effect, 2.0, ms_example, ms_residual, n_seeds, n_examples, ())


def test_futility_is_an_effect_well_inside_what_examples_alone_leave_open() -> None:
    plan = PLANS[20]
    half = normal_quantile(1 - 0.0269 / 2) * 0.01
    assert is_futile(noisy_examples(0.0), plan, min_effect=0.005)
    assert is_futile(noisy_examples(-0.499 * half), plan, min_effect=0.005)
    assert not is_futile(noisy_examples(0.501 * half), plan, min_effect=0.005)
    assert not is_futile(noisy_examples(0.0), plan, min_effect=1.001 * half)


def test_last_look_is_never_futile() -> None:
    assert not is_futile(noisy_examples(0.0, n_seeds=20), PLANS[20], min_effect=1e-6)


def test_examples_that_vary_no_more_than_the_residual_are_never_futile() -> None:
    statistics = noisy_examples(0.0, ms_residual=100.0)
    assert not is_futile(statistics, PLANS[20], min_effect=1e-9)
