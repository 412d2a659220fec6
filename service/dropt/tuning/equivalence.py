"""Configurations that fresh validation seeds cannot tell apart from the best.

The values of a race are a layout of configurations by seeds in which seeds are missing: who left
early has fewer. Least squares over configuration and seed effects use all of them; with the same
seeds for all this is the two-way analysis of variance, with two configurations the paired t test.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from dropt.tuning.evidence import FloatArray
from dropt.tuning.shortlist import cost
from dropt.tuning.student import t_quantile

if TYPE_CHECKING:
    from dropt.spec.job import Direction

# One-sided, over all comparisons with the best (Bonferroni). Below 0.05, because who left a race
# early did so on unlucky seeds: at 0.05 the best of six equals is lost in 6 % of the races, at
# 0.03 in 4 % (tests/statistics/test_parsimony.py).
ALPHA = 0.03


def indistinguishable(
    values: Sequence[Sequence[float | None]], direction: "Direction"
) -> tuple[bool, ...]:
    """Whether each configuration cannot be told apart from the best, in the order given.

    `values` are those on fresh seeds 0, 1, ... of each. A configuration stays unless its mean is
    worse than the best one at the one-sided level `ALPHA` / (k - 1). One that diverged under any
    seed is told apart; so few values that no noise can be estimated tell nothing apart.
    """
    alive = [i for i, one in enumerate(values) if one and all(_is_finite(v) for v in one)]
    stays = [False] * len(values)
    if alive:
        costs = [[cost(v, direction) for v in values[i] if v is not None] for i in alive]
        for i, is_near in zip(alive, _near_the_best(costs), strict=True):
            stays[i] = is_near
    return tuple(stays)


def _near_the_best(costs: Sequence[Sequence[float]]) -> list[bool]:
    k = len(costs)
    solve, covariance, hat_rest, df = _layout(tuple(len(one) for one in costs))
    if k == 1 or df < 1:
        return [True] * k
    seen = np.concatenate([np.asarray(one) for one in costs])
    means = (solve @ seen)[:k]
    variance = float(np.square(hat_rest @ seen).sum()) / df
    best = int(means.argmin())
    spread = covariance.diagonal()[:k] + covariance[best, best] - 2.0 * covariance[best, :k]
    critical = t_quantile(1.0 - ALPHA / (k - 1), df)
    worse = means - means[best] > critical * np.sqrt(np.maximum(variance * spread, 0.0))
    return [not one for one in worse]


@lru_cache(maxsize=256)
def _layout(counts: tuple[int, ...]) -> tuple[FloatArray, FloatArray, FloatArray, int]:
    """Least squares of a layout in which configuration i has seeds 0 to counts[i] - 1.

    The matrices that give the effects of configurations, then of seeds after the first, their
    covariance in units of the residual variance, the residuals; and their degrees of freedom.
    """
    k, n_seeds = len(counts), max(counts)
    cells = [(i, r) for i, count in enumerate(counts) for r in range(count)]
    design = np.zeros((len(cells), k + n_seeds - 1))
    for row, (i, r) in enumerate(cells):
        design[row, i] = 1.0
        if r > 0:
            design[row, k + r - 1] = 1.0
    solve = np.linalg.pinv(design)
    rest = np.eye(len(cells)) - design @ solve
    df = len(cells) - int(np.linalg.matrix_rank(design))
    return np.asarray(solve, np.float64), np.asarray(solve @ solve.T), np.asarray(rest), df


def _is_finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
