"""The precisions that packs train in: how rows are stored, and what a forward computes in."""

from collections.abc import Mapping

import torch
from torch import Tensor

from dropt_trainer.data.dataset import Inputs
from dropt_trainer.fused.step import Forward, Named

# "bfloat16" is mixed: weights, gradients, moments and losses stay in float32.
DTYPES: Mapping[str, torch.dtype] = {
    "float32": torch.float32, "float64": torch.float64, "bfloat16": torch.float32,
}  # fmt: skip


def computed_in(precision: str, forward: Forward, device: torch.device) -> Forward:
    """The forward in a precision; for "bfloat16" under autocast, its outputs in float32 again."""
    if precision != "bfloat16":
        return forward

    def mixed(parameters: Named, buffers: Named, x: Inputs) -> Tensor:
        # No cache of cast weights: it would outlive the step that a graph of the device captures.
        with torch.autocast(device.type, torch.bfloat16, cache_enabled=False):
            return forward(parameters, buffers, x).float()

    return mixed
