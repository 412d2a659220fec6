import pytest

from dropt.cli import figures
from dropt.spec.job import Metric


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [("accuracy", 0.9342, "93.4 %"), ("nll", 0.23456, "0.2346"), ("mse", 1234.5, "1234"),
     ("accuracy", None, "-")],
)  # fmt: skip
def test_accuracy_is_told_in_percent_and_losses_as_they_are(
    metric: Metric, value: float | None, text: str
) -> None:
    assert figures.score(metric, value) == text


def test_rate_is_a_percentage_and_no_dropout_is_0() -> None:
    assert [figures.rate(value) for value in (0.0, 0.3, 0.125)] == ["0", "30 %", "12.5 %"]


def test_one_thing_is_not_plural() -> None:
    assert (figures.count(1, "worker"), figures.count(0, "worker")) == ("1 worker", "0 workers")
