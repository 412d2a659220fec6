"""Configurations, and the codes in which a sampler sees them.

The rate of a group is searched as one integer. Code k of 0 or more is the rate `low + k * step`;
every code below 0 is the rate 0, exactly. No parameter depends on another, so all trials of an
arm have one space, and a random draw switches a group off with a probability near 0.3.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from dropt.spec.protocol import TrialParams
from dropt.spec.space import Dropout, Group, Range, Space
from dropt.tuning.space import DIGITS

RATE_PREFIX: Final = "rate/"


@dataclass(frozen=True)
class Point:
    """One configuration of an arm; `sites` holds those with a rate above 0."""

    params: TrialParams
    rates: dict[str, float]
    sites: dict[str, Dropout]


def is_with_dropout(arm: str) -> bool:
    """Whether the rates are searched in this arm; in the others they are all 0."""
    return arm == "with"


def decode(space: Space, arm: str, codes: Mapping[str, float]) -> Point:
    """The configuration that these codes mean, with settings of four significant digits."""
    params = {
        name: _shortened(codes[name], of) if isinstance(of, Range) else of
        for name, of in space.also.items()
    }
    rates = {}
    if is_with_dropout(arm):
        rates = {g.group: rate_of(g, round(codes[RATE_PREFIX + g.group])) for g in space.groups}
    return place(space, TrialParams(**params), rates)


def encode(
    space: Space, arm: str, params: TrialParams, rates: Mapping[str, float]
) -> dict[str, float]:
    """The codes of a configuration: the nearest ones where it lies beside the grid.

    Settings that the space fixes have no code. A group that `rates` does not name has rate 0.
    """
    codes: dict[str, float] = {
        name: min(max(getattr(params, name), of.low), of.high)
        for name, of in space.also.items()
        if isinstance(of, Range)
    }
    if is_with_dropout(arm):
        for group in space.groups:
            codes[RATE_PREFIX + group.group] = code_of(group, rates.get(group.group, 0.0))
    return codes


def place(space: Space, params: TrialParams, rates: Mapping[str, float]) -> Point:
    """The configuration with these rates of groups; a group that is not named has rate 0."""
    sites = {
        site: Dropout(kind=group.kind, rate=rates[group.group])
        for group in space.groups
        if rates.get(group.group, 0.0) > 0.0
        for site in group.sites
    }
    return Point(params=params, rates=dict(rates), sites=sites)


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
