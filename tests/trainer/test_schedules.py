import pytest
import torch

from dropt_trainer.schedules import SCHEDULES, Name, Schedule, factor

PASSED = [0.0, 1.0, 2.0, 4.0, 8.0]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("constant", [1.0, 1.0, 1.0, 1.0, 1.0]),
        ("early", [1.0, 0.75, 0.5, 0.0, 0.0]),
        ("late", [0.0, 0.0, 0.0, 1.0, 1.0]),
        ("ramp", [0.0, 0.25, 0.5, 1.0, 1.0]),
    ],
)
def test_a_schedule_has_the_values_of_the_protocol(name: Name, expected: list[float]) -> None:
    passed = torch.tensor(PASSED, dtype=torch.float64)
    assert factor(Schedule(name, 4.0), passed).tolist() == expected


def test_an_end_at_0_is_reached_from_the_start() -> None:
    passed = torch.tensor(PASSED, dtype=torch.float64)
    assert factor(Schedule("early", 0.0), passed).tolist() == [0.0] * 5
    assert factor(Schedule("ramp", 0.0), passed).tolist() == [1.0] * 5
    assert factor(Schedule("late", 0.0), passed).tolist() == [1.0] * 5


def test_every_factor_stays_between_0_and_1() -> None:
    passed = torch.linspace(0, 30, 301, dtype=torch.float64)
    for name in SCHEDULES:
        values = SCHEDULES[name](passed, 7.3)
        assert float(values.min()) >= 0
        assert float(values.max()) <= 1
