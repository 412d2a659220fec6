"""How random the masks are: shares, variances and correlations, each in its standard errors.

Every number is a z value, normal with mean 0 and deviation 1 for independent fair draws. All seeds
are fixed, so no test here fails by chance; the bounds say how seldom an honest generator would
pass them. `pytest -s` prints the table.
"""

import sys
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from tests.trainer.dropout.definition import slot

from dropt_trainer.dropout.masks import drop, mask_seed, site_key

Values = npt.NDArray[np.float64]
SITE = site_key("layers.1:out")
RATES = (0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 0.95, 0.99)
N_STREAMS, N_BITS = 64, 2**14

# What differs between the streams k = 0, 1, ..: seed, step, site, call.
STREAMS: dict[str, Callable[[int], tuple[int, int, int, int]]] = {
    "trials, consecutive seeds": lambda k: (k, 0, SITE, 0),
    "trials, high half of the seed": lambda k: (k << 32, 0, SITE, 0),
    "trials, one bit of the seed": lambda k: (1 << k if k < 63 else 0, 0, SITE, 0),
    "trials, as seeded": lambda k: (mask_seed(k), 0, SITE, 0),
    "steps": lambda k: (mask_seed(1), k, SITE, 0),
    "sites by name": lambda k: (mask_seed(1), 0, site_key(f"layers.{k}:out"), 0),
    "sites by number": lambda k: (mask_seed(1), 0, k, 0),
    "calls": lambda k: (mask_seed(1), 0, SITE, k),
}
LAGS = (1, 2, 3, 4, 7, 8, 16, 28, 64, 100, 128, 256, 784, 1024)  # neighbours, rows, maps


def dropped(n: int, rate: float, seed: int, step: int, site: int, call: int) -> Values:
    """[n], 1.0 where a unit falls."""
    y = drop(torch.ones(n), *slot(rate, seed, step), site=site, call=call)
    fallen: Values = np.where(y.numpy() == 0, 1.0, 0.0)
    return fallen


def standardised(name: str, rate: float) -> Values:
    """[streams, bits] with mean 0 and variance 1."""
    rows = []
    for k in range(N_STREAMS):
        seed, step, site, call = STREAMS[name](k)
        rows.append(dropped(N_BITS, rate, seed, step, site, call))
    units: Values = (np.stack(rows) - rate) / np.sqrt(rate * (1 - rate))
    return units


def show(name: str, values: Values) -> None:
    """A line of the table: how many, their deviation, the largest."""
    sys.stdout.write(
        f"\n{name:58} {values.size:6}  deviation {values.std():.3f}"
        f"  largest {np.abs(values).max():.2f}"
    )


@pytest.mark.parametrize("rate", RATES)
def test_share_of_dropped_units_is_the_rate(rate: float) -> None:
    """50 trials of 2^16 units each. The largest of 50 normal z exceeds 4.4 once in 1,800 tests;
    the one of all 3.3 million units exceeds 4 once in 16,000."""
    shares = np.array([dropped(2**16, rate, mask_seed(k), 5, SITE, 0).mean() for k in range(50)])
    z = (shares - rate) / (rate * (1 - rate) / 2**16) ** 0.5
    show(f"share at rate {rate}", z)
    assert np.abs(z).max() < 4.4
    assert abs(z.sum() / 50**0.5) < 4


@pytest.mark.parametrize("rate", [0.1, 0.5])
@pytest.mark.parametrize("name", list(STREAMS))
def test_neighbouring_streams_are_balanced_and_uncorrelated(name: str, rate: float) -> None:
    """z of 64 means, 2,016 pairs and 14 x 64 lags of 16,384 units each.

    The largest of 2,976 normal z exceeds 5.2 once in 1,700 such tests. The deviation of 2,016
    values has itself one of 0.016, that of 896 one of 0.024: bounds at 4 of these.
    """
    units = standardised(name, rate)
    means = units.mean(1) * N_BITS**0.5
    pairs = (units @ units.T / N_BITS**0.5)[np.triu_indices(N_STREAMS, 1)]
    lags = np.concatenate(
        [(units[:, :-n] * units[:, n:]).sum(1) / (N_BITS - n) ** 0.5 for n in LAGS]
    )
    for what, values in {"means": means, "pairs": pairs, "neighbours": lags}.items():
        show(f"{name}, {what}, rate {rate}", values)
    assert np.abs(np.concatenate([means, pairs, lags])).max() < 5.2
    assert abs(pairs.std() - 1) < 4 * 0.016
    assert abs(lags.std() - 1) < 4 * 0.024


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.5])
@pytest.mark.parametrize("size", [8, 64, 784])
def test_blocks_of_units_have_the_variance_of_a_binomial(size: int, rate: float) -> None:
    """2^20 units; 4 deviations of a sample variance: sqrt((2 + excess kurtosis) / blocks)."""
    n_blocks = 2**20 // size
    units = dropped(n_blocks * size, rate, mask_seed(2), 1, SITE, 0)
    counts = units.reshape(n_blocks, size).sum(1)
    variance = size * rate * (1 - rate)
    excess = (1 - 6 * rate * (1 - rate)) / variance
    z = (counts.var(ddof=1) / variance - 1) / ((2 + excess) / n_blocks) ** 0.5
    show(f"variance of blocks of {size} at rate {rate}", np.array([z]))
    assert abs(z) < 4


def test_the_numbers_behind_the_masks_are_uniform() -> None:
    """64 cells of 2^18 numbers, cut out by rates; chi-square with 63 degrees, 4 deviations."""
    n, edges = 2**18, [k / 64 for k in range(1, 64)]
    below = [dropped(n, rate, mask_seed(3), 0, SITE, 0).sum() for rate in edges]
    cells = np.diff([0.0, *below, float(n)])
    chi_square = ((cells - n / 64) ** 2).sum() / (n / 64)
    z = (chi_square - 63) / (2 * 63) ** 0.5
    show("chi-square of 64 cells of the numbers", np.array([z]))
    assert abs(z) < 4
