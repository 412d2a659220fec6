"""Schedules: the factor on a dropout rate as a function of the epochs passed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Name = Literal["constant", "early", "late", "ramp"]


@dataclass(frozen=True)
class Schedule:
    """When dropout acts; `at` is the epoch at which `early` ends, `late` starts, `ramp` is full.

    `constant` ignores it.
    """

    name: Name = "constant"
    at: float = 0.0


def factor(schedule: Schedule, passed: Tensor) -> Tensor:
    """m(t), by which the rate is multiplied; 0 is exactly no dropout.

    Args:
        schedule: which curve.
        passed: epochs passed, fractions included; any shape, float64 so that nothing is rounded.

    Returns:
        Like `passed`, in [0, 1]. With `at` 0, `early` is 0 and `ramp` is 1 throughout.
    """
    return SCHEDULES[schedule.name](passed, schedule.at)


def _constant(passed: Tensor, at: float) -> Tensor:
    return torch.ones_like(passed)


def _early(passed: Tensor, until: float) -> Tensor:
    """Falls linearly from 1 to 0 (Liu et al. 2023, "Dropout reduces underfitting")."""
    return 1 - _ramp(passed, until)


def _late(passed: Tensor, start: float) -> Tensor:
    return (passed >= start).to(passed.dtype)


def _ramp(passed: Tensor, until: float) -> Tensor:
    """Rises linearly from 0 to 1."""
    return torch.ones_like(passed) if until <= 0 else (passed / until).clamp(0, 1)


SCHEDULES: Mapping[str, Callable[[Tensor, float], Tensor]] = {
    "constant": _constant,
    "early": _early,
    "late": _late,
    "ramp": _ramp,
}
