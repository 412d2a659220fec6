import math

import numpy as np
import pytest

from dropt.tuning.evidence import crossed_statistics
from dropt.tuning.looks import PLANS, LookPlan, simulate_t
from dropt.tuning.planning import (
    ACCURACY_NOISE,
    Noise,
    detectable_effect,
    noise_after_shortlist,
    noise_of,
    outlook,
    smallest_margin,
)
from dropt.tuning.student import t_critical


def test_a_thousand_test_examples_detect_two_points_of_accuracy() -> None:
    effect = detectable_effect(ACCURACY_NOISE, n_seeds=20, n_examples=1000)
    assert effect == pytest.approx(0.022, abs=0.0005)


def test_noise_is_recovered_from_mean_squares_of_any_size() -> None:
    noise = Noise(seed=0.04, example=0.3, residual=0.7)
    for n_seeds, n_examples in ((5, 100), (20, 10_000)):
        recovered = noise_of(noise.expected(n_seeds, n_examples))
        assert recovered.seed == pytest.approx(0.04)
        assert recovered.example == pytest.approx(0.3)
        assert recovered.residual == 0.7


def test_variance_of_the_expected_effect_is_the_sum_of_its_parts() -> None:
    noise = Noise(seed=0.04, example=0.3, residual=0.7)
    expected = noise.expected(8, 500)
    assert expected.se**2 == pytest.approx(0.04 / 8 + 0.3 / 500 + 0.7 / 4000)


def test_noise_of_drawn_scores_is_near_the_truth() -> None:
    generator = np.random.default_rng(0)
    rows = (
        0.2 * generator.standard_normal((300, 1))
        + 0.5 * generator.standard_normal(400)
        + generator.standard_normal((300, 400))
    )
    noise = noise_of(crossed_statistics(rows))
    assert (noise.seed, noise.example, noise.residual) == pytest.approx(
        (0.04, 0.25, 1.0), rel=0.25
    )


def test_components_below_zero_are_zero() -> None:
    noise = noise_of(crossed_statistics([[1.0, 0.0], [0.0, 1.0]]))
    assert (noise.seed, noise.example) == (0.0, 0.0)
    assert noise.residual == 1.0


@pytest.mark.parametrize("cap", [8, 20, 30])
def test_planned_effect_is_found_with_the_planned_power(cap: int) -> None:
    effect = detectable_effect(Noise(seed=1.0, example=0.0), n_seeds=cap, n_examples=1000)
    plan = PLANS[cap]
    paths = simulate_t(plan.looks, 40_000, np.random.default_rng(cap), effect=effect)
    pairs = zip(plan.levels, plan.looks, strict=True)
    criticals = [t_critical(level, n_seeds - 1) for level, n_seeds in pairs]
    power = float((np.abs(paths) > criticals).any(axis=1).mean())
    assert 0.76 <= power <= 0.84


def test_no_difference_can_be_shown_at_the_smallest_margin() -> None:
    """A true effect of 0 ends inside the margin in 80 % of runs at the last look."""
    margin = smallest_margin(
        Noise(seed=1.0, example=0.0), n_seeds=20, n_examples=1000, level=0.0269
    )
    seeds = np.random.default_rng(1).standard_normal((40_000, 20))
    half = t_critical(0.0269, 19) * seeds.std(axis=1, ddof=1) / math.sqrt(20)
    inside = np.abs(seeds.mean(axis=1)) + half < margin
    assert float(inside.mean()) == pytest.approx(0.80, abs=0.03)


def test_no_noise_detects_everything() -> None:
    noise = Noise(seed=0.0, example=0.0)
    assert detectable_effect(noise, n_seeds=5, n_examples=50) == 0.0
    assert smallest_margin(noise, n_seeds=5, n_examples=50, level=0.05) == 0.0


def test_outlook_names_the_fewest_seeds_and_examples_that_reach_the_effect() -> None:
    noise = Noise(seed=1e-4, example=0.02, residual=0.02)
    view = outlook(noise, PLANS[20], n_examples=2000, min_effect=0.01)
    seeds, examples = view.seeds_needed, view.examples_needed
    assert seeds is not None
    assert examples is not None
    assert view.detectable_effect == detectable_effect(noise, n_seeds=20, n_examples=2000)
    assert detectable_effect(noise, n_seeds=seeds, n_examples=2000) <= 0.01
    assert detectable_effect(noise, n_seeds=seeds - 1, n_examples=2000) > 0.01
    assert detectable_effect(noise, n_seeds=20, n_examples=examples) <= 0.01
    assert detectable_effect(noise, n_seeds=20, n_examples=examples - 1) > 0.01


def test_bottleneck_is_what_more_of_the_other_cannot_mend() -> None:
    few_examples = outlook(ACCURACY_NOISE, PLANS[20], n_examples=1000, min_effect=0.005)
    assert few_examples.bottleneck == "examples"
    assert few_examples.seeds_needed is None
    assert few_examples.examples_needed is not None
    noisy_seeds = outlook(
        Noise(seed=1.0, example=0.01), PLANS[20], n_examples=1000, min_effect=0.2
    )
    assert noisy_seeds.bottleneck == "seeds"
    assert noisy_seeds.examples_needed is None
    assert noisy_seeds.seeds_needed is not None


def test_plan_without_looks_has_no_outlook() -> None:
    with pytest.raises(ValueError, match="without looks"):
        outlook(ACCURACY_NOISE, LookPlan((), ()), n_examples=1000, min_effect=0.005)


def test_seed_noise_after_the_shortlist_pools_all_configurations_of_both_arms() -> None:
    without = [[1.0, 2.0, 3.0], [5.0, 5.0], [9.0]]
    with_ = [[0.0, 2.0]]
    noise = noise_after_shortlist([without, with_], Noise(seed=99.0, example=0.3, residual=0.4))
    pooled_without = (2 * 1.0 + 1 * 0.0) / 3
    assert noise is not None
    assert noise.seed == pytest.approx(1.3**2 * (pooled_without + 2.0))
    assert (noise.example, noise.residual) == (0.3, 0.4)


def test_without_repeats_the_seed_noise_is_unknown() -> None:
    assert noise_after_shortlist([[[1.0, 2.0]], [[1.0]]], ACCURACY_NOISE) is None
