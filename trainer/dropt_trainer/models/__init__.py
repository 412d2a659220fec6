"""Reference models, and how a model is made from a name and JSON arguments.

A factory takes its arguments by name and returns a module with fresh weights; `input_shape` and
`n_outputs` come from the data set. Inputs are [B, *input_shape], outputs logits [B, C] or, for
regression, values [B, D].
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from dropt_trainer.models.arguments import arguments_schema, check_arguments
from dropt_trainer.models.cnn import cnn
from dropt_trainer.models.mlp import mlp

ModelFactory = Callable[..., nn.Module]
MODELS: dict[str, ModelFactory] = {"mlp": mlp, "cnn": cnn}
TASKS: dict[str, tuple[str, ...]] = {
    "mlp": ("classification", "regression"),
    "cnn": ("classification", "regression"),
}


def tasks(name: str) -> tuple[str, ...]:
    """The tasks a model can be trained for; ValueError for an unknown name."""
    _factory(name)
    return TASKS[name]


def args_schema(name: str) -> dict[str, Any]:
    """JSON Schema of a model's arguments; ValueError for an unknown name."""
    return arguments_schema(_factory(name))


def validate_args(name: str, args: Mapping[str, object]) -> dict[str, object]:
    """The arguments with defaults filled in.

    Raises:
        ValueError: an unknown model, an unknown argument or a value that is not allowed; the
            message names the argument, what was received and what is allowed.
    """
    return check_arguments(_factory(name), args)


def build(
    name: str,
    args: Mapping[str, object],
    *,
    input_shape: tuple[int, ...],
    n_outputs: int,
    seed: int,
) -> nn.Module:
    """A model with initial weights that are a function of the seed alone, on the CPU.

    Raises:
        ValueError: as `validate_args`, or the model does not fit the data's shape.
    """
    checked = validate_args(name, args)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return _factory(name)(input_shape=input_shape, n_outputs=n_outputs, **checked)


def _factory(name: str) -> ModelFactory:
    if name not in MODELS:
        raise ValueError(f"Unknown model {json.dumps(name)}; the models are {', '.join(MODELS)}.")
    return MODELS[name]
