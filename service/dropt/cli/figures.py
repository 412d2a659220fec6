"""Numbers as people read them: accuracies in percent, effects in points, losses as they are."""

from collections.abc import Sequence

from dropt.spec.job import Metric

METRIC_NAMES: dict[Metric, str] = {
    "accuracy": "accuracy",
    "nll": "log loss",
    "mse": "squared error",
}


def score(metric: Metric, value: float | None) -> str:
    """One value of a metric: `93.4 %` of an accuracy, four digits of a loss, `-` for none."""
    if value is None:
        return "-"
    return f"{100 * value:.1f} %" if metric == "accuracy" else f"{value:.4g}"


def effect(metric: Metric, value: float) -> str:
    """A difference with its sign, positive where dropout is better: `+0.91 points`, `+0.0123`."""
    return f"{_signed(metric, value)}{unit(metric)}"


def interval(metric: Metric, bounds: Sequence[float]) -> str:
    """Both ends of an interval: `+0.40 to +1.42 points`."""
    low, high = (_signed(metric, bound) for bound in bounds)
    return f"{low} to {high}{unit(metric)}"


def unit(metric: Metric) -> str:
    """What stands behind a difference: points of percent for accuracy, nothing for losses."""
    return " points" if metric == "accuracy" else ""


def rate(value: float) -> str:
    """A rate of dropout in percent; 0 is 0."""
    return "0" if value == 0 else f"{100 * value:.3g} %"


def count(n: int, noun: str) -> str:
    """`1 seed`, `8 seeds`."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _signed(metric: Metric, value: float) -> str:
    return f"{100 * value:+.2f}" if metric == "accuracy" else f"{value:+.4g}"
