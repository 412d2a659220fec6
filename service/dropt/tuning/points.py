"""Configurations, and the codes in which a sampler sees them.

The rate of a group is searched as one integer. Code k of 0 or more is the rate `low + k * step`;
every code below 0 is the rate 0, exactly. No parameter depends on another, so all trials of an
arm have one space, and a random draw switches a group off with a probability near 0.3. A kind
that may be chosen is a categorical, whether or not its group is on, as is the schedule.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Final

from dropt.spec.inspection import Kind
from dropt.spec.protocol import TrialParams
from dropt.spec.space import Dropout, Group, Range, Schedule, Space
from dropt.tuning.grouping import DIGITS

RATE_PREFIX: Final = "rate/"
KIND_PREFIX: Final = "kind/"
SCHEDULE: Final = "schedule"
Codes = Mapping[str, float | str]


@dataclass(frozen=True)
class Point:
    """One configuration of an arm; `sites` holds those with a rate above 0."""

    params: TrialParams
    rates: dict[str, float]
    sites: dict[str, Dropout]


def is_with_dropout(arm: str) -> bool:
    """Whether the rates are searched in this arm; in the others they are all 0."""
    return arm == "with"


def decode(space: Space, arm: str, codes: Codes) -> Point:
    """The configuration that these codes mean, with settings of four significant digits."""
    params = TrialParams(
        **{
            name: _shortened(float(codes[name]), of) if isinstance(of, Range) else of
            for name, of in space.also.items()
        }
    )
    if not is_with_dropout(arm):
        return place(space, params, {})
    rates = {g.group: rate_of(g, round(float(codes[RATE_PREFIX + g.group]))) for g in space.groups}
    kinds = {
        g.group: next(kind for kind in g.kinds if kind == codes[KIND_PREFIX + g.group])
        for g in space.groups
        if len(g.kinds) > 1
    }
    label = codes.get(SCHEDULE, space.schedules[0].label)
    schedule = next(one for one in space.schedules if one.label == label)
    return place(space, params, rates, kinds=kinds, schedule=schedule)


def encode(
    space: Space, arm: str, params: TrialParams, sites: Mapping[str, Dropout]
) -> dict[str, float | str]:
    """The codes of a configuration: the nearest ones where it lies beside the grid.

    Settings that the space fixes have no code. Kind and schedule that no site shows are the
    first ones.
    """
    codes: dict[str, float | str] = {
        name: min(max(getattr(params, name), of.low), of.high)
        for name, of in space.also.items()
        if isinstance(of, Range)
    }
    if not is_with_dropout(arm):
        return codes
    for group in space.groups:
        codes[RATE_PREFIX + group.group] = code_of(group, group_rate(group, sites))
        if len(group.kinds) > 1:
            kind = kind_of(group, sites) or group.kind
            codes[KIND_PREFIX + group.group] = kind if kind in group.kinds else group.kind
    if len(space.schedules) > 1:
        codes[SCHEDULE] = schedule_of(space, sites).label
    return codes


def place(
    space: Space,
    params: TrialParams,
    rates: Mapping[str, float],
    *,
    kinds: Mapping[str, Kind] | None = None,
    schedule: Schedule | None = None,
) -> Point:
    """The configuration with these rates of groups; a group that is not named has rate 0.

    Kinds of groups and the schedule are the first ones unless they are given.
    """
    sites = {
        site: Dropout(
            kind=(kinds or {}).get(group.group, group.kind),
            rate=site_rate(group, index, rates[group.group]),
            schedule=schedule or space.schedules[0],
        )
        for group in space.groups
        if rates.get(group.group, 0.0) > 0.0
        for index, site in enumerate(group.sites)
    }
    return Point(params=params, rates=dict(rates), sites=sites)


def site_rate(group: Group, index: int, rate: float) -> float:
    """The rate of the site at this index of a group: with a linear profile the last has it all."""
    if group.profile == "constant":
        return rate
    return round(rate * (index + 1) / len(group.sites), DIGITS)


def group_rate(group: Group, sites: Mapping[str, Dropout]) -> float:
    """The rate of a group in a placement, which need not have been made from groups.

    The mean over its sites, or with a linear profile the largest.
    """
    found = [sites[site].rate if site in sites else 0.0 for site in group.sites]
    return max(found) if group.profile == "linear" else round(fmean(found), DIGITS)


def kind_of(group: Group, sites: Mapping[str, Dropout]) -> Kind | None:
    """The kind that a group has in a placement; None where it is off."""
    return next((sites[site].kind for site in group.sites if site in sites), None)


def schedule_of(space: Space, sites: Mapping[str, Dropout]) -> Schedule:
    """The schedule of a placement: that of its first site if it is searched, else the first."""
    found = next((dropout.schedule for dropout in sites.values()), None)
    return found if found in space.schedules else space.schedules[0]


def n_rates(group: Group) -> int:
    """Number of grid points from `low` to `high`, both included."""
    return round((group.high - group.low) / group.step) + 1


def rate_of(group: Group, code: int) -> float:
    """The rate of a code: exactly 0 below code 0."""
    return 0.0 if code < 0 else round(group.low + code * group.step, DIGITS)


def code_of(group: Group, rate: float) -> int:
    """The code whose rate is nearest; a rate of exactly 0 has the middle one of its codes.

    A rate above 0 stays above 0, and a group that is always on has no code of rate 0.
    """
    if rate <= 0.0:
        return -((group.zero_codes + 1) // 2)
    return min(max(round((rate - group.low) / group.step), 0), n_rates(group) - 1)


def _shortened(value: float, within: Range) -> float:
    return min(max(float(f"{value:.4g}"), within.low), within.high)
