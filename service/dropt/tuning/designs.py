"""Two-level designs, and the main effects that they show.

With N runs the effects of N - 1 factors are told apart, each from all N runs: half of them have
the factor on, and in each half every other factor is on equally often.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

# First rows of the cyclic designs of Plackett and Burman (1946, section 6), one sign per factor.
GENERATORS: Final = {12: "++-+++---+-", 24: "+++++-+-++--++--+-+----"}
N_RUNS: Final = (12, 16, 24)

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class MainEffects:
    """What switching each factor on adds to the value, and its standard error.

    `se` is infinite where no run was repeated well enough to know the noise.
    """

    effect: tuple[float, ...]
    se: tuple[float, ...]


def plackett_burman(n_runs: int) -> Bools:
    """Which factor is on in which run: [n_runs, n_runs - 1]; in one run all are on.

    The published run with all factors off is turned round, and the others with it: without any
    dropout a trial tells nothing that the other arm does not know. 16 runs are those of Sylvester.

    Raises:
        KeyError: no design of 12, 16 or 24 runs.
    """
    if n_runs == 16:
        run, factor = np.arange(16)[:, None], np.arange(1, 16)[None, :]
        is_on: Bools = np.bitwise_count(run & factor) % 2 == 0
        return is_on
    first = np.array([sign == "-" for sign in GENERATORS[n_runs]])
    cyclic = np.stack([np.roll(first, shift) for shift in range(n_runs - 1)])
    return np.vstack([cyclic, np.ones(n_runs - 1, dtype=np.bool_)])


def main_effects(is_on: Bools, values: Floats) -> MainEffects:
    """Least squares over runs and seeds, where each seed has a level of its own.

    The noise comes from the repetitions alone, so that interactions between factors, which a
    design of this size cannot tell from effects, do not pass for noise.

    Args:
        is_on: [R, F], factors of each run.
        values: [S, R], of each run with each seed; nan where it is missing.
    """
    n_seeds, n_runs = values.shape
    known = ~np.isnan(values)
    levels = np.repeat(np.eye(n_seeds), n_runs, axis=0)
    factors = np.tile(np.where(is_on, 0.5, -0.5), (n_seeds, 1))
    rows = np.hstack([levels, factors])[known.ravel()]
    if not len(rows):
        return MainEffects((0.0,) * is_on.shape[1], (np.inf,) * is_on.shape[1])
    inverse = np.linalg.pinv(rows)
    effect = (inverse @ values[known])[n_seeds:]
    se = np.sqrt(_noise(values) * (inverse**2).sum(axis=1))[n_seeds:]
    return MainEffects(tuple(map(float, effect)), tuple(map(float, se)))


def _noise(values: Floats) -> float:
    """Variance of one value, from the runs that every seed has; infinite for fewer than two."""
    complete = values[:, ~np.isnan(values).any(axis=0)]
    n_seeds, n_runs = complete.shape
    if n_seeds < 2 or n_runs < 2:
        return float("inf")
    left = complete - complete.mean(axis=0) - complete.mean(axis=1, keepdims=True)
    left += complete.mean()
    return float((left**2).sum() / ((n_seeds - 1) * (n_runs - 1)))
