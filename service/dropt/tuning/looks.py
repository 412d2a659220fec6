"""At which numbers of seeds the evidence is looked at, and at which level each time.

Linear alpha spending (Lan and DeMets 1983): the chance of a first crossing by look k is
0.05 R_k / R_cap when nothing is true, exact for t statistics of independent normal differences.
The law does not depend on their variance, so the levels are constants; `simulate_t` and
`spend_linearly` reproduce them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dropt.tuning.evidence import CrossedStatistics, FloatArray
from dropt.tuning.student import normal_quantile, t_upper_tail

if TYPE_CHECKING:
    from dropt.spec.job import Effort

ALPHA = 0.05  # of all looks together, two-sided
FEWEST_SEEDS = 5  # pairs; below it nothing is tested
CAPS: dict["Effort", int] = {"quick": 8, "default": 20, "thorough": 30}


@dataclass(frozen=True, slots=True)
class LookPlan:
    """Numbers of paired seeds and, for each, the two-sided level of its interval.

    Without looks nothing can be tested. Nothing is tested between looks.
    """

    looks: tuple[int, ...]
    levels: tuple[float, ...]

    @property
    def cap(self) -> int:
        """Most seeds that this plan asks for; 0 without looks."""
        return self.looks[-1] if self.looks else 0

    def next_look(self, n_seeds: int) -> int | None:
        """The first look above this many seeds; None after the last."""
        return next((look for look in self.looks if look > n_seeds), None)


PLANS: dict[int, LookPlan] = {
    plan.cap: plan
    for plan in (
        LookPlan((5,), (0.05,)),
        LookPlan((5, 8), (0.0314, 0.0278)),
        LookPlan((5, 8, 12), (0.0210, 0.0177, 0.0248)),
        LookPlan((5, 8, 12, 20), (0.0126, 0.0102, 0.0141, 0.0269)),
        LookPlan((5, 8, 12, 20, 30), (0.0082, 0.0065, 0.0090, 0.0173, 0.0253)),
    )
}


def plan_looks(effort: "Effort", *, seeds_possible: int | None = None) -> LookPlan:
    """The plan of an effort, or a smaller one when the budget allows fewer paired seeds.

    Fewer than `FEWEST_SEEDS` possible: a plan without looks. The plan is fixed before the first
    seed: another cap later would need other levels.
    """
    limit = CAPS[effort] if seeds_possible is None else min(CAPS[effort], seeds_possible)
    caps = [cap for cap in PLANS if cap <= limit]
    return PLANS[max(caps)] if caps else LookPlan((), ())


def is_futile(statistics: CrossedStatistics, plan: LookPlan, *, min_effect: float) -> bool:
    """Whether even endless seeds could hardly decide on this test set, before the last look.

    The half width that test examples alone leave exceeds `min_effect`, and the effect is below
    half of it. Stopping then cannot raise false claims.
    """
    if plan.next_look(statistics.n_seeds) is None:
        return False
    n_cells = statistics.n_seeds * statistics.n_examples
    examples_alone = max(statistics.ms_example - statistics.ms_residual, 0.0) / n_cells
    half = normal_quantile(1.0 - plan.levels[-1] / 2.0) * math.sqrt(examples_alone)
    return half > min_effect and abs(statistics.effect) < half / 2.0


def simulate_t(
    looks: Sequence[int], n_paths: int, generator: np.random.Generator, *, effect: float = 0.0
) -> FloatArray:
    """Draw t statistics [n_paths, K] of paired seeds looked at again and again.

    `effect` is in standard deviations of a paired difference. Between two looks the sum of the
    differences is normal and their squared deviations chi-squared, and that is all that t needs.
    """
    total, squares, before = np.zeros(n_paths), np.zeros(n_paths), 0
    paths = np.empty((n_paths, len(looks)))
    for k, n_seeds in enumerate(looks):
        fresh = n_seeds - before
        total_fresh = generator.normal(fresh * effect, math.sqrt(fresh), n_paths)
        inside = generator.chisquare(fresh - 1, n_paths) if fresh > 1 else 0.0
        total += total_fresh
        squares += total_fresh**2 / fresh + inside
        before = n_seeds
        variance = (squares - total**2 / n_seeds) / (n_seeds - 1)
        paths[:, k] = total / np.sqrt(n_seeds * variance)
    return paths


def spend_linearly(
    paths: FloatArray, looks: Sequence[int], *, alpha: float = ALPHA
) -> tuple[float, ...]:
    """Two-sided level of each look from t statistics [n_paths, K] drawn when nothing is true.

    Look k takes the largest |t| of the paths that did not cross before, as many as bring the
    share of crossed paths to alpha R_k / R_cap.
    """
    sizes = np.abs(paths)
    waiting = np.ones(len(sizes), dtype=bool)
    levels = []
    for k, n_seeds in enumerate(looks):
        target = round(alpha * n_seeds / looks[-1] * len(sizes))
        n_new = target - int((~waiting).sum())
        critical = float(np.partition(sizes[waiting, k], -n_new)[-n_new])
        waiting &= sizes[:, k] < critical
        levels.append(2.0 * t_upper_tail(critical, n_seeds - 1))
    return tuple(levels)
