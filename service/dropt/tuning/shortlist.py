"""The shortlist: the best configurations of both arms, each with the other's nuisance settings.

The exchange keeps an arm from winning by better luck with the learning rate alone. Everything
here is scored on validation; the winner of each arm goes to the comparison.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from dropt.spec.job import Direction, Effort

ArmName = Literal["without", "with"]
ARMS: tuple[ArmName, ArmName] = ("without", "with")
Key = tuple[tuple[tuple[str, float], ...], tuple[tuple[str, float], ...]]


@dataclass(frozen=True, slots=True)
class Configuration:
    """Nuisance settings and the rate of each site; a site that is not named has rate 0."""

    params: Mapping[str, float]
    rates: Mapping[str, float]

    @property
    def key(self) -> Key:
        """Equal for equal configurations, however their zeros are written."""
        on = {site: rate for site, rate in self.rates.items() if rate > 0}
        return tuple(sorted(self.params.items())), tuple(sorted(on.items()))


@dataclass(frozen=True, slots=True)
class Candidate:
    """A search trial that ended; `value` is on validation, None unless it has one."""

    trial: str
    configuration: Configuration
    value: float | None
    completed: bool


@dataclass(frozen=True, slots=True)
class Entry:
    """A configuration of the shortlist of an arm.

    `values` are those of its search trials; `trial` is the best of them, None for a configuration
    that came by the exchange and was never searched.
    """

    arm: ArmName
    configuration: Configuration
    values: tuple[float, ...]
    trial: str | None


@dataclass(frozen=True, slots=True)
class ShortlistPlan:
    """Configurations of an arm: the best, those of the exchange, and fresh seeds for each."""

    n_best: int
    n_exchanged: int
    n_seeds: int


@dataclass(frozen=True, slots=True)
class Standing:
    """An entry with the mean of all its values, searched and fresh."""

    entry: Entry
    mean: float
    n_values: int


FLAT: dict["Effort", ShortlistPlan] = {
    "quick": ShortlistPlan(n_best=3, n_exchanged=2, n_seeds=2),
    "default": ShortlistPlan(n_best=4, n_exchanged=2, n_seeds=3),
    "thorough": ShortlistPlan(n_best=4, n_exchanged=2, n_seeds=3),
}


def draw_up(
    trials: Mapping[ArmName, Sequence[Candidate]], plan: ShortlistPlan, direction: "Direction"
) -> dict[ArmName, tuple[Entry, ...]]:
    """The shortlist of each arm: its best configurations, then those of the exchange.

    `without` gets the nuisance settings of the best `with` configurations, all rates 0; `with`
    gets the placement of its own best with the nuisance settings of the best `without`. A
    configuration enters once, and trials of the same configuration are one entry. Raises
    ValueError when an arm has no eligible trial.
    """
    searched = {arm: _searched(arm, trials[arm], direction) for arm in ARMS}
    best = {arm: list(searched[arm].values()) for arm in ARMS}
    placements = {"without": {}, "with": best["with"][0].configuration.rates}
    entries: dict[ArmName, tuple[Entry, ...]] = {}
    for arm, other in zip(ARMS, reversed(ARMS), strict=True):
        entered = [
            Configuration(entry.configuration.params, placements[arm])
            for entry in best[other][: plan.n_exchanged]
        ]
        entries[arm] = _exchanged(arm, best[arm][: plan.n_best], entered, searched[arm])
    return entries


def is_eligible(arm: ArmName, candidate: Candidate) -> bool:
    """Whether a trial may enter: completed, with a finite value, and dropout on in `with`."""
    if not candidate.completed or candidate.value is None or not math.isfinite(candidate.value):
        return False
    return arm == "without" or any(rate > 0 for rate in candidate.configuration.rates.values())


def rank(
    scored: Sequence[tuple[Entry, Sequence[float | None]]], direction: "Direction"
) -> tuple[Standing, ...]:
    """Entries with their values on fresh seeds, best mean of all values first.

    The values of the search count as well. None or nan is a training that diverged: the worst
    possible value, so that an unstable configuration does not win by losing its bad seeds. An
    entry without fresh values is left out. Ties keep the order given.
    """
    standings = [_standing(entry, fresh, direction) for entry, fresh in scored if fresh]
    return tuple(sorted(standings, key=lambda standing: _cost(standing.mean, direction)))


def _searched(
    arm: ArmName, candidates: Sequence[Candidate], direction: "Direction"
) -> dict[Key, Entry]:
    """Eligible configurations by their key, best mean search value first."""
    groups: dict[Key, list[tuple[float, Candidate]]] = {}
    for candidate in candidates:
        if is_eligible(arm, candidate) and candidate.value is not None:
            group = groups.setdefault(candidate.configuration.key, [])
            group.append((candidate.value, candidate))
    if not groups:
        raise ValueError(f"arm {arm!r} has no eligible trial among {len(candidates)}")
    entries = {key: _entry(arm, group, direction) for key, group in groups.items()}
    return dict(sorted(entries.items(), key=lambda item: _cost(_mean(item[1]), direction)))


def _entry(
    arm: ArmName, group: Sequence[tuple[float, Candidate]], direction: "Direction"
) -> Entry:
    _, best = min(group, key=lambda pair: _cost(pair[0], direction))
    return Entry(arm, best.configuration, tuple(value for value, _ in group), best.trial)


def _exchanged(
    arm: ArmName,
    best: Sequence[Entry],
    configurations: Sequence[Configuration],
    searched: Mapping[Key, Entry],
) -> tuple[Entry, ...]:
    """The best entries, then the exchanged ones that are not among them."""
    entries = {entry.configuration.key: entry for entry in best}
    for configuration in configurations:
        fresh = Entry(arm, configuration, (), None)
        entries.setdefault(configuration.key, searched.get(configuration.key, fresh))
    return tuple(entries.values())


def _standing(entry: Entry, fresh: Sequence[float | None], direction: "Direction") -> Standing:
    worst = -math.inf if direction == "maximize" else math.inf
    found = [worst if value is None or math.isnan(value) else value for value in fresh]
    values = [*entry.values, *found]
    return Standing(entry, math.fsum(values) / len(values), len(values))


def _mean(entry: Entry) -> float:
    return math.fsum(entry.values) / len(entry.values)


def _cost(value: float, direction: "Direction") -> float:
    return -value if direction == "maximize" else value
