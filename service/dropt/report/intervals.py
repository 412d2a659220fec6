"""Means over seeds with their intervals."""

import math
from collections.abc import Sequence
from statistics import fmean, stdev

from dropt.spec.report import Bounds
from dropt.tuning.student import t_critical

LEVEL = 0.05


def mean_interval(values: Sequence[float]) -> tuple[float, Bounds | None]:
    """The mean and its 95 % interval by Student's t; None with fewer than two values."""
    mean = fmean(values)
    if len(values) < 2:
        return mean, None
    half = t_critical(LEVEL, len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return mean, (mean - half, mean + half)
