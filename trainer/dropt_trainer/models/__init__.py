"""Reference models, and how a model is made from a name, JSON arguments and the form of the data.

A factory takes its arguments by name and returns a module with fresh weights. What the data set
says comes with them, as far as the factory's signature names it: `input_shape`, `n_outputs`,
`task`, `n_tokens` and `input_names`. Inputs are [B, *input_shape] or such tensors by name; outputs
are logits [B, C], values [B, D] of a regression, or, for the next token, logits [B, T, C].
"""

import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from dropt_trainer.models.arguments import arguments_schema, check_arguments
from dropt_trainer.models.cnn import cnn
from dropt_trainer.models.mlp import mlp
from dropt_trainer.models.recurrent import gru, lstm
from dropt_trainer.models.resnet import resnet
from dropt_trainer.models.transformer import transformer

ModelFactory = Callable[..., nn.Module]
MODELS: dict[str, ModelFactory] = {
    "mlp": mlp, "cnn": cnn, "resnet": resnet, "lstm": lstm, "gru": gru, "transformer": transformer,
}  # fmt: skip
WHOLE = ("classification", "regression")  # one answer for each example
TASKS: dict[str, tuple[str, ...]] = {
    "mlp": WHOLE, "cnn": WHOLE, "resnet": WHOLE,
    "lstm": (*WHOLE, "next_token"), "gru": (*WHOLE, "next_token"),
    "transformer": (*WHOLE, "next_token"),
}  # fmt: skip
SEQUENCE_MODELS = ("lstm", "gru", "transformer")  # take token ids, and a mask beside the steps


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
    task: str = "classification",
    n_tokens: int | None = None,
    input_names: tuple[str, ...] = (),
) -> nn.Module:
    """A model with initial weights that are a function of the seed alone, on the CPU.

    Args:
        name: of the model.
        args: of its factory.
        input_shape: of one example; of the first tensor when there are several.
        n_outputs: classes, values, or tokens.
        seed: of the weights.
        task: what is learnt.
        n_tokens: of the vocabulary; None where inputs are no token ids.
        input_names: of the input tensors; none for a single one.

    Raises:
        ValueError: as `validate_args`, or the model does not fit the data.
    """
    checked = validate_args(name, args)
    _check_inputs(name, n_tokens, input_names)
    said: dict[str, object] = {
        "input_shape": input_shape, "n_outputs": n_outputs, "task": task, "n_tokens": n_tokens,
        "input_names": input_names,
    }  # fmt: skip
    factory = _factory(name)
    asked = inspect.signature(factory).parameters
    from_data = {key: value for key, value in said.items() if key in asked}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return factory(**from_data, **checked)


def _check_inputs(name: str, n_tokens: int | None, input_names: tuple[str, ...]) -> None:
    """Tables and images are one tensor of numbers."""
    if name in SEQUENCE_MODELS or (n_tokens is None and not input_names):
        return
    received = "token ids" if n_tokens is not None else f"the tensors {', '.join(input_names)}"
    raise ValueError(
        f"Model '{name}' takes one tensor of numbers; the data set has {received}. "
        f"Use {', '.join(SEQUENCE_MODELS)}."
    )


def _factory(name: str) -> ModelFactory:
    if name not in MODELS:
        raise ValueError(f"Unknown model {json.dumps(name)}; the models are {', '.join(MODELS)}.")
    return MODELS[name]
