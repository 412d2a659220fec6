"""The ablation: the tested configuration against itself without each of its sites.

Secondary, after the verdict: the first seeds of the comparison, the test split, the crossed
interval, Holm over the sites. A site is told with those that share its rate. The settings were
tuned with the site on: a harmful removal says that this configuration needs the site, not that no
other could do without.
"""

from collections.abc import Mapping, Sequence

from dropt.spec.job import DIRECTIONS, Metric
from dropt.spec.results import AblationRead
from dropt.tuning.comparison import Training, check_rows, score_matrix
from dropt.tuning.evidence import CrossedStatistics, crossed_interval, crossed_statistics
from dropt.tuning.scores import paired_differences
from dropt.tuning.shortlist import Configuration
from dropt.tuning.simplification import Unit, units_of
from dropt.tuning.verdict import holm_levels

MAX_SEEDS = 8  # of those that the comparison has trained
MAX_UNITS = 6  # those with the highest rates


def units_to_ablate(configuration: Configuration, groups: Sequence[Unit]) -> tuple[Unit, ...]:
    """What is taken out, one at a time; nothing of a single unit, which the verdict is about."""
    units = units_of(configuration, groups)
    if len(units) < 2:
        return ()
    on = configuration.on
    rates = {unit: max(on[site].rate for site in unit) for unit in units}
    highest = sorted(units, key=lambda unit: -rates[unit])[:MAX_UNITS]
    return tuple(unit for unit in units if unit in highest)


def ablation_table(
    metric: Metric, whole: Sequence[Training], ablated: Mapping[Unit, Sequence[Training]]
) -> tuple[AblationRead, ...]:
    """One row per unit: what its dropout does to the score, positive is better with it.

    `whole` are trainings of the tested configuration, `ablated` those without a unit, under the
    same seeds in the same order. Raises ValueError when they are not scored on the same rows.
    """
    check_rows([*whole, *(one for trainings in ablated.values() for one in trainings)])
    found = {
        unit: crossed_statistics(
            paired_differences(
                score_matrix(whole, metric), score_matrix(trainings, metric), DIRECTIONS[metric]
            )
        )
        for unit, trainings in ablated.items()
    }
    levels = holm_levels(list(found.values()))
    return tuple(
        _row(unit, metric, statistics, level, n_rows=len(found))
        for (unit, statistics), level in zip(found.items(), levels, strict=True)
    )


def _row(
    unit: Unit, metric: Metric, found: CrossedStatistics, level: float, *, n_rows: int
) -> AblationRead:
    interval = crossed_interval(found, level)
    return AblationRead(
        sites=unit,
        metric=metric,
        effect=found.effect,
        interval=None if interval is None else (interval.low, interval.high),
        level=level,
        adjusted="holm" if n_rows > 1 else None,
        seeds=found.n_seeds,
    )
