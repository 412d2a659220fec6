"""What the evidence can detect: told before the run, refined after the shortlist.

Noise is kept as components that depend on neither the number of seeds nor of examples, so that
other numbers can be asked for.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from dropt.tuning.evidence import FEWEST_EXAMPLES, Bottleneck, CrossedStatistics
from dropt.tuning.looks import ALPHA, FEWEST_SEEDS, LookPlan
from dropt.tuning.student import t_critical, t_quantile

POWER = 0.8
LOOKS_FACTOR = 1.1  # looks and the estimate of the noise; 1.05 gave a power of 76-81 %
EQUIVALENCE_Z = 1.28  # both sides of a true 0 hold with a power of 80 %
SPREAD_FACTOR = 1.3  # on the deviation over seeds: its estimate is often too small
MOST_SEEDS = 10_000
MOST_EXAMPLES = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Noise:
    """Variances of a paired difference: of the seed, of the example, and of what is left."""

    seed: float
    example: float
    residual: float = 0.0

    def expected(self, n_seeds: int, n_examples: int) -> CrossedStatistics:
        """The mean squares that this many seeds and examples have on average."""
        return CrossedStatistics(
            effect=0.0,
            ms_seed=n_examples * self.seed + self.residual,
            ms_example=n_seeds * self.example + self.residual,
            ms_residual=self.residual,
            n_seeds=n_seeds,
            n_examples=n_examples,
            seed_effects=(),
        )


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a plan can tell, in units of the metric.

    `detectable_effect`: found with 80 % power at the cap. `smallest_margin`: the smallest
    `min_effect` for which no difference can be shown, 80 % power. `seeds_needed` at this test
    set and `examples_needed` at this cap reach `min_effect`; None where no number does.
    """

    detectable_effect: float
    smallest_margin: float
    bottleneck: Bottleneck
    seeds_needed: int | None
    examples_needed: int | None


ACCURACY_NOISE = Noise(seed=2 * 0.002**2, example=0.05)  # tuned networks; 5 % disagree


def noise_of(statistics: CrossedStatistics) -> Noise:
    """The components behind measured mean squares, none below 0."""
    residual = statistics.ms_residual
    return Noise(
        seed=max(statistics.ms_seed - residual, 0.0) / statistics.n_examples,
        example=max(statistics.ms_example - residual, 0.0) / statistics.n_seeds,
        residual=residual,
    )


def noise_after_shortlist(
    arms: Sequence[Sequence[Sequence[float]]], validation: Noise
) -> Noise | None:
    """Noise to plan with after the shortlist.

    `arms` holds the values on fresh seeds of every shortlisted configuration of each arm; the
    seed variance is the sum over arms of their pooled variances. Examples and residual come from
    the `validation` scores of the two winners. None when an arm has no configuration with two
    values.
    """
    pooled = [_pooled_variance(configurations) for configurations in arms]
    if any(math.isnan(variance) for variance in pooled):
        return None
    return Noise(SPREAD_FACTOR**2 * sum(pooled), validation.example, validation.residual)


def detectable_effect(noise: Noise, *, n_seeds: int, n_examples: int) -> float:
    """Effect that is found with 80 % power, with looks up to `n_seeds`."""
    expected = noise.expected(n_seeds, n_examples)
    if expected.df is None:
        return 0.0
    quantiles = t_critical(ALPHA, expected.df) + t_quantile(POWER, expected.df)
    return LOOKS_FACTOR * quantiles * expected.se


def smallest_margin(noise: Noise, *, n_seeds: int, n_examples: int, level: float) -> float:
    """Smallest `min_effect` for which no difference can be shown with 80 % power.

    `level` is that of the last look.
    """
    expected = noise.expected(n_seeds, n_examples)
    if expected.df is None:
        return 0.0
    return (t_critical(level, expected.df) + EQUIVALENCE_Z) * expected.se


def outlook(noise: Noise, plan: LookPlan, *, n_examples: int, min_effect: float) -> Outlook:
    """What this plan can tell on a test set of this size, and what more it would take.

    Raises ValueError for a plan without looks.
    """
    if not plan.looks:
        raise ValueError("a plan without looks tells nothing")
    at_cap = noise.expected(plan.cap, n_examples)
    return Outlook(
        detectable_effect=detectable_effect(noise, n_seeds=plan.cap, n_examples=n_examples),
        smallest_margin=smallest_margin(
            noise, n_seeds=plan.cap, n_examples=n_examples, level=plan.levels[-1]
        ),
        bottleneck=at_cap.bottleneck,
        seeds_needed=_fewest(
            lambda n: detectable_effect(noise, n_seeds=n, n_examples=n_examples) <= min_effect,
            FEWEST_SEEDS,
            MOST_SEEDS,
        ),
        examples_needed=_fewest(
            lambda n: detectable_effect(noise, n_seeds=plan.cap, n_examples=n) <= min_effect,
            FEWEST_EXAMPLES,
            MOST_EXAMPLES,
        ),
    )


def _pooled_variance(configurations: Sequence[Sequence[float]]) -> float:
    """Variance over seeds, pooled over configurations with two values or more; else nan."""
    repeated = [values for values in configurations if len(values) > 1]
    freedom = sum(len(values) - 1 for values in repeated)
    squares = sum((len(values) - 1) * float(np.var(values, ddof=1)) for values in repeated)
    return squares / freedom if freedom else math.nan


def _fewest(reaches: Callable[[int], bool], low: int, high: int) -> int | None:
    """Smallest number in [low, high] that reaches the goal, which more never leave again."""
    if not reaches(high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if reaches(middle) else (middle + 1, high)
    return low
