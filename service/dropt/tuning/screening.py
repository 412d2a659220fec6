"""Screening: which groups of a deep model are worth a rate, by a designed experiment.

Up to `max_groups` groups are searched at once. More are switched on and off together by a
two-level design, each run with two seeds and ended at a rung; groups without a use then have
rate 0 for good. With more than 24 groups the starts are scaled first, all together, and merged
groups are screened, of which a useful one is split once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from dropt.spec.inspection import Site
from dropt.spec.job import Direction, Search
from dropt.spec.space import Group, Screening, Space
from dropt.tuning.designs import N_RUNS, main_effects, plackett_burman
from dropt.tuning.grouping import merge, merge_to
from dropt.tuning.points import code_of, rate_of

N_SEEDS: Final = 2
MOST_UNMERGED: Final = 24  # groups; with more the starts are scaled first
N_MERGED: Final = 12  # groups that are then screened, where the budget has 16 runs for them
# Without 0: a trial of this arm without any dropout is never used, the other arm has it.
SCALES: Final = (0.25, 0.5, 1.0, 1.5, 2.0)
MOST_OF_BUDGET: Final = 0.5  # of the trials of an arm
HARMFUL_SE: Final = 2.0

Decision = Literal["kept", "dropped"]


@dataclass(frozen=True)
class UnitEffect:
    """What a screening says of groups that were on or off together; a benefit is positive."""

    groups: tuple[str, ...]
    benefit: float
    se: float
    decision: Decision
    reason: Literal["harmful", "no_effect", "useful", "among_the_best"]


@dataclass(frozen=True)
class Screened:
    """The end of a screening: its effects, and the groups that the sampler searches."""

    scale: float
    units: tuple[UnitEffect, ...]
    groups: tuple[Group, ...]


def lay_out(
    groups: Sequence[Group], search: Search, sites: Sequence[Site], *, trials: int
) -> tuple[list[Group], Screening | None]:
    """The groups to choose from and how they are screened, for an arm of so many trials.

    Without a screening, because none is wanted or half of the trials are too few for it, groups
    are merged until no more than `max_groups` are searched.
    """
    free = [group for group in groups if not group.is_fixed]
    if len(free) <= search.max_groups:
        return list(groups), None
    if search.screen:
        for n_runs in _affordable(len(free), trials):
            found = _screened_by(n_runs, groups, sites)
            if found is not None:
                return found
    n_fixed = len(groups) - len(free)
    return merge_to(groups, search.max_groups + n_fixed, sites), None


def start_rates(space: Space, scale: float = 1.0) -> dict[str, float]:
    """The start of each group times `scale`, as the nearest rate that it can have when on."""
    return {g.group: rate_of(g, code_of(g, g.start * scale)) for g in space.groups}


def run_rates(space: Space, screening: Screening, run: int, scale: float) -> dict[str, float]:
    """The rates of one run of the design: the starts, and 0 for units that are off."""
    is_on = plackett_burman(screening.n_runs)[run]
    off = {
        name
        for unit, on in zip(screening.units, is_on, strict=False)
        for name in unit
        if not on
    }  # fmt: skip
    return {name: 0.0 if name in off else rate for name, rate in start_rates(space, scale).items()}


def best_scale(values: Mapping[float, float | None], direction: Direction) -> float:
    """The scale with the best value; of equals the one nearest to 1, which none at all is too."""
    sign = -1.0 if direction == "maximize" else 1.0
    costs = [(sign * v, abs(s - 1.0), s) for s, v in values.items() if v is not None]
    return min(costs)[2] if costs else 1.0


def conclude(
    space: Space,
    screening: Screening,
    values: Sequence[Sequence[float | None]],
    *,
    scale: float,
    direction: Direction,
) -> Screened:
    """What is searched after the runs.

    A unit is dropped when it is harmful by more than two standard errors, or when its benefit is
    below one and it is not among the best `max_groups`. At least the best one stays.

    Args:
        space: with all groups.
        screening: of the space.
        values: [S, R], of the objective at the rung; None where a run has none.
        scale: of the starts.
        direction: of the objective.
    """
    is_on = plackett_burman(screening.n_runs)[:, : len(screening.units)]
    found = np.array([[np.nan if v is None else v for v in row] for row in values])
    effects = main_effects(is_on, found)
    sign = 1.0 if direction == "maximize" else -1.0
    benefits = [sign * effect for effect in effects.effect]
    pinned = [g for g in space.groups if not any(g.group in unit for unit in screening.units)]
    room = max(space.max_groups - sum(not group.is_fixed for group in pinned), 1)
    units = judge_units(screening.units, benefits, effects.se, room=room)
    kept = _searched(space, units, room=room)
    scaled = start_rates(space.model_copy(update={"groups": (*pinned, *kept)}), scale)
    order = {site.site: index for index, site in enumerate(space.sites)}
    groups = sorted((*pinned, *kept), key=lambda group: order[group.sites[0]])
    return Screened(
        scale, units, tuple(g.model_copy(update={"start": scaled[g.group]}) for g in groups)
    )


def judge_units(
    units: Sequence[tuple[str, ...]],
    benefits: Sequence[float],
    ses: Sequence[float],
    *,
    room: int,
) -> tuple[UnitEffect, ...]:
    """Keep or drop each unit, of which the best `room` stay unless they do harm."""
    ranks = {place: rank for rank, place in enumerate(_by_benefit(benefits))}
    judged = []
    for place, (unit, benefit, se) in enumerate(zip(units, benefits, ses, strict=True)):
        if benefit < -HARMFUL_SE * se and ranks[place] > 0:
            judged.append(UnitEffect(unit, benefit, se, "dropped", "harmful"))
        elif benefit > se:
            judged.append(UnitEffect(unit, benefit, se, "kept", "useful"))
        elif ranks[place] < room:
            judged.append(UnitEffect(unit, benefit, se, "kept", "among_the_best"))
        else:
            judged.append(UnitEffect(unit, benefit, se, "dropped", "no_effect"))
    return tuple(judged)


def _affordable(n_groups: int, trials: int) -> list[int]:
    """Numbers of runs that half of the trials pay for, the most suitable first.

    That is the smallest which tells all groups apart, then the larger ones, then the smaller.
    """
    n_scales = len(SCALES) if n_groups > MOST_UNMERGED else 0
    wanted = N_MERGED if n_groups > MOST_UNMERGED else n_groups
    most = (MOST_OF_BUDGET * trials - n_scales) / N_SEEDS
    paid = [n_runs for n_runs in N_RUNS if n_runs <= most]
    enough = [n_runs for n_runs in paid if n_runs > wanted]
    return enough + [n_runs for n_runs in reversed(paid) if n_runs not in enough]


def _screened_by(
    n_runs: int, groups: Sequence[Group], sites: Sequence[Site]
) -> tuple[list[Group], Screening] | None:
    """The groups and units for a design of so many runs; None when too many units are left.

    Where groups have to merge, halves of a unit stay groups, so that it can be split.
    """
    factors = [group for group in groups if not group.always_on]
    pinned = [group for group in groups if group.always_on]
    is_deep = len(groups) > MOST_UNMERGED
    n_units = min(len(factors), N_MERGED if is_deep else n_runs - 1, n_runs - 1)
    atoms = merge_to(factors, max(2 * n_units, 1), sites) if is_deep else factors
    merged = merge_to(atoms, n_units, sites)
    if not factors or len(merged) > n_runs - 1:
        return None
    units = tuple(
        tuple(atom.group for atom in atoms if atom.sites[0] in unit.sites) for unit in merged
    )
    order = {site.site: index for index, site in enumerate(sites)}
    found = sorted((*pinned, *atoms), key=lambda group: order[group.sites[0]])
    scales = SCALES if is_deep else ()
    return found, Screening(units=units, n_runs=n_runs, n_seeds=N_SEEDS, scales=scales)


def _by_benefit(benefits: Sequence[float]) -> list[int]:
    """Places from the largest benefit to the smallest; ties keep the order of the model."""
    return sorted(range(len(benefits)), key=lambda place: -benefits[place])


def _searched(space: Space, units: Sequence[UnitEffect], *, room: int) -> list[Group]:
    """The kept units as groups: merged where they are too many, the most useful split if not."""
    named = {group.group: group for group in space.groups}
    kept = sorted((u for u in units if u.decision == "kept"), key=lambda unit: -unit.benefit)
    split = next((u for u in kept if len(u.groups) > 1 and u.reason == "useful"), None)
    if len(kept) >= room:
        split = None
    groups = []
    for unit in kept:
        parts = sorted((named[name] for name in unit.groups), key=lambda group: group.depth)
        halves = _halves(parts) if unit is split else [parts]
        groups += [merge(half, space.sites) for half in halves]
    return merge_to(groups, room, space.sites)


def _halves(parts: Sequence[Group]) -> list[Sequence[Group]]:
    """Groups in the order of depth, cut where the number of their sites is nearest to half."""
    n_sites = sum(len(part.sites) for part in parts)
    before = np.cumsum([len(part.sites) for part in parts])[:-1]
    cut = int(np.argmin(np.abs(before - n_sites / 2))) + 1
    return [parts[:cut], parts[cut:]]
