"""From the search to one configuration per arm: shortlist, race, simplification.

A pure function of what has been trained, which both the service and the simulations of the tests
call: it says what to train next, or what was chosen.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Literal

from dropt.tuning.equivalence import indistinguishable
from dropt.tuning.race import Race, run_race
from dropt.tuning.shortlist import ARMS, ArmName, Configuration, Entry, ShortlistPlan
from dropt.tuning.simplification import Removal, Simplification, Unit, Values, simplify

if TYPE_CHECKING:
    from dropt.spec.job import Direction

Purpose = Literal["shortlist", "simplify"]


@dataclass(frozen=True, slots=True)
class Rules:
    """What an effort and a space ask for.

    `groups` are the sites that share a rate; those of `always_on` are never taken out.
    """

    plan: ShortlistPlan
    simplify_seeds: int
    groups: tuple[Unit, ...]
    direction: "Direction"
    always_on: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class Trained:
    """Values on validation by configuration, by index of their seed, None where one diverged."""

    raced: Mapping[ArmName, Values]
    simplified: Values


@dataclass(frozen=True, slots=True)
class Wanted:
    """A training that the next decision needs; arms share the seed of an index.

    `candidate` is the place on the shortlist of the arm, `origin` its search trial.
    """

    purpose: Purpose
    arm: ArmName
    configuration: Configuration
    index: int
    candidate: int | None
    origin: str | None


@dataclass(frozen=True, slots=True)
class Peer:
    """A configuration of the shortlist that cannot be told apart from the best."""

    entry: Entry
    place: int  # on the shortlist
    mean: float
    n_seeds: int


@dataclass(frozen=True, slots=True)
class Chosen:
    """The configuration of an arm that meets the test split.

    `value` is its mean on fresh validation seeds, None when all of them diverged. `removals` say
    what the simplification found; `place` is that of the race's winner on the shortlist.
    """

    configuration: Configuration
    entry: Entry
    place: int
    value: float | None
    removals: tuple[Removal, ...] = ()


@dataclass(frozen=True, slots=True)
class Selection:
    """Trainings to do before the next decision; without any, what was chosen."""

    wanted: tuple[Wanted, ...]
    chosen: Mapping[ArmName, Chosen]


def select(
    entries: Mapping[ArmName, Sequence[Entry]],
    trained: Trained,
    rules: Rules,
    *,
    may_simplify: bool = True,
) -> Selection:
    """Replay the selection; the same trainings give the same answer whenever it is asked for.

    With `may_simplify` false, as when the time is up, what the simplification has decided so far
    holds and nothing more is trained for it.
    """
    races = {arm: _race(arm, entries[arm], trained, rules) for arm in ARMS}
    wanted = tuple(
        Wanted("shortlist", arm, entry.configuration, index, place, entry.trial)
        for arm in ARMS
        for place, index in races[arm].missing
        for entry in (entries[arm][place],)
    )
    if wanted:
        return Selection(wanted, {})
    chosen = {arm: _winner(races[arm], entries[arm], trained.raced[arm]) for arm in ARMS}
    winner = chosen["with"]
    found = simplify(
        winner.configuration, trained.simplified, groups=rules.groups,
        n_seeds=rules.simplify_seeds, direction=rules.direction, always_on=rules.always_on,
    )  # fmt: skip
    if found.missing and may_simplify:
        origin = winner.entry.trial
        wanted = tuple(
            Wanted("simplify", "with", one, index, None, origin) for one, index in found.missing
        )
        return Selection(wanted, {})
    return Selection((), {**chosen, "with": _simplified(winner, found, trained.simplified)})


def peers(entries: Sequence[Entry], values: Values, direction: "Direction") -> tuple[Peer, ...]:
    """The equivalence set of an arm: entries that cannot be told apart from its best."""
    fresh = [tuple(values.get(entry.configuration.key, ())) for entry in entries]
    stays = indistinguishable(fresh, direction)
    return tuple(
        Peer(entry, place, fmean(_found(of_entry)), len(of_entry))
        for place, (entry, of_entry, is_near) in enumerate(zip(entries, fresh, stays, strict=True))
        if is_near
    )


def cheapest(configurations: Sequence[Configuration]) -> int:
    """The place of the one with the fewest sites, then the lowest rates; ties go to the first."""
    return min(
        range(len(configurations)),
        key=lambda i: (
            len(configurations[i].on),
            sum(dropout.rate for dropout in configurations[i].on.values()),
        ),
    )


def _race(arm: ArmName, entries: Sequence[Entry], trained: Trained, rules: Rules) -> Race:
    values = trained.raced[arm]
    scored = [(entry, values.get(entry.configuration.key, ())) for entry in entries]
    return run_race(scored, rules.plan.rounds[arm], rules.direction)


def _winner(race: Race, entries: Sequence[Entry], values: Values) -> Chosen:
    assert race.winner is not None  # a race that misses nothing is over
    place, _ = race.winner
    entry = entries[place]
    fresh = _found(values.get(entry.configuration.key, ()))
    return Chosen(entry.configuration, entry, place, fmean(fresh) if fresh else None)


def _simplified(winner: Chosen, found: Simplification, values: Values) -> Chosen:
    fresh = _found(values.get(found.configuration.key, ()))
    return Chosen(
        configuration=found.configuration,
        entry=winner.entry,
        place=winner.place,
        value=fmean(fresh) if fresh else winner.value,
        removals=found.removals,
    )


def _found(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]
