import numpy as np
import pytest
from scipy import stats

from dropt.tuning.equivalence import ALPHA, indistinguishable


def test_two_configurations_are_told_apart_by_the_paired_t_test() -> None:
    generator = np.random.default_rng(3)
    common = generator.normal(0, 5, 8)  # what a seed does to both
    apart = []
    for shift in np.linspace(0, 2, 40):
        first, second = common + generator.normal(0, 1, 8), common + generator.normal(shift, 1, 8)
        test = stats.ttest_rel(second, first)
        apart.append(test.pvalue / 2 < ALPHA and test.statistic > 0)
        worse_first = stats.ttest_rel(first, second)
        first_apart = worse_first.pvalue / 2 < ALPHA and worse_first.statistic > 0
        assert indistinguishable([first.tolist(), second.tolist()], "minimize") == (
            not first_apart, not apart[-1],
        )  # fmt: skip
    assert 0 < sum(apart) < 40


def test_same_seeds_for_all_are_the_two_way_analysis_of_variance() -> None:
    """Against a computation by cell means: residual mean square, contrasts of row means."""
    generator = np.random.default_rng(4)
    rows = generator.normal(0, 1, (4, 6)) + np.array([0, 0.5, 2, 3])[:, None]
    rows += generator.normal(0, 9, 6)
    rest = rows - rows.mean(1, keepdims=True) - rows.mean(0) + rows.mean()
    df = 3 * 5
    se = np.sqrt(2 * np.square(rest).sum() / df / 6)
    worse = rows.mean(1) - rows.mean(1).min() > stats.t.ppf(1 - ALPHA / 3, df) * se
    assert worse.tolist() == [False, False, True, True]
    assert indistinguishable(rows.tolist(), "minimize") == tuple((~worse).tolist())


def test_missing_seeds_are_filled_by_least_squares() -> None:
    """The one that left early met a bad seed, as all did: it is not worse for that."""
    full = [10.0, 0.0, 0.1, -0.1, 0.05]
    other = [10.1, 0.1, 0.0, 0.0, -0.05]
    assert indistinguishable([full, other, [10.05]], "minimize") == (True, True, True)
    assert indistinguishable([full, other, [14.0]], "minimize") == (True, True, False)


def test_direction_says_which_is_worse() -> None:
    low, high = [0.1, 0.2, 0.15, 0.12], [0.9, 0.8, 0.85, 0.88]
    assert indistinguishable([low, high], "minimize") == (True, False)
    assert indistinguishable([low, high], "maximize") == (False, True)


def test_diverged_configuration_is_told_apart() -> None:
    assert indistinguishable([[0.1, None], [0.3, 0.2], []], "minimize") == (False, True, False)


@pytest.mark.parametrize("values", [[[0.5]], [[0.5], [9.0]], [[0.5, 0.4]]])
def test_without_an_estimate_of_the_noise_nothing_is_told_apart(
    values: list[list[float]],
) -> None:
    assert all(indistinguishable(values, "minimize"))


def test_nothing_gives_an_empty_set() -> None:
    assert indistinguishable([], "minimize") == ()
    assert indistinguishable([[None]], "minimize") == (False,)
