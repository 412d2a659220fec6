"""A user's own loss, written for one trial, trains packs and trials alone alike."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from dropt_trainer import models
from dropt_trainer.fused.own_loss import loss_of
from dropt_trainer.fused.pack import Pack
from dropt_trainer.fused.slots import SlotTrial
from dropt_trainer.fused.step import Lane
from dropt_trainer.optim import Params


def smooth(output: Tensor, target: Tensor) -> Tensor:
    assert output.ndim == 2, "a user's loss sees one trial"
    return functional.cross_entropy(output, target, reduction="none", label_smoothing=0.1)


def branching(output: Tensor, target: Tensor) -> Tensor:
    return smooth(output, target) * (2 if float(output.sum()) > 0 else 1)


OUTPUT = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
TARGET = torch.tensor([[0, 1, 2, 3, 0]] * 3)


@pytest.mark.parametrize("lane", ["fused", "solo"])
def test_loss_of_a_pack_is_that_of_each_trial(lane: Lane) -> None:
    alone = torch.stack([smooth(OUTPUT[i], TARGET[i]) for i in range(3)])
    assert torch.allclose(loss_of(smooth, lane)(OUTPUT, TARGET), alone)


def test_loss_that_branches_on_numbers_works_alone() -> None:
    assert loss_of(branching, "solo")(OUTPUT, TARGET).shape == (3, 5)
    with pytest.raises(RuntimeError):
        loss_of(branching, "fused")(OUTPUT, TARGET)


@pytest.mark.parametrize("lane", ["fused", "solo"])
def test_loss_that_averages_over_examples_is_refused(lane: Lane) -> None:
    mean = loss_of(lambda output, target: smooth(output, target).mean(), lane)
    with pytest.raises(ValueError, match=r"returns \[\] for 5 examples; one number for each"):
        mean(OUTPUT, TARGET)


def weights_after(lane: Lane) -> Tensor:
    factory = partial(_mlp)
    pack = Pack(
        factory, (), slots=2, optimizer="adamw", loss=smooth, precision="float64", lane=lane
    )
    for slot in range(2):
        pack.load(slot, SlotTrial(slot, 1, Params(lr=1e-2)))
    x = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for _ in range(3):
        pack.step(x, TARGET[:2])
    return pack.rows.weight.clone()


def test_both_lanes_train_the_same_with_it() -> None:
    assert torch.allclose(weights_after("fused"), weights_after("solo"), rtol=1e-9, atol=0)


def _mlp(seed: int) -> nn.Module:
    return models.build("mlp", {"hidden": [8]}, input_shape=(6,), n_outputs=4, seed=seed)
