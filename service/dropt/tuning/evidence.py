"""The crossed interval: what paired scores say about fresh seeds and fresh test examples.

D[r, i] is the score of one arm minus that of the other under seed r on test example i, oriented
so that positive is better. Seeds and examples are both random and crossed: a two-way layout with
one observation per cell (readers and cases in radiology: Obuchowski and Rockette 1995, Hillis
2007). Legend: `R` seeds, `N` examples. Where examples have a declared group, `average_groups`
comes first, and "example" means group from then on.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from dropt.tuning.student import t_critical, t_upper_tail

FloatArray = npt.NDArray[np.float64]
Bottleneck = Literal["seeds", "examples"]

FEWEST_EXAMPLES = 50  # below it identical scores prove nothing, and no verdict is given
TAIL_SHARE = 0.01  # of the examples: those whose weight `top_example_share` measures
_ROUNDING = 64 * float(np.finfo(np.float64).eps)  # relative error of a mean of equal numbers


@dataclass(frozen=True, slots=True)
class Interval:
    """A two-sided interval for an effect; `level` is the chance to miss it, both sides."""

    low: float
    high: float
    level: float


@dataclass(frozen=True, slots=True)
class Variance:
    """Components at the R and N they were measured with.

    Var(effect) = seed / R + example / N - residual / (R N).
    """

    seed: float
    example: float
    residual: float


@dataclass(frozen=True, slots=True)
class CrossedStatistics:
    """Everything about D [R, N] that the interval needs.

    `ms_seed`, `ms_example`, `ms_residual` are the mean squares MS_A, MS_B, MS_E of the two-way
    analysis of variance; `seed_effects` are the row means, [R]; `top_example_share` is the part
    of MS_B that the 1 % of examples farthest from the effect carry (at least one example).
    """

    effect: float
    ms_seed: float
    ms_example: float
    ms_residual: float
    n_seeds: int
    n_examples: int
    seed_effects: tuple[float, ...]
    top_example_share: float = 0.0

    @property
    def q(self) -> float:
        """R N times the variance of the effect; 0 when all scores are the same."""
        return self._spread()[0]

    @property
    def se(self) -> float:
        """Standard error of the effect."""
        return math.sqrt(self.q / (self.n_seeds * self.n_examples))

    @property
    def df(self) -> float | None:
        """Satterthwaite's degrees of freedom; None when q is 0."""
        q, df = self._spread()
        return df if q > 0 else None

    @property
    def variance(self) -> Variance:
        """The components of the variance, as measured."""
        return Variance(
            seed=self.ms_seed / self.n_examples,
            example=self.ms_example / self.n_seeds,
            residual=self.ms_residual,
        )

    @property
    def bottleneck(self) -> Bottleneck:
        """Which part of the variance of the effect is larger; a tie counts for the seeds."""
        seed_part = self.variance.seed / self.n_seeds
        return "seeds" if seed_part >= self.variance.example / self.n_examples else "examples"

    @property
    def seeds_better(self) -> int:
        """Seeds with an effect above 0; a tie counts for neither side."""
        return sum(effect > 0 for effect in self.seed_effects)

    @property
    def seeds_worse(self) -> int:
        """Seeds with an effect below 0."""
        return sum(effect < 0 for effect in self.seed_effects)

    def _spread(self) -> tuple[float, float]:
        q, df = crossed_spread(
            self.ms_seed,
            self.ms_example,
            self.ms_residual,
            n_seeds=self.n_seeds,
            n_examples=self.n_examples,
        )
        return float(q), float(df)


@dataclass(frozen=True, slots=True, eq=False)
class PairSums:
    """D read seed by seed: what must be kept so that no row is needed twice.

    `example_sums` are the column sums, [N]; `within` is the sum of (D - row mean)^2, which loses
    no digits to cancellation as the sum of D^2 would.
    """

    example_sums: FloatArray
    seed_effects: tuple[float, ...] = ()
    within: float = 0.0

    @classmethod
    def empty(cls, n_examples: int) -> "PairSums":
        """No seed so far. Raises ValueError below two examples."""
        if n_examples < 2:
            raise ValueError(f"need at least 2 test examples, received {n_examples}")
        return cls(np.zeros(n_examples))

    def add(self, differences: npt.ArrayLike) -> "PairSums":
        """The sums with one more seed, differences [N].

        Raises ValueError for another length and for values that are not finite: a diverged
        training is scored as the constant predictor before it comes here.
        """
        row = np.asarray(differences, dtype=np.float64)
        if row.shape != self.example_sums.shape:
            raise ValueError(f"need {self.example_sums.shape} differences, received {row.shape}")
        if not np.isfinite(row).all():
            raise ValueError(f"{int((~np.isfinite(row)).sum())} differences are not finite")
        mean = float(row.mean())
        return PairSums(
            self.example_sums + row,
            (*self.seed_effects, mean),
            self.within + float(np.square(row - mean).sum()),
        )

    def statistics(self) -> CrossedStatistics:
        """The mean squares so far. Raises ValueError below two seeds."""
        n_seeds, n_examples = len(self.seed_effects), len(self.example_sums)
        if n_seeds < 2:
            raise ValueError(f"need at least 2 paired seeds, received {n_seeds}")
        rows = np.asarray(self.seed_effects)
        effect = float(rows.mean())
        distances = np.square(self.example_sums / n_seeds - effect)
        sum_seed = n_examples * float(np.square(rows - effect).sum())
        sum_example = n_seeds * float(distances.sum())
        floor = self._rounding()
        return CrossedStatistics(
            effect=effect,
            ms_seed=_above(floor, sum_seed) / (n_seeds - 1),
            ms_example=_above(floor, sum_example) / (n_examples - 1),
            ms_residual=_above(floor, self.within - sum_example)
            / ((n_seeds - 1) * (n_examples - 1)),
            n_seeds=n_seeds,
            n_examples=n_examples,
            seed_effects=self.seed_effects,
            top_example_share=_top_share(distances),
        )

    def _rounding(self) -> float:
        """Sums of squares up to here are what rounding leaves of 0."""
        between = len(self.example_sums) * float(np.square(self.seed_effects).sum())
        return _ROUNDING**2 * (self.within + between)


def crossed_statistics(differences: npt.ArrayLike) -> CrossedStatistics:
    """Mean squares of D [R, N]; the order of seeds and of examples does not matter.

    Raises ValueError for fewer than two seeds or examples and for values that are not finite.
    """
    rows = np.asarray(differences, dtype=np.float64)
    if rows.ndim != 2:
        raise ValueError(f"differences must be [seeds, examples], received shape {rows.shape}")
    sums = PairSums.empty(rows.shape[1])
    for row in rows:
        sums = sums.add(row)
    return sums.statistics()


def crossed_spread(
    ms_seed: npt.ArrayLike,
    ms_example: npt.ArrayLike,
    ms_residual: npt.ArrayLike,
    *,
    n_seeds: int,
    n_examples: int,
) -> tuple[FloatArray, FloatArray]:
    """Q and Satterthwaite's degrees of freedom of the effect, elementwise over mean squares.

    Q = max(MS_A + MS_B - MS_E, MS_A, MS_B): never below either one-way variance. The variance of
    the effect is Q / (R N). The degrees of freedom are nan where Q is 0.
    """
    a, b, e = (
        np.asarray(square, dtype=np.float64) for square in (ms_seed, ms_example, ms_residual)
    )
    q = np.maximum(a + b - e, np.maximum(a, b))
    unit = np.where(q > 0, q, np.nan)  # the mean squares in units of Q: no overflow of squares
    weights = (
        (a / unit) ** 2 / (n_seeds - 1)
        + (b / unit) ** 2 / (n_examples - 1)
        + (e / unit) ** 2 / ((n_seeds - 1) * (n_examples - 1))
    )
    return q, 1.0 / weights


def crossed_interval(statistics: CrossedStatistics, level: float) -> Interval | None:
    """The effect -+ t(1 - level/2, df) se.

    Identical scores (q = 0) give [effect, effect] from `FEWEST_EXAMPLES` examples on, and None
    below: too few examples show no variation by chance.
    """
    df = statistics.df
    if df is None and statistics.n_examples < FEWEST_EXAMPLES:
        return None
    half = 0.0 if df is None else t_critical(level, df) * statistics.se
    return Interval(statistics.effect - half, statistics.effect + half, level)


def p_value(statistics: CrossedStatistics) -> float:
    """Two-sided p-value of no effect; the level at which the interval ends at 0.

    Identical scores: 0 for an effect other than 0 over enough examples, else 1.
    """
    df = statistics.df
    if df is None:
        proven = statistics.effect != 0 and statistics.n_examples >= FEWEST_EXAMPLES
        return 0.0 if proven else 1.0
    return 2.0 * t_upper_tail(abs(statistics.effect) / statistics.se, df)


def this_split(statistics: CrossedStatistics, level: float = 0.05) -> Interval:
    """Paired t interval over seeds: information about these test examples alone."""
    se = math.sqrt(statistics.variance.seed / statistics.n_seeds)
    half = t_critical(level, statistics.n_seeds - 1) * se
    return Interval(statistics.effect - half, statistics.effect + half, level)


def average_groups(scores: npt.ArrayLike, groups: npt.ArrayLike) -> FloatArray:
    """Mean score of each group, [..., N] -> [..., G], groups in sorted order.

    `groups` [N] names the unit that each example belongs to (patient, user, series).
    """
    values = np.asarray(scores, dtype=np.float64)
    _, index, counts = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    if index.shape != values.shape[-1:]:
        raise ValueError(f"need one group per example: {values.shape[-1:]}, {index.shape}")
    order = np.argsort(index, kind="stable")
    starts = np.concatenate(([0], np.cumsum(counts)[:-1]))
    sums = np.add.reduceat(values[..., order], starts, axis=-1)
    return np.asarray(sums / counts, dtype=np.float64)


def _above(floor: float, value: float) -> float:
    return value if value > floor else 0.0


def _top_share(distances: FloatArray) -> float:
    """Share of the sum that the largest 1 % (at least one) carry; 0 for a sum of 0."""
    total = float(distances.sum())
    n_top = math.ceil(TAIL_SHARE * len(distances))
    largest = np.partition(distances, len(distances) - n_top)[-n_top:]
    return float(largest.sum()) / total if total > 0 else 0.0
