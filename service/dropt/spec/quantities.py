"""Numbers as people read them: accuracies and rates in percent, losses as they are."""

from dropt.spec.job import Metric

METRIC_NAMES: dict[Metric, str] = {
    "accuracy": "accuracy",
    "nll": "log loss",
    "mse": "squared error",
    "perplexity": "perplexity",
}


def score(metric: Metric, value: float | None) -> str:
    """One value of a metric: `93.4 %` of an accuracy, four digits of a loss, `-` for none."""
    if value is None:
        return "-"
    return f"{100 * value:.1f} %" if metric == "accuracy" else f"{value:.4g}"


def rate(value: float) -> str:
    """A rate of dropout in percent; 0 is 0."""
    return "0" if value == 0 else f"{100 * value:.3g} %"


def count(n: int, noun: str) -> str:
    """`1 seed`, `8 seeds`."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
