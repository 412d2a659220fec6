"""The shortlist: the best configurations of both arms, each with the other's nuisance settings.

The exchange keeps an arm from winning by better luck with the learning rate alone. Everything
here is scored on validation; the winner of each arm goes to the comparison.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from dropt.spec.job import Direction, Effort
    from dropt.spec.space import Dropout

ArmName = Literal["without", "with"]
ARMS: tuple[ArmName, ArmName] = ("without", "with")
Key = tuple[tuple[tuple[str, float], ...], tuple[tuple[str, "Dropout"], ...]]


@dataclass(frozen=True)
class Configuration:
    """Nuisance settings and the dropout of each site; a site that is not named has none."""

    params: Mapping[str, float]
    sites: Mapping[str, "Dropout"]

    @cached_property
    def key(self) -> Key:
        """Equal for equal configurations, however their zeros are written."""
        return tuple(sorted(self.params.items())), tuple(sorted(self.on.items(), key=_by_site))

    @property
    def on(self) -> dict[str, "Dropout"]:
        """The sites with a rate above 0."""
        return {site: dropout for site, dropout in self.sites.items() if dropout.rate > 0}

    def without(self, sites: Collection[str]) -> "Configuration":
        """The same with no dropout at these sites."""
        kept = {site: of for site, of in self.sites.items() if site not in sites}
        return Configuration(self.params, kept)


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
class Round:
    """One round of a race: more fresh seeds for all that are left, then the best go on."""

    n_seeds: int
    n_kept: int


@dataclass(frozen=True, slots=True)
class ShortlistPlan:
    """Configurations of an arm, the best and those of the exchange, and the rounds they race."""

    n_best: int
    n_exchanged: int
    rounds: Mapping[ArmName, tuple[Round, ...]]

    def n_trainings(self, arm: ArmName) -> int:
        """Trainings of a whole race; a list with fewer configurations needs fewer."""
        n_left, total = self.n_best + self.n_exchanged, 0
        for one in self.rounds[arm]:
            total += n_left * one.n_seeds
            n_left = min(n_left, one.n_kept)
        return total


@dataclass(frozen=True, slots=True)
class Standing:
    """An entry with the mean of all its values, searched and fresh."""

    entry: Entry
    mean: float
    n_values: int


# `without` gets more seeds, because its errors are what fakes a benefit of dropout.
FLAT = ShortlistPlan(3, 2, {"without": (Round(2, 1),), "with": (Round(2, 1),)})
RACE = ShortlistPlan(
    4, 2,
    {
        "without": (Round(2, 3), Round(2, 2), Round(4, 1)),
        "with": (Round(1, 3), Round(2, 2), Round(2, 1)),
    },
)  # fmt: skip
PLANS: dict["Effort", ShortlistPlan] = {"quick": FLAT, "default": RACE, "thorough": RACE}


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
    placements = {"without": {}, "with": best["with"][0].configuration.sites}
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
    return arm == "without" or bool(candidate.configuration.on)


def rank(
    scored: Sequence[tuple[Entry, Sequence[float | None]]], direction: "Direction"
) -> tuple[Standing, ...]:
    """Entries with their values on fresh seeds, best mean of all values first.

    The values of the search count as well. None or nan is a training that diverged: the worst
    possible value, so that an unstable configuration does not win by losing its bad seeds. An
    entry without fresh values is left out. Ties keep the order given.
    """
    standings = [_standing(entry, fresh, direction) for entry, fresh in scored if fresh]
    return tuple(sorted(standings, key=lambda standing: cost(standing.mean, direction)))


def cost(value: float, direction: "Direction") -> float:
    """A value of the metric, turned so that lower is better."""
    return -value if direction == "maximize" else value


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
    return dict(sorted(entries.items(), key=lambda item: cost(_mean(item[1]), direction)))


def _entry(
    arm: ArmName, group: Sequence[tuple[float, Candidate]], direction: "Direction"
) -> Entry:
    _, best = min(group, key=lambda pair: cost(pair[0], direction))
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


def _by_site(item: tuple[str, "Dropout"]) -> str:
    return item[0]
