"""How the page tells numbers: the same digits as the sentence of the verdict."""

from collections.abc import Sequence
from dataclasses import dataclass

from dropt.spec.job import Metric
from dropt.spec.report import Bounds
from dropt.spec.results import VerdictWord
from dropt.tuning.headline import SCALES, decimals_of, plain, signed

TITLES: dict[VerdictWord, str] = {
    "helps": "Dropout helps",
    "hurts": "Dropout hurts",
    "no_measurable_difference": "No measurable difference",
    "undecided": "Undecided",
    "not_tested": "Not tested",
}
NO_VERDICT = "No verdict yet"
PHASES = {
    "search": "search",
    "shortlist": "race of the best",
    "simplify": "taking sites out",
    "compare": "comparison",
    "ablate": "ablation",
}


@dataclass(frozen=True)
class Effect:
    """A difference as it is shown: `+0.91 points`, `+0.40 to +1.42`, `better`."""

    text: str
    interval: str | None
    word: str


def tell_effect(effect: float, interval: Bounds | None, metric: Metric) -> Effect:
    """A difference, positive is better, in the unit and with the sign of the metric."""
    scale = SCALES[metric]
    shown = scale.factor * effect
    bounds = sorted(scale.factor * bound for bound in interval) if interval is not None else []
    half = (bounds[1] - bounds[0]) / 2 if bounds else 0.0
    decimals = max(decimals_of(half or shown), scale.fewest_decimals)
    return Effect(
        text=signed(shown, decimals) + scale.effect_unit,
        interval=" to ".join(signed(bound, decimals) for bound in bounds) if bounds else None,
        word="better" if effect > 0 else "worse" if effect < 0 else "equal",
    )


def tell_score(value: float | None, metric: Metric, *, spread: float | None = None) -> str:
    """A score in the unit of the metric, to the digits that its spread leaves."""
    if value is None:
        return "not measured"
    scale = SCALES[metric]
    shown = abs(scale.factor) * value
    size = abs(scale.factor) * spread if spread else shown / 10
    decimals = min(6, max(decimals_of(size), 1 if scale.mean_unit else 0))
    return plain(shown, decimals) + scale.mean_unit


def spread_of(interval: Bounds | None) -> float | None:
    """Half the width of an interval."""
    return None if interval is None else (interval[1] - interval[0]) / 2


def tell_contrast(name: str) -> str:
    """A contrast of two arms in words: most are of another arm against `without`."""
    if name in SCALES:
        return "with against without"
    return f"{name.replace('_', ' ')} against without"


def tell_seconds(seconds: float | None) -> str:
    """`48 s`, `1 min 27 s`, `2 h 5 min`."""
    if seconds is None:
        return "not measured"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def tell_share(share: float) -> str:
    """A share in whole percent; what is not 0 is not shown as 0."""
    return "< 1 %" if 0 < share < 0.01 else f"{100 * share:.0f} %"


def tell_rates(bounds: Bounds) -> str:
    """A range of rates: `0-60 %`."""
    low, high = (f"{100 * bound:.3g}" for bound in bounds)
    return f"{low} %" if low == high else f"{low}-{high} %"


def metric_name(metric: Metric) -> str:
    """`log loss, lower is better`."""
    return SCALES[metric].name


def shown_values(values: Sequence[float], metric: Metric) -> list[float]:
    """Values of a metric in the unit that is shown, percent of accuracy."""
    factor = abs(SCALES[metric].factor)
    return [factor * value for value in values]
