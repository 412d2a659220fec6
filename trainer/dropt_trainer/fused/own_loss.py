"""A user's own loss, for the trials of a pack at once."""

import torch
from torch import Tensor
from torch.func import vmap

from dropt_trainer.fused.step import Lane
from dropt_trainer.losses import LOSSES, Loss


def loss_of(loss: str | Loss, lane: Lane) -> Loss:
    """The loss of packs, [n, B, ...] to [n, B]: one of ours by name, or a user's own.

    A user's loss is written for one trial, [B, ...] to [B]. The fused lane maps it over the
    trials; the solo lane, where it may do what cannot be mapped, calls it once for each.
    """
    return LOSSES[loss] if isinstance(loss, str) else _checked(loss, lane)


def _checked(loss: Loss, lane: Lane) -> Loss:
    each = vmap(loss, randomness="error") if lane == "fused" else _one_by_one(loss)

    def of_pack(output: Tensor, target: Tensor) -> Tensor:
        losses: Tensor = each(output, target)
        if losses.shape != output.shape[:2]:
            raise ValueError(
                f"the loss returns {list(losses.shape[1:])} for {output.shape[1]} examples; one "
                "number for each is expected: reduction='none', then the mean of all but the "
                "first dimension"
            )
        return losses

    return of_pack


def _one_by_one(loss: Loss) -> Loss:
    def each(output: Tensor, target: Tensor) -> Tensor:
        pairs = zip(output.unbind(0), target.unbind(0), strict=True)
        return torch.stack([loss(*pair) for pair in pairs])

    return each
