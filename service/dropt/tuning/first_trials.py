"""The trials that each arm begins with, before a sampler proposes any."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from math import sqrt
from typing import Final

from dropt.spec.job import Search
from dropt.spec.protocol import TrialParams
from dropt.spec.space import Dropout, Group, Range, Space
from dropt.tuning.points import Point, code_of, group_rate, is_with_dropout, place, rate_of

USUAL_RATE: Final = 0.2  # what a practitioner tries first


def first_trials(space: Space, search: Search, arm: str, *, target: int) -> tuple[Point, ...]:
    """The queued trials of an arm, each once, at most `target`; all with default nuisances.

    With dropout: the placements of the user, 0.2 everywhere, the start of each group, each group
    alone. Without: the defaults.
    """
    if not is_with_dropout(arm):
        return (place(space, default_params(space), {}),)[:target]
    return _distinct(chain(_opening(space, search), _starts(space)))[:target]


def opening_trials(space: Space, search: Search) -> tuple[Point, ...]:
    """The first trials with dropout that need no screening: placements of the user, and 0.2."""
    return _distinct(_opening(space, search))


def default_params(space: Space) -> TrialParams:
    """The middle of each range, the geometric one where it is logarithmic."""
    return TrialParams(**{name: _middle(of) for name, of in space.also.items()})


def usual_rate(group: Group) -> float:
    """0.2, or the nearest rate that the group can have when it is on."""
    return rate_of(group, code_of(group, USUAL_RATE))


def point_of(space: Space, params: TrialParams, placement: Mapping[str, float]) -> Point:
    """A placement of the user, trained exactly as it is given.

    Its sites need not agree within a group, nor be searched: the rate of a group is then the
    mean over its sites, which is what a sampler learns of it.
    """
    kinds = {site.site: site.kinds[0] for site in space.sites}
    kinds |= {site: group.kind for group in space.groups for site in group.sites}
    sites = {
        site: Dropout(kind=kinds[site], rate=rate, schedule=space.schedules[0])
        for site, rate in placement.items()
        if rate > 0
    }
    rates = {group.group: group_rate(group, sites) for group in space.groups}
    return Point(params=params, rates=rates, sites=sites)


def _opening(space: Space, search: Search) -> Iterator[Point]:
    params = default_params(space)
    for placement in search.start_from:
        yield point_of(space, params, placement)
    yield place(space, params, {group.group: usual_rate(group) for group in space.groups})


def _starts(space: Space) -> Iterator[Point]:
    params = default_params(space)
    yield place(space, params, {group.group: group.start for group in space.groups})
    for alone in space.groups:
        rates = {
            group.group: group.start if group is alone or group.always_on else 0.0
            for group in space.groups
        }
        yield place(space, params, rates)


def _distinct(points: Iterable[Point]) -> tuple[Point, ...]:
    """Each point once, in the order given."""
    distinct: list[Point] = []
    for point in points:
        if point not in distinct:
            distinct.append(point)
    return tuple(distinct)


def _middle(of: Range | float) -> float:
    if not isinstance(of, Range):
        return of
    middle = sqrt(of.low) * sqrt(of.high) if of.log else (of.low + of.high) / 2
    return min(max(float(f"{middle:.4g}"), of.low), of.high)
