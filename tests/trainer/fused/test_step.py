import numpy as np
import pytest
import torch
from tests.trainer.fused.independent import masks_in_numpy
from torch import Tensor, nn

from dropt_trainer.dropout.masks import mask_seed
from dropt_trainer.fused.rows import Rows
from dropt_trainer.fused.step import Lane, forward_of
from dropt_trainer.sites.instrument import SitePort, instrument

RATES = (0.0, 0.1, 0.5, 0.25, 0.9)
SITE = "hidden:out"
WIDTH = 33
LANES: tuple[Lane, ...] = ("fused", "solo")


class Lamp(nn.Module):
    """Its output shows the masks of its one site: the input times 1, dropped."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(WIDTH, WIDTH, bias=False)
        nn.init.eye_(self.hidden.weight)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.hidden(x)
        return out


def lit(lane: Lane, rows: Rows, n_rows: int, x: Tensor) -> Tensor:
    model = Lamp()
    instrument(model, [SitePort(SITE, "element")])
    window = rows.window(n_rows)
    return forward_of(model, lane)(window.parameters, window.buffers, x).detach()


@pytest.mark.parametrize("n_rows", [1, 2, 5])
def test_masks_are_bitwise_the_same_in_both_lanes_and_in_numpy(n_rows: int) -> None:
    rows = Rows(Lamp(), n_slots=5, n_columns=1)
    seeds = [2**40 + 7 * row for row in range(5)]
    for row, rate in enumerate(RATES):
        rows.write(row, Lamp())
        rows.rates[row] = rate
        rows.seed[row] = mask_seed(seeds[row])
    for step in range(4):
        rows.step += 1 + torch.arange(5, dtype=torch.int32)  # trials of different age
        fused, solo = (lit(lane, rows, n_rows, torch.ones(n_rows, 8, WIDTH)) for lane in LANES)
        assert torch.equal(fused, solo)
        for row in range(n_rows):
            age = (step + 1) * (row + 1)
            kept = masks_in_numpy(seeds[row], SITE, RATES[row], age, (8, WIDTH))
            assert np.array_equal(fused[row].numpy() != 0, kept)


class Noisy(nn.Module):
    """A model with a random operation that nobody accounts for."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x + torch.rand_like(x))
        return out


def test_a_random_operation_that_is_no_site_raises_in_a_pack() -> None:
    model = Noisy()
    rows = Rows(model, n_slots=2, n_columns=0)
    instrument(model, [])
    window = rows.window(2)
    with pytest.raises(RuntimeError, match="randomness"):
        forward_of(model, "fused")(window.parameters, window.buffers, torch.zeros(2, 4, 3))


class Summed(nn.Module):
    """A model of several inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(3, 2), nn.Embedding(5, 2)

    def forward(self, x: dict[str, Tensor]) -> Tensor:
        out: Tensor = self.left(x["values"]) + self.right(x["ids"])
        return out


def test_inputs_may_be_several_tensors_by_name() -> None:
    model = Summed().double()
    rows = Rows(model, n_slots=2, n_columns=0)
    for row in range(2):
        rows.write(row, Summed().double())
    instrument(model, [])
    window = rows.window(2)
    values = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = {"values": values, "ids": torch.arange(8).view(2, 4) % 5}
    outputs = [forward_of(model, lane)(window.parameters, window.buffers, x) for lane in LANES]
    assert outputs[0].shape == (2, 4, 2)
    torch.testing.assert_close(*outputs, rtol=1e-12, atol=1e-12)


class Tied(nn.Module):
    """The same weight under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(self.first(x))
        return out


@pytest.mark.parametrize("lane", LANES)
def test_tied_weights_are_replaced_under_every_name(lane: Lane) -> None:
    model = Tied()
    rows = Rows(model, n_slots=2, n_columns=0)
    rows.weight[1] = 1.0
    instrument(model, [])
    window = rows.window(2)
    output = forward_of(model, lane)(window.parameters, window.buffers, torch.ones(2, 1, 4))
    assert output.tolist() == [[[0.0] * 4], [[16.0] * 4]]
