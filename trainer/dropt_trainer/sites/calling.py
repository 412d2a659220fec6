"""How a model is called on inputs, and which of what it returns is trained."""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from dropt_trainer.sites.ports import SiteError

PRIMARY_OUTPUTS = ("logits", "prediction", "last_hidden_state")  # of a mapping, in this order


def arguments_of(
    model: nn.Module, x: Tensor | dict[str, Tensor]
) -> tuple[tuple[Any, ...], dict[str, Tensor]]:
    """Positional and named arguments of a forward.

    Inputs by name go to the parameters of these names, where `forward` has one for each; else the
    mapping as it is is the one argument.
    """
    if isinstance(x, dict) and x.keys() <= inspect.signature(model.forward).parameters.keys():
        return (), dict(x)
    return (x,), {}


def primary_output(output: object) -> Tensor:
    """The tensor that the loss is about.

    The logits of a `ModelOutput` or mapping, else its last hidden state, else the first
    floating-point tensor; of tuples and lists the first one.

    Raises:
        SiteError: there is no floating-point tensor.
    """
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        for key in PRIMARY_OUTPUTS:
            value = output.get(key)
            if isinstance(value, Tensor):
                return value
    tensor = first_float(output)
    if tensor is None:
        raise SiteError(f"The model returns no float tensor, but {type(output).__name__}.")
    return tensor


def first_float(value: object) -> Tensor | None:
    """The first float tensor in a nest of tuples, lists and dicts."""
    if isinstance(value, Tensor):
        return value if value.is_floating_point() else None
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, tuple | list):
        found = (first_float(item) for item in value)
        return next((tensor for tensor in found if tensor is not None), None)
    return None
