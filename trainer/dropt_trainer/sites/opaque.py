"""Functions with many operations inside, recorded as one node of the autograd graph.

A recurrent layer unrolls into operations per time step, and attention into products and a softmax,
or neither, by device and precision: one node each makes every trace look alike.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

N_ATTENDED = 3  # query, key and value come first; what follows is a mask or a bias


class Recurrence(torch.autograd.Function):
    """A node between a recurrent layer's inputs and its outputs; it is never differentiated."""

    @staticmethod
    def forward(ctx: FunctionCtx, results: Sequence[Tensor], *inputs: Tensor) -> Any:
        return tuple(result.clone() for result in results)


class Attention(torch.autograd.Function):
    """The same for attention; its first three inputs are query, key and value."""

    @staticmethod
    def forward(ctx: FunctionCtx, results: Sequence[Tensor], *inputs: Tensor) -> Any:
        return tuple(result.clone() for result in results)


class HeadsAttention(torch.autograd.Function):
    """The same for attention with projections of its own, as in `nn.MultiheadAttention`."""

    @staticmethod
    def forward(ctx: FunctionCtx, results: Sequence[Tensor], *inputs: Tensor) -> Any:
        return tuple(result.clone() for result in results)


OpaqueFunction = type[Recurrence] | type[Attention] | type[HeadsAttention]


def run_opaque(node: OpaqueFunction, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """What the function returns; each float tensor of it is a view of its own behind one node."""
    with torch.no_grad():
        returned = function(*args, **kwargs)
    results = returned if isinstance(returned, tuple) else (returned,)
    floats = [r for r in results if isinstance(r, Tensor) and r.is_floating_point()]
    marked = iter(node.apply(floats, *_tensors((*args, *kwargs.values()))))  # type: ignore[no-untyped-call]
    outputs = tuple(
        next(marked).clone() if isinstance(r, Tensor) and r.is_floating_point() else r
        for r in results
    )
    return outputs if isinstance(returned, tuple) else outputs[0]


def _tensors(values: object) -> list[Tensor]:
    """All tensors in a nest of tuples and lists, in order."""
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, tuple | list):
        return [tensor for value in values for tensor in _tensors(value)]
    return []
