import math
from itertools import product

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dropt.tuning.evidence import (
    CrossedStatistics,
    PairSums,
    average_groups,
    crossed_interval,
    crossed_spread,
    crossed_statistics,
    p_value,
    this_split,
)
from dropt.tuning.student import t_critical

Matrix = npt.NDArray[np.float64]


def matrices(most_seeds: int = 7, most_examples: int = 12) -> st.SearchStrategy[Matrix]:
    """Matrices [R, N] of whole thousandths, so that no two-way layout is lost to rounding."""

    def of(shape: tuple[int, int]) -> st.SearchStrategy[Matrix]:
        cell = st.integers(-2000, 2000)
        row = st.lists(cell, min_size=shape[1], max_size=shape[1])
        return st.lists(row, min_size=shape[0], max_size=shape[0]).map(
            lambda rows: np.asarray(rows, dtype=np.float64) / 1000
        )

    return st.tuples(st.integers(2, most_seeds), st.integers(2, most_examples)).flatmap(of)


def noisy(seed: int, n_seeds: int = 8, n_examples: int = 60, effect: float = 0.0) -> Matrix:
    generator = np.random.default_rng(seed)
    seeds = 0.3 * generator.standard_normal((n_seeds, 1))
    examples = generator.standard_normal(n_examples)
    return effect + seeds + examples + 0.5 * generator.standard_normal((n_seeds, n_examples))


def anova_by_hand(rows: Matrix) -> tuple[float, float, float, float]:
    """Grand mean and mean squares by sums over cells, exactly rounded."""
    n_seeds, n_examples = rows.shape
    cells = list(product(range(n_seeds), range(n_examples)))
    m = math.fsum(rows[r, i] for r, i in cells) / len(cells)
    a = [math.fsum(rows[r]) / n_examples for r in range(n_seeds)]
    b = [math.fsum(rows[:, i]) / n_seeds for i in range(n_examples)]
    between = math.fsum((a[r] - m) ** 2 for r, _ in cells) / (n_seeds - 1)
    across = math.fsum((b[i] - m) ** 2 for _, i in cells) / (n_examples - 1)
    left = math.fsum((rows[r, i] - a[r] - b[i] + m) ** 2 for r, i in cells)
    return m, between, across, left / ((n_seeds - 1) * (n_examples - 1))


def test_two_by_two_layout_worked_out_on_paper() -> None:
    statistics = crossed_statistics([[1.0, 2.0], [3.0, 6.0]])
    assert statistics.effect == 3.0
    assert (statistics.ms_seed, statistics.ms_example, statistics.ms_residual) == (9.0, 4.0, 1.0)
    assert statistics.seed_effects == (1.5, 4.5)
    assert statistics.q == 12.0
    assert statistics.se == math.sqrt(3.0)
    assert statistics.df == pytest.approx(144 / 98)


@given(matrices())
def test_mean_squares_are_those_of_the_two_way_analysis_of_variance(rows: Matrix) -> None:
    statistics = crossed_statistics(rows)
    m, between, across, left = anova_by_hand(rows)
    scale = max(1e-6, float(np.square(rows).mean()))
    assert statistics.effect == pytest.approx(m, abs=1e-13)
    assert statistics.ms_seed == pytest.approx(between, rel=1e-10, abs=1e-12 * scale)
    assert statistics.ms_example == pytest.approx(across, rel=1e-10, abs=1e-12 * scale)
    assert statistics.ms_residual == pytest.approx(left, rel=1e-10, abs=1e-12 * scale)


def test_interval_is_the_formula_on_the_hand_made_mean_squares() -> None:
    rows = noisy(0)
    m, a, b, e = anova_by_hand(rows)
    n_seeds, n_examples = rows.shape
    q = max(a + b - e, a, b)
    df = q**2 / (
        a**2 / (n_seeds - 1) + b**2 / (n_examples - 1) + e**2 / ((n_seeds - 1) * (n_examples - 1))
    )
    half = stats.t.isf(0.0102 / 2, df) * math.sqrt(q / rows.size)
    interval = crossed_interval(crossed_statistics(rows), 0.0102)
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx((m - half, m + half), rel=1e-10)
    assert interval.level == 0.0102


def test_components_add_up_to_the_variance_of_the_effect() -> None:
    statistics = crossed_statistics(noisy(1))
    variance, n_seeds, n_examples = statistics.variance, 8, 60
    total = (
        variance.seed / n_seeds
        + variance.example / n_examples
        - variance.residual / (n_seeds * n_examples)
    )
    assert statistics.se**2 == pytest.approx(total, rel=1e-12)


@settings(max_examples=50)
@given(matrices(), st.integers(0, 2**32 - 1))
def test_order_of_seeds_and_examples_does_not_matter(rows: Matrix, seed: int) -> None:
    generator = np.random.default_rng(seed)
    mixed = rows[generator.permutation(len(rows))][:, generator.permutation(rows.shape[1])]
    first, second = crossed_statistics(rows), crossed_statistics(mixed)
    scale = max(1.0, float(np.square(rows).max()))
    for name in ("effect", "ms_seed", "ms_example", "ms_residual", "q", "top_example_share"):
        assert getattr(first, name) == pytest.approx(getattr(second, name), abs=1e-11 * scale)


def test_seeds_alone_give_the_paired_t_interval() -> None:
    effects = np.random.default_rng(2).standard_normal(6)
    interval = crossed_interval(crossed_statistics(np.tile(effects[:, None], (1, 80))), 0.05)
    expected = stats.ttest_1samp(effects, 0.0).confidence_interval(0.95)
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), rel=1e-9)


def test_examples_alone_give_the_t_interval_over_examples() -> None:
    effects = np.random.default_rng(3).standard_normal(80)
    interval = crossed_interval(crossed_statistics(np.tile(effects, (6, 1))), 0.05)
    expected = stats.ttest_1samp(effects, 0.0).confidence_interval(0.95)
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), rel=1e-9)


@given(matrices())
def test_variance_is_never_below_either_one_way_variance(rows: Matrix) -> None:
    statistics = crossed_statistics(rows)
    assert statistics.q >= max(statistics.ms_seed, statistics.ms_example)


def test_residuals_larger_than_both_mean_squares_do_not_shrink_the_interval() -> None:
    q, df = crossed_spread(2.0, 3.0, 10.0, n_seeds=5, n_examples=101)
    assert float(q) == 3.0
    assert float(df) == pytest.approx(9 / (4 / 4 + 9 / 100 + 100 / 400))


def test_sums_read_seed_by_seed_say_the_same_at_every_seed() -> None:
    rows = noisy(4)
    sums = PairSums.empty(rows.shape[1])
    for n_seeds, row in enumerate(rows, start=1):
        sums = sums.add(row)
        if n_seeds >= 2:
            m, a, b, e = anova_by_hand(rows[:n_seeds])
            found = sums.statistics()
            assert (found.effect, found.ms_seed, found.ms_example, found.ms_residual) == (
                pytest.approx((m, a, b, e), rel=1e-10)
            )


def test_large_common_difference_loses_no_digits() -> None:
    rows = noisy(5)
    plain, moved = crossed_statistics(rows), crossed_statistics(rows + 1e6)
    assert moved.ms_residual == pytest.approx(plain.ms_residual, rel=1e-7)
    assert moved.ms_seed == pytest.approx(plain.ms_seed, rel=1e-7)


@pytest.mark.parametrize("effect", [0.0, 0.1, -1.0 / 3.0, 1e-9])
@pytest.mark.parametrize("n_examples", [50, 997])
def test_identical_scores_give_an_interval_of_one_point(effect: float, n_examples: int) -> None:
    statistics = crossed_statistics(np.full((20, n_examples), effect))
    interval = crossed_interval(statistics, 0.05)
    assert statistics.q == 0.0
    assert statistics.df is None
    assert interval is not None
    assert interval.low == interval.high == statistics.effect


def test_identical_scores_of_few_examples_give_no_interval() -> None:
    statistics = crossed_statistics(np.zeros((5, 49)))
    assert crossed_interval(statistics, 0.05) is None
    assert p_value(statistics) == 1.0


def test_p_value_is_the_level_at_which_the_interval_ends_at_zero() -> None:
    statistics = crossed_statistics(noisy(6, effect=0.4))
    interval = crossed_interval(statistics, p_value(statistics))
    assert interval is not None
    assert interval.low == pytest.approx(0.0, abs=1e-10)


def test_p_value_of_identical_scores_follows_their_interval() -> None:
    assert p_value(crossed_statistics(np.full((5, 50), 0.1))) == 0.0
    assert p_value(crossed_statistics(np.zeros((5, 50)))) == 1.0


def test_this_split_is_the_paired_t_interval_over_seed_means() -> None:
    rows = noisy(7)
    interval = this_split(crossed_statistics(rows))
    expected = stats.ttest_1samp(rows.mean(1), 0.0).confidence_interval(0.95)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), rel=1e-9)


def test_signs_of_seeds_leave_ties_out() -> None:
    statistics = crossed_statistics(np.outer([0.2, 0.0, -0.1, 0.3], np.ones(10)))
    assert (statistics.seeds_better, statistics.seeds_worse) == (2, 1)


def test_bottleneck_is_the_larger_part_of_the_variance() -> None:
    def of(ms_seed: float, ms_example: float) -> CrossedStatistics:
        return CrossedStatistics(0.0, ms_seed, ms_example, 1.0, 8, 100, ())

    assert of(3.0, 2.0).bottleneck == "seeds"
    assert of(2.0, 3.0).bottleneck == "examples"
    assert of(2.0, 2.0).bottleneck == "seeds"


def test_share_of_the_farthest_examples_is_measured() -> None:
    rows = np.zeros((5, 200))
    rows[:, :2] = [3.0, -3.0]
    assert crossed_statistics(rows).top_example_share == 1.0
    assert crossed_statistics(noisy(8, n_examples=1000)).top_example_share < 0.15


def test_examples_of_a_group_count_as_one() -> None:
    scores = [[1.0, 2.0, 6.0, 4.0, 5.0], [0.0, 0.0, 3.0, 1.0, 2.0]]
    averaged = average_groups(scores, ["b", "a", "b", "c", "b"])
    np.testing.assert_allclose(averaged, [[2.0, 4.0, 4.0], [0.0, 5.0 / 3.0, 1.0]])


@given(matrices(), st.data())
def test_averages_are_those_of_a_loop_over_groups(rows: Matrix, data: st.DataObject) -> None:
    n = rows.shape[1]
    groups = np.asarray(data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)))
    expected = np.stack([rows[:, groups == group].mean(1) for group in sorted(set(groups))], 1)
    np.testing.assert_allclose(average_groups(rows, groups), expected, atol=1e-12)


def test_groups_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="one group per example"):
        average_groups(np.zeros((2, 3)), [0, 1])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.zeros((1, 10)), "2 paired seeds, received 1"),
        (np.zeros((3, 1)), "2 test examples, received 1"),
        (np.zeros(4), "shape"),
        (np.array([[0.0, np.nan], [1.0, 2.0]]), "1 differences are not finite"),
        (np.array([[0.0, 1.0], [np.inf, -np.inf]]), "2 differences are not finite"),
    ],
)
def test_what_is_no_layout_is_refused(rows: Matrix, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        crossed_statistics(rows)


def test_row_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="received"):
        PairSums.empty(3).add([1.0, 2.0])


def gaussian_coverage(
    n_seeds: int, n_examples: int, ratio: float, generator: np.random.Generator
) -> float:
    """Share of 200,000 intervals that hold the true effect, drawn through mean squares.

    The residual variance is 1, seeds and examples add a variance of 2/N to the effect, `ratio`
    is the examples' part over the seeds' part.
    """
    n_runs, total = 200_000, 2.0 / n_examples
    seed = 0.0 if math.isinf(ratio) else total / (1 + ratio) * n_seeds
    example = (total if math.isinf(ratio) else total * ratio / (1 + ratio)) * n_examples
    df_a, df_b, df_e = n_seeds - 1, n_examples - 1, (n_seeds - 1) * (n_examples - 1)
    a = (n_examples * seed + 1) * generator.chisquare(df_a, n_runs) / df_a
    b = (n_seeds * example + 1) * generator.chisquare(df_b, n_runs) / df_b
    e = generator.chisquare(df_e, n_runs) / df_e
    variance = seed / n_seeds + example / n_examples + 1 / (n_seeds * n_examples)
    effects = math.sqrt(variance) * generator.standard_normal(n_runs)
    q, df = crossed_spread(a, b, e, n_seeds=n_seeds, n_examples=n_examples)
    nodes = np.geomspace(df.min(), df.max() + 1, 400)
    criticals = np.array([t_critical(0.05, node) for node in nodes])
    critical = np.interp(np.log(df), np.log(nodes), criticals)
    return float(np.mean(np.abs(effects) <= critical * np.sqrt(q / (n_seeds * n_examples))))


@pytest.mark.slow
@pytest.mark.parametrize("n_seeds", [5, 8, 12, 20])
def test_interval_covers_the_true_effect_of_gaussian_scores(n_seeds: int) -> None:
    generator = np.random.default_rng(n_seeds)
    for n_examples, ratio in product((200, 10_000), (0.0, 0.3, 1.0, 3.0, 10.0, math.inf)):
        coverage = gaussian_coverage(n_seeds, n_examples, ratio, generator)
        assert 0.940 <= coverage <= 0.958, (n_examples, ratio, coverage)
