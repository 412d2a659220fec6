"""The verdict as a sentence: what changed, how much, how sure, on what evidence.

Shares are told in percent and their differences in points; losses in plain numbers, with the
word that lower is better. Signs are those of the metric, so that they agree with the arrow.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dropt.spec.job import Metric
    from dropt.tuning.planning import Outlook
    from dropt.tuning.verdict import Look, Reason


@dataclass(frozen=True, slots=True)
class Scale:
    """How a metric is told: `factor` turns an effect, positive is better, into what is shown."""

    name: str
    factor: float
    mean_unit: str = ""
    effect_unit: str = ""
    fewest_decimals: int = 0  # of an effect; a mean in percent has one less


SCALES: dict["Metric", Scale] = {
    "accuracy": Scale("accuracy", 100.0, " %", " points", 2),
    "nll": Scale("log loss, lower is better", -1.0),
    "mse": Scale("mean squared error, lower is better", -1.0),
    "perplexity": Scale("perplexity, lower is better", -1.0),
}
MOST_DECIMALS = 6  # beyond it a number is told in scientific notation
NOT_TESTED: dict["Reason", str] = {
    "evidence_off": "evidence was off",
    "no_test_split": "the data set has no test split",
    "too_few_test_examples": "fewer than 50 test examples",
    "no_finished_trial": "an arm has no finished trial",
    "too_few_seeds": "the budget allows fewer than 5 paired seeds",
}


def headline(look: "Look", *, metric: "Metric", without_mean: float, min_effect: float) -> str:
    """The sentence for a look, in units of the metric.

    `without_mean` is the mean test score of `without` over the same seeds and examples.
    """
    change = _change(look, metric, without_mean)
    margin = format_effect(min_effect, metric)
    match look.decision.verdict:
        case "helps":
            return f"Dropout helps: {change}"
        case "hurts":
            return (
                f"Dropout hurts: {change}: "
                "the best dropout configuration this search found is worse than none"
            )
        case "no_measurable_difference":
            return (
                f"No measurable difference: {change}: {_small(look, margin)}. Leave dropout out."
            )
        case _:
            return _undecided(look, change, margin)


def not_tested_headline(reason: "Reason") -> str:
    """The sentence for a comparison that was not made."""
    return f"Not tested: {NOT_TESTED[reason]}."


def format_effect(effect: float, metric: "Metric") -> str:
    """A difference without its sign, two significant figures: `0.5 points`, `0.0021`."""
    scale = SCALES[metric]
    size = abs(scale.factor * effect)
    number = plain(size, decimals_of(size))
    if "." in number and "e" not in number:
        number = number.rstrip("0").rstrip(".")
    return number + (" point" if scale.effect_unit and number == "1" else scale.effect_unit)


def would_decide(outlook: "Outlook", *, n_seeds: int, metric: "Metric", min_effect: float) -> str:
    """What it takes to show an effect of `min_effect`; `n_seeds` is the cap of the outlook."""
    margin = format_effect(min_effect, metric)
    ways = (
        (outlook.seeds_needed, "about {} seeds on this test set"),
        (outlook.examples_needed, f"about {{}} test examples with {n_seeds} seeds"),
    )
    told = [text.format(number) for number, text in ways if number is not None]
    if not told:
        return f"Neither more seeds nor more test examples alone would show {margin}."
    return f"To show {margin} with 80 % power takes {' or '.join(told)}."


def _change(look: "Look", metric: "Metric", without_mean: float) -> str:
    """`93.4 % -> 94.3 % test accuracy (+0.91 points, 95 % interval +0.40 to +1.42, ...)`."""
    scale, statistics = SCALES[metric], look.statistics
    effect = scale.factor * statistics.effect
    before = abs(scale.factor) * without_mean
    bounds = _bounds(look, scale)
    half = (bounds[1] - bounds[0]) / 2 if bounds else 0.0
    decimals = max(decimals_of(half or effect or before / 10), scale.fewest_decimals)
    means = [
        plain(mean, decimals - bool(scale.mean_unit)) + scale.mean_unit
        for mean in (before, before + effect)
    ]
    interval = " to ".join(signed(bound, decimals) for bound in bounds)
    details = (
        signed(effect, decimals) + scale.effect_unit,
        f"95 % interval {interval}" if bounds else "no interval",
        f"{statistics.n_seeds} seeds",
        f"{statistics.n_examples} examples",
    )
    return f"{means[0]} -> {means[1]} test {scale.name} ({', '.join(details)})"


def _bounds(look: "Look", scale: Scale) -> tuple[float, ...]:
    """The interval as it is shown, lower bound first; empty without one."""
    if look.interval is None:
        return ()
    return tuple(sorted(scale.factor * bound for bound in (look.interval.low, look.interval.high)))


def _small(look: "Look", margin: str) -> str:
    sign = look.decision.sign
    if sign is None:
        return f"any effect is smaller than {margin}"
    return f"dropout is {sign}, but by less than {margin}"


def _undecided(look: "Look", change: str, margin: str) -> str:
    if look.decision.go_on:
        return f"Undecided so far: {change}: more seeds follow"
    n_examples = look.statistics.n_examples
    why = {
        "test_set_too_small": f"{n_examples} test examples are too few for {margin}",
        "no_variation": f"all differences are equal, and {n_examples} test examples are too few "
        "to build on that",
    }.get(look.decision.reason or "", "the spread over seeds is too large to tell")
    return f"Undecided: {change}: {why}"


def decimals_of(size: float) -> int:
    """Decimals that show two significant figures of a number; 0 for a number from 10 on."""
    return max(0, 1 - math.floor(math.log10(abs(size)))) if size else 0


def plain(number: float, decimals: int) -> str:
    """A number with these decimals, never `-0`; in scientific notation when it is tiny."""
    if decimals > MOST_DECIMALS:
        return f"{number:.3e}"
    return f"{round(number, decimals) + 0.0:.{decimals}f}"


def signed(number: float, decimals: int) -> str:
    """The same with its sign."""
    text = plain(number, decimals)
    return text if text.startswith("-") else f"+{text}"
