"""What a reader of the verdict should know beside it; a caution never changes the verdict."""

from typing import Literal

import numpy as np

from dropt.tuning.evidence import CrossedStatistics

Caution = Literal[
    "few_test_examples",
    "heavy_tailed_examples",
    "skewed_seeds",
    "unstable_seeds",
    "without_undertuned",
    "with_undertuned",
]

FEW_EXAMPLES = 200  # test examples; the interval is then wide and its tails are less certain
HEAVY_SHARE = 0.5  # of MS_B, carried by the 1 % of examples farthest from the effect
SKEW_DEVIATIONS = 5.0  # robust standard deviations from the median seed
NORMAL_MAD = 1.4826  # standard deviation over median absolute deviation of a normal law
ENOUGH_WITHOUT_TRIALS = 30  # with 20, one tie in ten looks like a benefit
TRIALS_PER_DIMENSION = 10
LATE_SHARE = 0.2  # of the trials: a best one among the last fifth says that search was not done


def has_heavy_tail(statistics: CrossedStatistics) -> bool:
    """Whether few examples carry most of the example variance: the interval may be too short.

    For losses; a bounded score per example has no such tail.
    """
    return statistics.top_example_share > HEAVY_SHARE


def has_skewed_seeds(statistics: CrossedStatistics) -> bool:
    """Whether a seed lies more than five robust standard deviations from the median seed.

    The scale is never below the noise that the residuals leave in a seed's mean (a difference
    from the plain rule): over few 0/1 scores most seeds may tie, and the MAD is then 0.
    """
    effects = np.asarray(statistics.seed_effects)
    distances = np.abs(effects - np.median(effects))
    noise = np.sqrt(statistics.ms_residual / statistics.n_examples)
    scale = max(NORMAL_MAD * float(np.median(distances)), float(noise))
    return bool(distances.max() > SKEW_DEVIATIONS * scale)


def evidence_cautions(
    statistics: CrossedStatistics, *, bounded: bool, n_unstable: int = 0
) -> tuple[Caution, ...]:
    """Cautions about the paired scores.

    `bounded`: each example scores within fixed bounds, as accuracy does. `n_unstable`: trainings
    of the comparison that diverged and were scored as the constant predictor.
    """
    found: dict[Caution, bool] = {
        "few_test_examples": statistics.n_examples < FEW_EXAMPLES,
        "heavy_tailed_examples": not bounded and has_heavy_tail(statistics),
        "skewed_seeds": has_skewed_seeds(statistics),
        "unstable_seeds": n_unstable > 0,
    }
    return tuple(caution for caution, holds in found.items() if holds)


def search_cautions(
    *, n_without: int, n_with: int, n_with_dimensions: int, best_with: int | None
) -> tuple[Caution, ...]:
    """Cautions about the search that found the two configurations.

    Counts are search trials that ended, pruned ones included; `best_with` is the position of the
    best `with` trial among them, from 1, None without one.
    """
    late = best_with is not None and best_with > (1.0 - LATE_SHARE) * n_with
    found: dict[Caution, bool] = {
        "without_undertuned": n_without < ENOUGH_WITHOUT_TRIALS,
        "with_undertuned": n_with < TRIALS_PER_DIMENSION * n_with_dimensions or late,
    }
    return tuple(caution for caution, holds in found.items() if holds)
