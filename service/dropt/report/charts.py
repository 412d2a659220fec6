"""Parts of a chart as SVG: scales, axes, lines, bands, marks. Every text is escaped."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup, escape

WIDTH, HEIGHT = 400, 250
LEFT, RIGHT, TOP, BOTTOM = 52, 388, 10, 206  # the area of the data
N_TICKS = 5
NOTHING: Mapping[str, object] = {}


@dataclass(frozen=True)
class Scale:
    """From numbers to places on the page."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, at = self.low, self.high, value
        if self.log:
            low, high, at = math.log(low), math.log(high), math.log(max(value, self.low))
        share = (at - low) / (high - low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round numbers within."""
        if self.log:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            steps = (1, 2, 5) if self.high / self.low < 200 else (1,)
            found = [step * 10.0**decade for decade in decades for step in steps]
            within = [tick for tick in found if self.low <= tick <= self.high]
            if len(within) > 2:
                return within
        return round_numbers(self.low, self.high)


def round_numbers(low: float, high: float, most: int = N_TICKS) -> list[float]:
    """About `most` multiples of 1, 2 or 5 times a power of ten from low to high."""
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def spanning(values: Sequence[float], start: float, end: float, *, log: bool = False) -> Scale:
    """A scale that holds all values with a margin; a single value gets room on both sides."""
    low, high = min(values), max(values)
    if log and low > 0:
        return Scale(low / 1.15, high * 1.15, start, end, log=True)
    margin = 0.07 * (high - low) or 0.05 * abs(high) or 1.0
    return Scale(low - margin, high + margin, start, end)


def element(name: str, attributes: Mapping[str, object] = NOTHING, *inner: object) -> Markup:
    """One element; `_` in the name of an attribute stands for `-`."""
    given = [
        Markup(' {}="{}"').format(key.replace("_", "-"), _written(value))
        for key, value in attributes.items()
        if value is not None
    ]
    body = Markup("").join(escape(part) for part in inner)
    return Markup("<{0}{1}>{2}</{0}>").format(name, Markup("").join(given), body)


def _written(value: object) -> object:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else value


def svg(sentence: str, *parts: Markup, height: int = HEIGHT) -> Markup:
    """A picture that says in a sentence what it shows."""
    attributes = {
        "viewBox": f"0 0 {WIDTH} {height}",
        "role": "img",
        "aria-label": sentence,
        "class": "chart",
    }
    return element("svg", attributes, element("title", NOTHING, sentence), *parts)


def text(x: float, y: float, words: object, **attributes: object) -> Markup:
    """A text, anchored at its start unless told."""
    anchor = attributes.pop("anchor", "start")
    return element("text", {"x": x, "y": y, "text_anchor": anchor, **attributes}, words)


def y_axis(scale: Scale, label: str, digits: int | None = None) -> Markup:
    """Grid lines with numbers at the left, and the words along it."""
    parts = []
    ticks = scale.ticks()
    for tick in ticks:
        y = scale(tick)
        parts.append(element("path", {"class": "grid", "d": f"M{LEFT} {y:.1f}H{RIGHT}"}))
        parts.append(text(LEFT - 6.0, y + 4, number(tick, ticks), anchor="end"))
    middle = (TOP + BOTTOM) / 2
    turned = {"transform": f"rotate(-90 11 {middle:.0f})", "class": "label"}
    return Markup("").join([*parts, text(11.0, middle, label, anchor="middle", **turned)])


def x_axis(scale: Scale, label: str, *, percent: bool = False) -> Markup:
    """Numbers below, and the words under them."""
    ticks = scale.ticks()
    shown = [f"{100 * tick:.3g} %" if percent else number(tick, ticks) for tick in ticks]
    parts = [
        text(scale(tick), BOTTOM + 16.0, words, anchor="middle")
        for tick, words in zip(ticks, shown, strict=True)
    ]
    return Markup("").join([*parts, x_label(label)])


def x_label(label: str) -> Markup:
    """The words under an axis."""
    centre = (LEFT + RIGHT) / 2
    return text(centre, BOTTOM + 36.0, label, anchor="middle", **{"class": "label"})


def number(tick: float, ticks: Sequence[float]) -> str:
    """A tick with as many digits as its neighbours need."""
    step = min((abs(b - a) for a, b in pairwise(ticks)), default=abs(tick))
    decimals = max(0, -math.floor(math.log10(step))) if step else 0
    return f"{tick:.{min(decimals, 6)}f}"


def line(points: Sequence[tuple[float, float | None]], kind: str) -> Markup:
    """A line through points, broken where one is missing."""
    path, pen = [], "M"
    for x, y in points:
        if y is None:
            pen = "M"
            continue
        path.append(f"{pen}{x:.1f} {y:.1f}")
        pen = "L"
    return element("path", {"class": f"line {kind}", "d": "".join(path)})


def band(points: Sequence[tuple[float, float | None, float | None]], kind: str) -> Markup:
    """The area between two lines, over the points that have both."""
    both = [(x, a, b) for x, a, b in points if a is not None and b is not None]
    if len(both) < 2:
        return Markup("")
    there = "L".join(f"{x:.1f} {a:.1f}" for x, a, _ in both)
    back = "L".join(f"{x:.1f} {b:.1f}" for x, _, b in reversed(both))
    return element("path", {"class": f"band {kind}", "d": f"M{there}L{back}Z"})


def error_bar(x: float, low: float, high: float, kind: str) -> Markup:
    """An upright interval with caps."""
    path = f"M{x - 6:.1f} {low:.1f}h12M{x - 6:.1f} {high:.1f}h12M{x:.1f} {low:.1f}V{high:.1f}"
    return element("path", {"class": f"bar {kind}", "d": path})


def mark(x: float, y: float, kind: str, title: str | None = None) -> Markup:
    """A mark whose form tells the kind too: circle, square, triangle, cross."""
    shapes = {
        "without": f"M{x - 4:.1f} {y:.1f}a4 4 0 1 0 8 0a4 4 0 1 0 -8 0Z",
        "with": f"M{x - 3.5:.1f} {y - 3.5:.1f}h7v7h-7Z",
        "pruned": f"M{x - 2.5:.1f} {y - 2.5:.1f}l5 5m0 -5l-5 5",
    }
    other = f"M{x:.1f} {y - 4.5:.1f}l4.5 8h-9Z"
    path = shapes.get(kind.partition(" ")[0], other)
    inner = (element("title", NOTHING, title),) if title else ()
    return element("path", {"class": f"mark {kind}", "d": path}, *inner)
