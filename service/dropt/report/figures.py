"""The figures of the report: pure functions from its numbers to SVG."""

import math
from collections.abc import Sequence

from markupsafe import Markup

from dropt.report import charts
from dropt.report.charts import BOTTOM, LEFT, RIGHT, TOP, Scale, spanning
from dropt.report.words import metric_name, shown_values, tell_rates
from dropt.spec.job import Metric
from dropt.spec.report import ArmCurves, ArmMean, History, Importance, RateResponse, Sensitivity
from dropt.spec.results import Pair
from dropt.tuning.headline import SCALES

BASELINE, PRIMARY = "without", "with"
BAR_HEIGHT = 34


def unit_label(metric: Metric) -> str:
    """`accuracy, %`; `log loss`."""
    unit = SCALES[metric].mean_unit.strip()
    return metric_name(metric).partition(",")[0] + (f", {unit}" if unit else "")


def drawn_arms(means: Sequence[ArmMean], pairs: Sequence[Pair]) -> list[ArmMean]:
    """The two compared arms, and the others that do not press these two flat."""
    compared = [
        v for p in pairs for arm in (BASELINE, PRIMARY) if (v := p.scores.get(arm)) is not None
    ]
    if not compared:
        return list(means)
    low, high = min(compared), max(compared)
    room = 0.35 * (high - low)
    return [
        mean for mean in means
        if mean.arm in (BASELINE, PRIMARY) or low - room <= mean.mean <= high + room
    ]  # fmt: skip


def seeds_figure(pairs: Sequence[Pair], means: Sequence[ArmMean], metric: Metric) -> Markup:
    """One thin line per seed from `without` to `with`, and the mean of each arm beside."""
    arms = [mean.arm for mean in means]
    values = [v for p in pairs for arm in arms if (v := p.scores.get(arm)) is not None]
    bounds = [bound for mean in means for bound in mean.interval or ()]
    y = spanning(shown_values([*values, *bounds], metric), BOTTOM, TOP)
    width = (RIGHT - LEFT) / len(arms)
    x = {arm: LEFT + (i + 0.5) * width for i, arm in enumerate(arms)}
    parts = [charts.y_axis(y, f"test {unit_label(metric)}")]
    for pair in pairs:
        at = {
            arm: y(shown_values([v], metric)[0])
            for arm in arms
            if (v := pair.scores.get(arm)) is not None
        }
        if BASELINE in at and PRIMARY in at:
            ends = [(x[BASELINE], at[BASELINE]), (x[PRIMARY], at[PRIMARY])]
            parts.append(charts.line(ends, "pair"))
        parts += [
            charts.mark(x[arm], place, arm_class(arm), f"{arm}, seed {pair.seed}")
            for arm, place in at.items()
        ]
    for mean in means:
        parts += _mean_marks(x[mean.arm] + 18.0, mean, y, metric)
        parts.append(charts.text(x[mean.arm], BOTTOM + 18.0, mean.arm, anchor="middle"))
    sentence = f"Test scores of {len(pairs)} seeds by arm, paired, with means and 95 % intervals."
    return charts.svg(sentence, *parts)


def _mean_marks(x: float, mean: ArmMean, y: Scale, metric: Metric) -> list[Markup]:
    (centre,) = shown_values([mean.mean], metric)
    parts = [charts.mark(x, y(centre), f"{arm_class(mean.arm)} mean", f"mean of {mean.arm}")]
    if mean.interval is not None:
        low, high = shown_values(mean.interval, metric)
        parts.insert(0, charts.error_bar(x, y(low), y(high), arm_class(mean.arm)))
    return parts


def curves_figure(curves: Sequence[ArmCurves]) -> Markup:
    """Train dotted, validation solid, for the arms without and with dropout."""
    shown = [one for one in curves if one.arm in (BASELINE, PRIMARY)] or list(curves)
    values = [
        v for one in shown for part in (one.train, one.validation) for v in part.mean
        if v is not None
    ]  # fmt: skip
    if not values:
        return charts.svg("No loss was finite.")
    y = spanning(values, BOTTOM, TOP, log=min(values) > 0)
    last = max(epoch for one in shown for epoch in one.epoch)
    x = Scale(0.0, max(2.0, float(last)), LEFT, RIGHT)
    parts = [
        charts.y_axis(y, "loss" + (" (log scale)" if y.log else "")),
        charts.x_axis(x, "epoch"),
    ]
    for one in shown:
        parts += _arm_lines(one, x, y)
    names = " and ".join(one.arm for one in shown)
    sentence = f"Training and validation loss by epoch, arms {names}, mean and 95 % band of seeds."
    return charts.svg(sentence, *parts)


def _arm_lines(one: ArmCurves, x: Scale, y: Scale) -> list[Markup]:
    kind = arm_class(one.arm)
    edges = [
        (x(e), _on(y, low), _on(y, high))
        for e, low, high in zip(
            one.epoch, one.validation.low, one.validation.high, strict=True
        )
    ]  # fmt: skip
    train = [(x(e), _on(y, v)) for e, v in zip(one.epoch, one.train.mean, strict=True)]
    validation = [(x(e), _on(y, v)) for e, v in zip(one.epoch, one.validation.mean, strict=True)]
    return [
        charts.band(edges, kind),
        charts.line(train, f"{kind} train"),
        charts.line(validation, kind),
    ]


def _on(scale: Scale, value: float | None) -> float | None:
    """A place within the area of the data."""
    if value is None:
        return None
    return min(max(scale(value), TOP - 4.0), BOTTOM + 4.0)


def response_figure(response: RateResponse, metric: Metric) -> Markup:
    """What the value does over one rate, against the chosen rate."""
    factor = SCALES[metric].factor
    points = response.points
    values = [factor * bound for point in points for bound in point.interval]
    y = spanning([0.0, *values], BOTTOM, TOP)
    x = Scale(0.0, max(points[-1].rate, 0.01), LEFT + 4, RIGHT - 6)
    edges = [
        (x(p.rate), y(factor * p.interval[0]), y(factor * p.interval[1])) for p in points
    ]  # fmt: skip
    middle = [(x(p.rate), y(factor * p.effect)) for p in points]
    unit = SCALES[metric].effect_unit.strip()
    label = f"change of {metric_name(metric).partition(',')[0]}" + (f", {unit}" if unit else "")
    parts = [
        charts.y_axis(y, label),
        charts.x_axis(x, "rate of dropout", percent=True),
        charts.band(edges, "with"),
        charts.line([(LEFT, y(0.0)), (RIGHT, y(0.0))], "zero"),
        charts.line(middle, "with"),
        charts.mark(x(response.chosen), y(0.0), "with mean", "the chosen rate"),
    ]
    if response.alike is not None:
        span = [(x(response.alike[0]), BOTTOM - 3.0), (x(response.alike[1]), BOTTOM - 3.0)]
        parts.append(charts.line(span, "alike"))
    sentence = f"Validation value over the rate of {response.group}: {alike_words(response)}."
    return charts.svg(sentence, *parts)


def alike_words(response: RateResponse) -> str:
    """`0-60 % cannot be told apart`."""
    if response.alike is None or response.alike[0] == response.alike[1]:
        return f"the chosen {100 * response.chosen:.3g} % stands out"
    return f"{tell_rates(response.alike)} cannot be told apart"


def importance_figure(found: Sensitivity) -> Markup:
    """A bar per setting: its share of the variance, with the interval."""
    bars: list[Importance] = list(found.importance)
    left, right = 150.0, 376.0
    x = Scale(0.0, 1.0, left, right)
    height = BAR_HEIGHT * len(bars) + 40
    parts = []
    for i, one in enumerate(bars):
        y = 8.0 + BAR_HEIGHT * i
        name = one.name if len(one.name) <= 24 else f"{one.name[:23]}…"
        parts.append(charts.text(left - 8.0, y + 15.0, name, anchor="end"))
        kind = "with" if one.name.startswith(("rate", "kind", "schedule")) else "other"
        box = {"x": left, "y": y + 2, "width": x(one.share) - left, "height": 18.0}
        parts.append(charts.element("rect", {**box, "class": f"fill {kind}"}))
        low, high = (x(bound) for bound in one.interval)
        caps = "".join(f"M{end:.1f} {y + 6:.1f}v10" for end in (low, high))
        path = f"M{low:.1f} {y + 11:.1f}H{high:.1f}{caps}"
        parts.append(charts.element("path", {"class": "bar", "d": path}))
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        place = x(tick)
        parts.append(charts.text(place, height - 22.0, f"{tick:.0%}", anchor="middle"))
    label = "share of the variance over the search"
    parts.append(charts.text((left + right) / 2, height - 5.0, label, anchor="middle"))
    return charts.svg("Share of the variance that each setting explains.", *parts, height=height)


def history_figure(history: History, metric: Metric) -> Markup:
    """Completed trials as marks of their arm, pruned ones as crosses, the best so far as steps."""
    dots = [(dot, v) for dot in history.dots if (v := dot.value) is not None]
    if not dots:
        return charts.svg("No search trial has a value yet.")
    factor = abs(SCALES[metric].factor)
    y = _robust([factor * v for _, v in dots])
    x = Scale(0.0, max(2.0, history.trials + 1.0), LEFT, RIGHT)
    parts = [
        charts.y_axis(y, f"validation {unit_label(metric)}"),
        charts.x_axis(x, "search trial"),
    ]
    for dot, value in dots:
        place = _on(y, factor * value)
        assert place is not None
        kind = "pruned" if dot.state == "pruned" else arm_class(dot.arm)
        parts.append(
            charts.mark(x(dot.order), place, kind, f"{dot.trial}, {dot.arm}, {dot.state}")
        )
    for arm in history.arms:
        parts.append(charts.line(_steps(arm.best_so_far, history.trials, x, y, factor),
                                 f"{arm_class(arm.arm)} best"))  # fmt: skip
    return charts.svg(f"Validation value of {len(dots)} search trials in order.", *parts)


def n_off_scale(history: History) -> int:
    """How many trials lie so far off that they are drawn at the edge."""
    values = [dot.value for dot in history.dots if dot.value is not None]
    scale = _robust(values) if values else None
    return sum(not scale.low <= value <= scale.high for value in values) if scale else 0


def _steps(
    best: Sequence[tuple[int, float]], last: int, x: Scale, y: Scale, factor: float
) -> list[tuple[float, float | None]]:
    found: list[tuple[float, float | None]] = []
    for i, (order, value) in enumerate(best):
        until = best[i + 1][0] if i + 1 < len(best) else last
        place = _on(y, factor * value)
        found += [(x(order), place), (x(until), place)]
    return found


def _robust(values: Sequence[float]) -> Scale:
    """A scale on which a few diverged trials do not press all others flat."""
    ordered = sorted(values)
    low, high = ordered[len(ordered) // 4], ordered[(3 * len(ordered)) // 4]
    room = 3.0 * (high - low) or math.inf
    return spanning([v for v in ordered if low - room <= v <= high + room], BOTTOM, TOP)


def arm_class(arm: str) -> str:
    """The class of an arm in the style; arms beyond the two compared share one."""
    return arm if arm in (BASELINE, PRIMARY) else "other"
