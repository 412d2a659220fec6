"""Losses and gradients of a pack on a batch, each trial's own."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dropt_trainer.data.dataset import Inputs
from dropt_trainer.fused.recorded import Function
from dropt_trainer.fused.rows import Window
from dropt_trainer.fused.step import Forward

Loss = Callable[[Tensor, Tensor], Tensor]  # [n, B, ...], [n, B, ...] -> [n, B]


def gradients_of(forward: Forward, loss: Loss) -> Function:
    """The function that fills the gradients of a window from one batch.

    Args:
        forward: see `step`.
        loss: see `losses`.

    Returns:
        It returns outputs [n, B, C or D], and mean losses [n].
    """

    def run(window: Window, x: Inputs, y: Tensor) -> Sequence[Tensor]:
        output = forward(window.parameters, window.buffers, x)
        losses = loss(output, y).mean(1)
        # Rows do not mix, so the gradient of the sum is each trial's own.
        gradients = torch.autograd.grad(
            losses.sum(), list(window.parameters.values()), allow_unused=True,
            materialize_grads=True,
        )  # fmt: skip
        torch._foreach_copy_(window.gradients, gradients)
        return output.detach(), losses.detach()

    return run
