"""Search trials whose value is a formula of their rates."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from tests.service.conftest import Done

from dropt.storage.trials import TrialRow
from dropt.tuning.points import place, rate_of

Value = Callable[[dict[str, float], float], float]  # of rates by group and of the learning rate


def searched(done: Done, value: Value, *, n: int, noise: float = 0.005) -> list[TrialRow]:
    """Trials of random rates whose value is a formula."""
    assert done.job.space is not None
    space, generator = done.job.space, np.random.default_rng(5)
    pattern = done.trials(phase="search", arm="with", states=["completed"])[0]
    rows = []
    for number in range(n):
        rates = {
            group.group: rate_of(group, int(generator.integers(-2, 9))) for group in space.groups
        }
        lr = float(10 ** generator.uniform(-3.4, -1.6))
        point = place(space, pattern.params.model_copy(update={"lr": lr}), rates)
        rows.append(
            replace(
                pattern, number=number, params=point.params, rates=point.rates, sites=point.sites,
                value=value(rates, lr) + noise * float(generator.standard_normal()),
            )
        )  # fmt: skip
    return rows
