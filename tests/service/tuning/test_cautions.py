import numpy as np
import numpy.typing as npt
import pytest

from dropt.tuning.cautions import evidence_cautions, has_skewed_seeds, search_cautions
from dropt.tuning.evidence import crossed_statistics


def calm(n_seeds: int = 8, n_examples: int = 400) -> npt.NDArray[np.float64]:
    seeds = 0.1 * np.linspace(-1, 1, n_seeds)[:, None]
    return seeds + np.random.default_rng(0).standard_normal((n_seeds, n_examples))


def test_calm_scores_need_no_caution() -> None:
    assert evidence_cautions(crossed_statistics(calm()), bounded=False) == ()


def test_fewer_than_200_test_examples_are_few() -> None:
    few = evidence_cautions(crossed_statistics(calm(n_examples=199)), bounded=False)
    assert few == ("few_test_examples",)
    assert evidence_cautions(crossed_statistics(calm(n_examples=200)), bounded=False) == ()


def test_few_examples_with_most_of_the_variance_are_a_heavy_tail() -> None:
    rows = calm()
    rows[:, :4] += [20.0, -20.0, 20.0, -20.0]
    statistics = crossed_statistics(rows)
    assert evidence_cautions(statistics, bounded=False) == ("heavy_tailed_examples",)
    assert evidence_cautions(statistics, bounded=True) == ()


def test_seed_far_from_the_median_seed_is_skewed() -> None:
    rows = calm()
    rows[3] += 3.0
    assert evidence_cautions(crossed_statistics(rows), bounded=False) == ("skewed_seeds",)


@pytest.mark.parametrize(
    ("last", "skewed"), [(7.66, False), (7.67, True), (-7.66, False), (-7.67, True)]
)
def test_five_robust_deviations_from_the_median_are_the_limit(last: float, skewed: bool) -> None:
    effects = np.array([0.0, 1.0, -1.0, 0.5, -1.5, 1.5, -0.5, last])
    distances = np.abs(effects - np.median(effects))
    limit = 5 * 1.4826 * np.median(distances)
    assert bool(distances.max() > limit) == skewed
    assert has_skewed_seeds(crossed_statistics(np.outer(effects, np.ones(50)))) == skewed


def test_ties_of_seeds_over_few_examples_are_not_skew() -> None:
    rows = np.zeros((5, 200))
    rows[4, 7] = 1.0
    assert not has_skewed_seeds(crossed_statistics(rows))


def test_identical_seeds_are_not_skewed() -> None:
    assert not has_skewed_seeds(crossed_statistics(np.zeros((5, 50))))


def test_diverged_trainings_are_told() -> None:
    statistics = crossed_statistics(calm())
    assert evidence_cautions(statistics, bounded=False, n_unstable=1) == ("unstable_seeds",)


@pytest.mark.parametrize(
    ("changed", "cautions"),
    [
        ({}, ()),
        ({"n_without": 29}, ("without_undertuned",)),
        ({"n_with": 59, "best_with": 1}, ("with_undertuned",)),
        ({"best_with": 48}, ()),
        ({"best_with": 49}, ("with_undertuned",)),
        ({"best_with": None}, ()),
        ({"n_without": 20, "n_with": 20}, ("without_undertuned", "with_undertuned")),
    ],
)
def test_short_searches_are_told(changed: dict[str, int], cautions: tuple[str, ...]) -> None:
    facts = {"n_without": 30, "n_with": 60, "n_with_dimensions": 6, "best_with": 10}
    assert search_cautions(**(facts | changed)) == cautions
