import pytest
import torch
from torch import nn

from dropt_trainer.fused.rows import Rows


class Tied(nn.Module):
    """Tied weights, a buffer, a number as a parameter, and a frozen layer."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(float(seed)))
        self.inner, self.outer = nn.Linear(4, 4), nn.Linear(4, 4)
        self.outer.weight = self.inner.weight
        self.frozen = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        for name, p in self.named_parameters():
            if name.startswith("frozen"):
                nn.init.constant_(p.requires_grad_(False), 0.5)
            elif p.ndim:
                nn.init.normal_(p, generator=torch.Generator().manual_seed(seed))


def test_a_row_gives_back_the_state_dict_that_was_written() -> None:
    rows = Rows(Tied(0), n_slots=3, n_columns=2)
    for row, seed in enumerate((5, 6, 7)):
        rows.write(row, Tied(seed))
    for row, seed in enumerate((5, 6, 7)):
        expected, read = Tied(seed).state_dict(), rows.read(row)
        assert list(read) == list(expected)
        assert all(torch.equal(read[key], expected[key]) for key in expected)


def test_tied_and_frozen_parameters_take_no_room_of_their_own() -> None:
    rows = Rows(Tied(0), n_slots=1, n_columns=0)
    assert rows.weight.shape == (1, 1 + 16 + 4 + 4 + 4 + 4)
    assert int(rows.penalised.sum()) == 16


def test_parameters_are_views_of_the_weights() -> None:
    rows = Rows(Tied(0), n_slots=4, n_columns=0)
    window = rows.window(2)
    rows.weight[1] = 3.0
    rows.gradient[0] = 2.0
    assert all(bool((p[1] == 3.0).all()) for p in window.parameters.values())
    assert all(bool((g[0] == 2.0).all()) for g in window.gradients)
    assert rows.window(2) is window


def test_a_state_dict_can_be_put_back() -> None:
    rows = Rows(Tied(0), n_slots=2, n_columns=0)
    rows.restore(1, Tied(9).state_dict())
    assert torch.equal(rows.read(1)["outer.weight"], Tied(9).inner.weight)
    assert not bool(rows.weight[0].any())


def test_what_was_kept_comes_back_for_these_rows_alone() -> None:
    rows = Rows(Tied(0), n_slots=3, n_columns=0)
    for row in range(3):
        rows.write(row, Tied(row))
    rows.keep([0, 2])
    rows.weight.fill_(1.0)
    rows.buffers["norm.running_mean"].fill_(1.0)
    rows.bring_back([2])
    assert torch.equal(rows.read(2)["inner.weight"], Tied(2).inner.weight)
    assert not bool(rows.buffers["norm.running_mean"][2].any())
    assert bool((rows.weight[:2] == 1.0).all())


def test_a_frozen_parameter_that_depends_on_the_seed_is_refused() -> None:
    rows, other = Rows(Tied(0), n_slots=1, n_columns=0), Tied(1)
    nn.init.zeros_(other.frozen.bias)
    with pytest.raises(ValueError, match=r"frozen\.bias"):
        rows.write(0, other)


def test_a_model_without_anything_to_train_is_refused() -> None:
    with pytest.raises(ValueError, match="requires_grad"):
        Rows(nn.ReLU(), n_slots=1, n_columns=0)
