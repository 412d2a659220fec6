"""A multilayer perceptron: dense layers with an activation, and batch norm if asked for."""

import math
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

Activation = Literal["relu", "gelu", "selu", "tanh"]
Width = Annotated[int, Field(ge=1, le=65_536)]
ACTIVATIONS: dict[Activation, type[nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "selu": nn.SELU,
    "tanh": nn.Tanh,
}


class Mlp(nn.Module):
    """Dense layers on a flattened input."""

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, ...] to [B, n_outputs]."""
        out: Tensor = self.layers(x.flatten(1))
        return out


def mlp(
    *,
    input_shape: tuple[int, ...],
    n_outputs: int,
    hidden: Annotated[list[Width], Field(max_length=16)] = [128, 64],  # noqa: B006 (copied)
    batch_norm: bool = False,
    activation: Activation = "relu",
) -> Mlp:
    """A multilayer perceptron.

    Args:
        input_shape: any; flattened.
        n_outputs: width of the output layer.
        hidden: widths of the hidden layers; none makes a linear model.
        batch_norm: between each hidden layer and its activation.
        activation: of hidden layers; `selu` comes with the initial weights that it needs.
    """
    modules: list[nn.Module] = []
    n_inputs = math.prod(input_shape)
    for width in hidden:
        modules.append(_hidden_layer(n_inputs, width, activation))
        if batch_norm:
            modules.append(nn.BatchNorm1d(width))
        modules.append(ACTIVATIONS[activation]())
        n_inputs = width
    return Mlp(nn.Sequential(*modules, nn.Linear(n_inputs, n_outputs)))


def _hidden_layer(n_inputs: int, width: int, activation: Activation) -> nn.Linear:
    """A dense layer; in front of SELU with variance 1 / n_inputs (Klambauer et al. 2017)."""
    layer = nn.Linear(n_inputs, width)
    if activation == "selu":
        nn.init.normal_(layer.weight, std=n_inputs**-0.5)
        nn.init.zeros_(layer.bias)
    return layer
