"""Learning curves of the comparison, and what they say of over- and underfitting."""

from collections.abc import Callable, Mapping, Sequence

from dropt.report.intervals import mean_interval
from dropt.spec.report import ArmCurves, Band, Diagnosis
from dropt.spec.results import ArmScore
from dropt.storage.measurements import Point
from dropt.storage.trials import TrialRow

MOST_POINTS = 100  # of a curve: more than a figure resolves
SMALL_GAP = 0.1  # of the validation loss: below it, memorising is not what limits the model


def curves_of(
    arm: str, trainings: Sequence[TrialRow], points: Mapping[str, Sequence[Point]]
) -> ArmCurves | None:
    """Loss by epoch over the seeds of an arm; None when nothing was measured.

    An epoch is there while every seed still trains: where some have stopped early, a mean over
    the rest would jump.
    """
    found = [points[row.id] for row in trainings if points.get(row.id)]
    if not found:
        return None
    by_epoch = [{point.epoch: point for point in each} for each in found]
    common = sorted(set.intersection(*(set(each) for each in by_epoch)))
    epochs = _thinned(common)
    rows = [[each[epoch] for each in by_epoch] for epoch in epochs]
    evaluated = all(p.train_eval_loss is not None for row in rows for p in row)
    return ArmCurves(
        arm=arm,
        seeds=len(found),
        epoch=tuple(epochs),
        train=_band(rows, lambda p: p.train_eval_loss if evaluated else p.train_loss),
        validation=_band(rows, lambda p: p.validation_loss),
        train_in_evaluation=evaluated,
    )


def diagnose(arms: Sequence[ArmScore]) -> tuple[Diagnosis, ...]:
    """What the gap between training and validation says of each arm that has one."""
    return tuple(
        Diagnosis(
            arm=score.arm,
            gap=score.train_validation_gap,
            word="overfits" if score.train_validation_gap > SMALL_GAP else "little_gap",
        )
        for score in arms
        if score.train_validation_gap is not None
    )


def _thinned(epochs: Sequence[int]) -> list[int]:
    """At most `MOST_POINTS` epochs, the first and the last among them."""
    if len(epochs) <= MOST_POINTS:
        return list(epochs)
    step = (len(epochs) - 1) / (MOST_POINTS - 1)
    return [epochs[round(i * step)] for i in range(MOST_POINTS)]


def _band(rows: Sequence[Sequence[Point]], loss: Callable[[Point], float | None]) -> Band:
    mean: list[float | None] = []
    low: list[float | None] = []
    high: list[float | None] = []
    for row in rows:
        values = [value for point in row if (value := loss(point)) is not None]
        middle, bounds = mean_interval(values) if values else (None, None)
        mean.append(middle)
        low.append(bounds[0] if bounds else None)
        high.append(bounds[1] if bounds else None)
    return Band(mean=tuple(mean), low=tuple(low), high=tuple(high))
