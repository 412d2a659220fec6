"""Schedules: their values, and what they make of a rate."""

import pytest
import torch

from dropt_trainer.dropout.kinds import KINDS, apply_kind
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


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("name", "without"), [("early", [4.0, 9.0]), ("late", [0.0, 3.75]), ("ramp", [0.0])]
)
def test_where_a_schedule_is_0_nothing_drops_bit_for_bit(
    name: Name, without: list[float], kind: str
) -> None:
    """And elsewhere something does; the rate is the product, rounded to float32 as in a pack."""
    x = torch.randn(16, 3, 4, generator=torch.Generator().manual_seed(0)).neg_()
    x[0, 0, 0] = -0.0
    seed, step = torch.tensor(3), torch.tensor(1, dtype=torch.int32)
    for passed, drops in [*((t, False) for t in without), (4.0 if name != "early" else 0.0, True)]:
        rate = 0.7 * factor(Schedule(name, 4.0), torch.tensor(passed, dtype=torch.float64))
        y = apply_kind(x, kind, rate.to(torch.float32), seed, step, site=1, time_dim=1)
        assert torch.equal(y.view(torch.int32), x.view(torch.int32)) is not drops


def test_the_share_of_dropped_units_follows_the_schedule() -> None:
    """100,000 units at rate 0.5 halfway through a ramp and a decay; 4 standard errors."""
    ones, step = torch.ones(1, 100_000), torch.tensor(1, dtype=torch.int32)
    halfway = torch.tensor(2.0, dtype=torch.float64)
    for name, rate in (("early", 0.25), ("ramp", 0.25), ("late", 0.0), ("constant", 0.5)):
        asked = (0.5 * SCHEDULES[name](halfway, 4.0)).to(torch.float32)
        y = apply_kind(ones, "element", asked, torch.tensor(3), step, site=1)
        error = 4 * (rate * (1 - rate) / ones.numel()) ** 0.5
        assert abs(float((y == 0).double().mean()) - rate) <= error
