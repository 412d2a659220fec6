"""Rate response and importance of the settings of a job, from its search trials."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dropt.report.surface import Floats, Setting, fit
from dropt.spec.job import JobSpec, Nuisance
from dropt.spec.report import Bounds, Importance, RateResponse, ResponsePoint, Sensitivity
from dropt.spec.space import Dropout, Group, Range, Space
from dropt.storage.trials import TrialRow
from dropt.tuning.configurations import rates_by_group
from dropt.tuning.points import kind_of, schedule_of

FEWEST_TRIALS = 12  # below, a curve would be the prior
MOST_TRIALS = 96  # the best ones: the time grows with the cube
MOST_GROUPS = 8
N_GRID = 13
LEVEL = 0.95
OUTLIER = 3.0  # quartile distances behind the third quartile: worse values are drawn in to there
NUISANCES: dict[Nuisance, str] = {
    "lr": "learning rate", "weight_decay": "weight decay", "l1": "L1", "l2": "L2"
}  # fmt: skip


@dataclass(frozen=True)
class _Axis:
    """One setting with its name and, where it is the rate of a group, that group."""

    name: str
    setting: Setting
    group: Group | None = None
    rates: Floats | None = None  # of the trials


def sensitivity(
    spec: JobSpec, space: Space, rows: Sequence[TrialRow], *, chosen: dict[str, Dropout]
) -> Sensitivity | None:
    """What the completed search trials of the arm `with` say; None when they are too few.

    `chosen` is the placement that rates are compared with. Seeded by the seed of the search.
    """
    trials = _usable(spec, rows)
    if len(trials) < FEWEST_TRIALS:
        return None
    value = _drawn_in(spec, trials)
    rates = rates_by_group(space, chosen)
    axes = [*_rate_axes(space, trials, rates), *_other_axes(space, trials)]
    if not axes or np.ptp(value) == 0.0:
        return None
    generator = np.random.default_rng([spec.search.seed, len(trials)])
    effects = fit([axis.setting for axis in axes], value, generator)
    shares, rest = effects.shares()
    return Sensitivity(
        arm="with",
        trials=len(trials),
        level=LEVEL,
        responses=tuple(
            _response(axis, curve, rates)
            for axis, curve in zip(axes, effects.curves, strict=True)
            if axis.group is not None
        ),
        importance=_importance(axes, shares),
        unexplained=_bounds(rest),
    )


def _usable(spec: JobSpec, rows: Sequence[TrialRow]) -> list[TrialRow]:
    """The best completed trials, best first."""
    sign = _sign(spec)
    found = [
        row
        for row in rows
        if (row.arm, row.phase, row.state) == ("with", "search", "completed")
        and row.value is not None
        and math.isfinite(row.value)
    ]
    return sorted(found, key=lambda row: -sign * (row.value or 0.0))[:MOST_TRIALS]


def _sign(spec: JobSpec) -> float:
    return 1.0 if spec.objective.direction == "maximize" else -1.0


def _drawn_in(spec: JobSpec, trials: Sequence[TrialRow]) -> Floats:
    """The values, positive is better, with the worst ones drawn in."""
    value = _sign(spec) * np.array([row.value for row in trials], dtype=np.float64)
    low, high = np.quantile(value, [0.25, 0.75])
    return np.asarray(np.maximum(value, low - OUTLIER * (high - low)), np.float64)


def _rate_axes(space: Space, trials: Sequence[TrialRow], chosen: dict[str, float]) -> list[_Axis]:
    """The groups whose rate was searched, those with the most different rates first."""
    found = []
    for group in space.groups:
        rates = np.array([row.rates.get(group.group, 0.0) for row in trials])
        highest = max(float(rates.max()), chosen[group.group])
        if len(np.unique(rates)) < 2 or group.is_fixed:
            continue
        grid = _grid(highest, chosen[group.group])
        setting = Setting(rates / highest, grid / highest)
        found.append(_Axis(f"rate of {group.group}", setting, group, rates))
    found.sort(key=lambda axis: -len(np.unique(axis.setting.values)))
    return found[:MOST_GROUPS]


def _grid(highest: float, chosen: float) -> Floats:
    """Even rates from 0 to the highest; the chosen one stands in the place of a near one."""
    even = np.linspace(0.0, highest, N_GRID)
    inner = [r for r in even[1:-1] if abs(r - chosen) > 0.5 * even[1]]
    return np.unique(np.array([0.0, *inner, highest, chosen]))


def _other_axes(space: Space, trials: Sequence[TrialRow]) -> list[_Axis]:
    axes = []
    for name, words in NUISANCES.items():
        of = space.also.get(name)
        if isinstance(of, Range):
            values = np.array([_unit(of, getattr(row.params, name)) for row in trials])
            axes.append(_Axis(words, Setting(values, np.linspace(0.0, 1.0, N_GRID))))
    if len(space.schedules) > 1:
        labels = [schedule_of(space, row.sites).label for row in trials]
        axes.append(_category("schedule", labels))
    for group in space.groups:
        if len(group.kinds) > 1:
            kinds = [kind_of(group, row.sites) or "" for row in trials]
            axes.append(_category(f"kind of {group.group}", kinds))
    return [axis for axis in axes if len(np.unique(axis.setting.values)) > 1]


def _unit(of: Range, value: float) -> float:
    """A value as its place in the range, on the scale that was searched."""
    if of.log:
        return math.log(max(value, of.low) / of.low) / math.log(of.high / of.low)
    return (value - of.low) / (of.high - of.low)


def _category(name: str, labels: Sequence[str]) -> _Axis:
    known, codes = np.unique(np.array(labels), return_inverse=True)
    most = max(1, len(known) - 1)
    grid = np.arange(len(known), dtype=np.float64) / most
    return _Axis(name, Setting(codes / most, grid, is_category=True))


def _response(axis: _Axis, curve: Floats, chosen: dict[str, float]) -> RateResponse:
    """The curve of a rate against the chosen one, with the rates that are as good."""
    assert axis.group is not None  # asked for groups only
    assert axis.rates is not None
    highest = max(float(axis.rates.max()), chosen[axis.group.group])
    rates, at = axis.setting.grid * highest, chosen[axis.group.group]
    here = int(np.abs(rates - at).argmin())
    against = curve - curve[:, [here]]
    bounds = [_bounds(against[:, i]) for i in range(len(rates))]
    nearest = np.abs(axis.rates[:, None] - rates[None, :]).argmin(axis=1)
    counts = np.bincount(nearest, minlength=len(rates))
    low, high = _run(bounds, here)
    return RateResponse(
        group=axis.group.group,
        sites=axis.group.sites,
        chosen=at,
        points=tuple(
            ResponsePoint(
                rate=round(float(rate), 6), effect=float(against[:, i].mean()),
                interval=bounds[i], trials=int(counts[i]),
            )
            for i, rate in enumerate(rates)
        ),
        alike=(round(float(rates[low]), 6), round(float(rates[high]), 6)),
        is_flat=(low, high) == (0, len(rates) - 1),
    )  # fmt: skip


def _run(bounds: Sequence[Bounds], here: int) -> tuple[int, int]:
    """The first and the last point around `here` without a gap whose interval holds 0."""
    low = high = here
    while low > 0 and bounds[low - 1][0] <= 0.0 <= bounds[low - 1][1]:
        low -= 1
    while high + 1 < len(bounds) and bounds[high + 1][0] <= 0.0 <= bounds[high + 1][1]:
        high += 1
    return low, high


def _importance(axes: Sequence[_Axis], shares: Floats) -> tuple[Importance, ...]:
    found = [
        Importance(name=axis.name, share=float(share.mean()), interval=_bounds(share))
        for axis, share in zip(axes, shares, strict=True)
    ]
    return tuple(sorted(found, key=lambda one: -one.share))


def _bounds(draws: Floats) -> Bounds:
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
