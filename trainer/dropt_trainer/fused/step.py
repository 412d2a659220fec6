"""The forward of a pack in its two lanes: all trials as one, or one after the other.

Both take the same rows and give the same numbers (up to rounding). The fused lane needs every
operation of the model to have a batching rule; the solo lane runs what `vmap` cannot, and what is
faster alone.
"""

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from dropt_trainer.data.dataset import Inputs
from dropt_trainer.sites.instrument import site_mode

Lane = Literal["fused", "solo"]
Named = Mapping[str, Tensor]
# parameters and buffers by name, [n, *shape]; x [n, B, ...] or, shared, [B, ...] -> [n, B, ...]
Forward = Callable[[Named, Named, Inputs], Tensor]


def forward_of(model: nn.Module, lane: Lane, *, shared_inputs: bool = False) -> Forward:
    """The forward of n trials of an instrumented model.

    Args:
        model: in training or in evaluation mode; its own parameters are used where frozen.
        lane: fused or solo.
        shared_inputs: every trial gets the same x, [B, ...] without a dimension of trials.
    """
    if lane == "fused":
        return _fused(model, shared_inputs=shared_inputs)
    return _solo(model, shared_inputs=shared_inputs)


def _fused(model: nn.Module, *, shared_inputs: bool) -> Forward:
    def call(parameters: Named, buffers: Named, x: Inputs) -> Tensor:
        return _one(model, parameters, buffers, x)

    # "error": a random operation that is not a site would train with masks nobody accounts for.
    batched = vmap(call, in_dims=(0, 0, None if shared_inputs else 0), randomness="error")

    def forward(parameters: Named, buffers: Named, x: Inputs) -> Tensor:
        with site_mode(model, vmapped=True):
            output: Tensor = batched(parameters, buffers, x)
        return output

    return forward


def _solo(model: nn.Module, *, shared_inputs: bool) -> Forward:
    def forward(parameters: Named, buffers: Named, x: Inputs) -> Tensor:
        # Unbound once: a gradient through n single selections would write n * n rows.
        unbound = {name: p.unbind(0) for name, p in parameters.items()}
        outputs = []
        for row in range(len(next(iter(parameters.values())))):
            own_x = x if shared_inputs else _row_of(x, row)
            own_parameters = {name: p[row] for name, p in unbound.items()}
            own_buffers = {name: b[row] for name, b in buffers.items()}
            with site_mode(model, vmapped=False):
                outputs.append(_one(model, own_parameters, own_buffers, own_x))
        return torch.stack(outputs)

    return forward


def _one(model: nn.Module, parameters: Named, buffers: Named, x: Inputs) -> Tensor:
    """One trial's output; batch norm and its like change the buffers in place."""
    output: Tensor = functional_call(model, (dict(parameters), dict(buffers)), (x,))
    return output


def _row_of(x: Inputs, row: int) -> Inputs:
    return {name: t[row] for name, t in x.items()} if isinstance(x, dict) else x[row]
