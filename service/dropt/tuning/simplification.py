"""Backward elimination: a site keeps its dropout only if taking it out is measurably harmful.

The configuration and each single removal train on the same fresh validation seeds. A removal is
harmful when the lower one-sided 95 % bound of its mean harm (paired t over seeds) is above 0. The
least harmful of the others is carried out, and so on. The last is never removed: whether dropout
helps at all is the question of the verdict.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from dropt.tuning.shortlist import Configuration, Key, cost
from dropt.tuning.student import t_quantile

if TYPE_CHECKING:
    from dropt.spec.job import Direction, Effort

CONFIDENCE = 0.95  # one-sided, of the harm
MAX_REMOVALS = 6  # tried in a round, those with the lowest rates: a round stays one or two packs
SEEDS: dict["Effort", int] = {"quick": 0, "default": 8, "thorough": 8}

Unit = tuple[str, ...]  # sites that share a rate and are taken out together
Values = Mapping[Key, Sequence[float | None]]


@dataclass(frozen=True, slots=True)
class Removal:
    """What taking dropout out at `sites` did to the metric.

    `harm` is the mean over seeds, positive is worse; `low` its lower bound. Both are infinite
    where one of the two sides diverged. `removed`: it was done.
    """

    sites: Unit
    harm: float
    low: float
    n_seeds: int
    removed: bool

    @property
    def is_harmful(self) -> bool:
        """Whether the removal is measurably harmful."""
        return self.low > 0


@dataclass(frozen=True, slots=True)
class Simplification:
    """Where the elimination stands.

    `configuration` is what is left so far. `removals` are those that were carried out, in their
    order, and at the end those that are harmful. `missing` are pairs (configuration, index of the
    seed) to train before the next decision; without any it is done.
    """

    configuration: Configuration
    removals: tuple[Removal, ...]
    missing: tuple[tuple[Configuration, int], ...]


def units_of(configuration: Configuration, groups: Sequence[Unit]) -> tuple[Unit, ...]:
    """The sites that are on, in units: those of a group together, a site in no group alone."""
    on = configuration.on
    grouped = [tuple(site for site in group if site in on) for group in groups]
    named = {site for unit in grouped for site in unit}
    return tuple(unit for unit in (*grouped, *((s,) for s in on if s not in named)) if unit)


def n_first_trainings(n_units: int, n_seeds: int) -> int:
    """Trainings of the first round, the only one that is certain to be needed."""
    return (min(n_units, MAX_REMOVALS) + 1) * n_seeds if n_units > 1 else 0


def n_most_trainings(n_units: int, n_seeds: int) -> int:
    """Trainings when every unit but one is removed."""
    later = sum(min(n, MAX_REMOVALS) * n_seeds for n in range(2, n_units))
    return n_first_trainings(n_units, n_seeds) + later


def simplify(
    configuration: Configuration,
    values: Values,
    *,
    groups: Sequence[Unit],
    n_seeds: int,
    direction: "Direction",
    always_on: Collection[str] = (),
) -> Simplification:
    """Replay the elimination over the values that were trained, by seed index from 0.

    Sites in `always_on` are never taken out. None or nan is a training that diverged: the worst
    possible value. With `n_seeds` 0 nothing is taken out. Raises ValueError for a single seed,
    which has no bound.
    """
    if n_seeds == 1:
        raise ValueError("a bound needs at least 2 seeds, received 1")
    done: list[Removal] = []
    while n_seeds:
        units = _to_try(configuration, groups, always_on)
        rivals = [configuration.without(unit) for unit in units]
        missing = _missing([configuration, *rivals] if units else [], values, n_seeds)
        if missing:
            return Simplification(configuration, tuple(done), missing)
        found = [
            _removal(unit, values[configuration.key], values[rival.key], n_seeds, direction)
            for unit, rival in zip(units, rivals, strict=True)
        ]
        harmless = [removal for removal in found if not removal.is_harmful]
        if not harmless:
            return Simplification(configuration, (*done, *found), ())
        best = min(harmless, key=lambda removal: removal.harm)
        done.append(Removal(best.sites, best.harm, best.low, best.n_seeds, removed=True))
        configuration = configuration.without(best.sites)
    return Simplification(configuration, (), ())


def _to_try(
    configuration: Configuration, groups: Sequence[Unit], always_on: Collection[str]
) -> list[Unit]:
    """The units whose removal is tried: none when only one is left."""
    units = units_of(configuration, groups)
    if len(units) < 2:
        return []
    rates = {
        unit: max(configuration.sites[site].rate for site in unit)
        for unit in units
        if not any(site in always_on for site in unit)
    }
    return sorted(rates, key=lambda unit: rates[unit])[:MAX_REMOVALS]


def _missing(
    configurations: Sequence[Configuration], values: Values, n_seeds: int
) -> tuple[tuple[Configuration, int], ...]:
    return tuple(
        (one, index)
        for one in configurations
        for index in range(len(values.get(one.key, ())), n_seeds)
    )


def _removal(
    unit: Unit,
    before: Sequence[float | None],
    after: Sequence[float | None],
    n_seeds: int,
    direction: "Direction",
) -> Removal:
    pairs = zip(before[:n_seeds], after[:n_seeds], strict=True)
    harms = [_harm(one, other, direction) for one, other in pairs]
    endless = [harm for harm in harms if not math.isfinite(harm)]
    if endless:
        return Removal(unit, max(endless), max(endless), n_seeds, removed=False)
    harm = fmean(harms)
    se = stdev(harms) / math.sqrt(n_seeds)
    low = harm - t_quantile(CONFIDENCE, n_seeds - 1) * se
    return Removal(unit, harm, low, n_seeds, removed=False)


def _harm(before: float | None, after: float | None, direction: "Direction") -> float:
    """By how much one seed is worse; infinite where one side diverged, 0 where both did."""
    lost_before, lost_after = _is_lost(before), _is_lost(after)
    if lost_before or lost_after:
        return 0.0 if lost_before and lost_after else math.inf if lost_after else -math.inf
    assert before is not None
    assert after is not None
    return cost(after, direction) - cost(before, direction)


def _is_lost(value: float | None) -> bool:
    return value is None or not math.isfinite(value)
