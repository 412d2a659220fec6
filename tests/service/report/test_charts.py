import math
import xml.etree.ElementTree as ET

import pytest

from dropt.report import charts
from dropt.report.charts import Scale, element, round_numbers, spanning


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0.0, 1.0, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]), (-0.013, 0.021, [-0.01, 0.0, 0.01, 0.02])],
)
def test_ticks_are_round(low: float, high: float, ticks: list[float]) -> None:
    assert round_numbers(low, high) == pytest.approx(ticks)


@pytest.mark.parametrize("values", [[0.3], [0.0], [-2.0, -2.0], [1e-9, 2e-9], [1.0, 1e6]])
@pytest.mark.parametrize("log", [False, True])
def test_every_value_has_a_place_between_the_ends(values: list[float], *, log: bool) -> None:
    scale = spanning(values, 200.0, 10.0, log=log)
    assert all(10.0 <= scale(value) <= 200.0 for value in values)
    ticks = scale.ticks()
    assert ticks
    assert all(math.isfinite(tick) and scale.low <= tick <= scale.high for tick in ticks)


def test_a_narrow_logarithmic_scale_has_more_ticks_than_its_ends() -> None:
    assert len(Scale(0.3, 0.7, 0.0, 1.0, log=True).ticks()) > 2


def test_ticks_have_the_digits_that_tell_them_apart() -> None:
    ticks = [0.0, 0.005, 0.01]
    assert [charts.number(tick, ticks) for tick in ticks] == ["0.000", "0.005", "0.010"]


def test_texts_and_attributes_are_escaped() -> None:
    drawn = element("text", {"class": '"><script>'}, "</text><script>alert(1)</script>&")
    root = ET.fromstring(drawn)
    assert (root.attrib["class"], root.text) == ('"><script>', "</text><script>alert(1)</script>&")


def test_a_line_is_broken_where_a_value_is_missing() -> None:
    drawn = charts.line([(0.0, 1.0), (1.0, None), (2.0, 3.0), (3.0, 4.0)], "with")
    assert ET.fromstring(drawn).attrib["d"] == "M0.0 1.0M2.0 3.0L3.0 4.0"


def test_arms_differ_by_form_and_not_by_colour_alone() -> None:
    kinds = ("without", "with", "other", "pruned")
    forms = {ET.fromstring(charts.mark(0.0, 0.0, kind)).attrib["d"] for kind in kinds}
    assert len(forms) == len(kinds)
