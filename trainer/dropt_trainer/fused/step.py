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
from dropt_trainer.sites.calling import arguments_of, primary_output
from dropt_trainer.sites.instrument import site_mode

Lane = Literal["fused", "solo"]
Named = Mapping[str, Tensor]
# parameters and buffers by name, [n, *shape]; x [n, B, ...] -> [n, B, ...]
Forward = Callable[[Named, Named, Inputs], Tensor]


def forward_of(model: nn.Module, lane: Lane) -> Forward:
    """The forward of n trials of an instrumented model.

    Args:
        model: in training or in evaluation mode; its own parameters are used where frozen.
        lane: fused or solo.
    """
    return _fused(model) if lane == "fused" else _solo(model)


def _fused(model: nn.Module) -> Forward:
    one_trial = _one_trial(model)

    def call(parameters: Named, buffers: Named, x: Inputs) -> Tensor:
        with site_mode(model, vmapped=True):  # inside the vmap, whose own calls it need not see
            return one_trial(parameters, buffers, x)

    # "error": a random operation that is not a site would train with masks nobody accounts for.
    batched = vmap(call, randomness="error")

    def forward(parameters: Named, buffers: Named, x: Inputs) -> Tensor:
        output: Tensor = batched(parameters, buffers, x)
        return output

    return forward


def _solo(model: nn.Module) -> Forward:
    call = _one_trial(model)

    def forward(parameters: Named, buffers: Named, x: Inputs) -> Tensor:
        # Unbound once: a gradient through n single selections would write n * n rows.
        unbound = {name: p.unbind(0) for name, p in parameters.items()}
        outputs = []
        for row in range(len(next(iter(parameters.values())))):
            own_parameters = {name: p[row] for name, p in unbound.items()}
            own_buffers = {name: b[row] for name, b in buffers.items()}
            with site_mode(model, vmapped=False):
                outputs.append(call(own_parameters, own_buffers, row_of(x, row)))
        return torch.stack(outputs)

    return forward


def _one_trial(model: nn.Module) -> Forward:
    """The forward of one trial; batch norm and its like change the buffers in place."""
    first_names = _first_names(model)

    def call(parameters: Named, buffers: Named, x: Inputs) -> Tensor:
        given = {**parameters, **buffers}
        named = {name: given[first] for name, first in first_names.items() if first in given}
        # Tied weights are all named, so torch need not look for them in each forward.
        args, kwargs = arguments_of(model, x)
        output = functional_call(model, named, args, kwargs, tie_weights=False)
        return output if isinstance(output, Tensor) else primary_output(output)

    return call


def _first_names(model: nn.Module) -> dict[str, str]:
    """Every name of every parameter and buffer, and the first name of the same tensor."""
    named = [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]
    first: dict[int, str] = {}
    return {name: first.setdefault(id(tensor), name) for name, tensor in named}


def row_of(x: Inputs, row: int) -> Inputs:
    """The inputs of one trial."""
    return {name: t[row] for name, t in x.items()} if isinstance(x, dict) else x[row]
