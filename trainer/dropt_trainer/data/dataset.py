"""A data set in memory, before it is split."""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

Task = Literal["classification", "regression", "next_token"]
Inputs = Tensor | dict[str, Tensor]
MASK = "mask"  # the name of a Boolean tensor among several: true where an example has a step


@dataclass(frozen=True)
class Dataset:
    """Rows of inputs and targets, with what is needed to split, train and cite them.

    Attributes:
        x: [N, ...], floating point or int64 token ids; or several such tensors by name.
        y: classification [N], int64, from 0; regression [N] or [N, D], floating point; next token
            [N, T], int64, the token that follows each of [N, T].
        n_outputs: what the model must put out per example: classes, or D; per step: tokens.
        class_names: one per class or token; empty for a regression.
        n_tokens: of the vocabulary, where inputs are token ids; else None.
        is_sequence: inputs are [N, T, D]: each of the D features has a scale of its own.
        group: [N], int64; rows of one group belong together in any split.
        split: [N], int8: 0 trains, 1 validates, 2 tests; None if it comes with no split.
        standardize: features and a regression target are to be brought to mean 0 and deviation 1.
        sha256: of the file that the rows were read from, hexadecimal.
    """

    x: Inputs
    y: Tensor
    task: Task
    n_outputs: int
    class_names: tuple[str, ...] = ()
    n_tokens: int | None = None
    is_sequence: bool = False
    group: Tensor | None = None
    split: Tensor | None = None
    standardize: bool = False
    licence: str | None = None
    source: str | None = None
    name: str = ""
    sha256: str = ""

    @property
    def n_rows(self) -> int:
        return len(self.y)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one example; of the first tensor when there are several."""
        return tuple(_first(self.x).shape[1:])

    def named(self, name: str, *, sha256: str, licence: str, source: str) -> "Dataset":
        """The same data set with what is told of where it comes from."""
        return replace(self, name=name, sha256=sha256, licence=licence, source=source)

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the input tensors; none for a single one."""
        return tuple(self.x) if isinstance(self.x, dict) else ()


def count_tokens(x: Inputs) -> int | None:
    """One more than the largest id of the first tensor; None where it holds no ids."""
    first = _first(x)
    return int(first.max()) + 1 if first.dtype == torch.int64 and first.numel() else None


def take(inputs: Inputs, rows: Tensor) -> Inputs:
    """The inputs of these rows.

    Args:
        inputs: [N, ...], or such tensors by name.
        rows: int64, any shape.

    Returns:
        [*rows.shape, ...] for each tensor.
    """
    if isinstance(inputs, dict):
        return {name: _take(tensor, rows) for name, tensor in inputs.items()}
    return _take(inputs, rows)


def _first(x: Inputs) -> Tensor:
    return next(iter(x.values())) if isinstance(x, dict) else x


def _take(tensor: Tensor, rows: Tensor) -> Tensor:
    picked = torch.index_select(tensor, 0, rows.flatten())
    return picked.view(*rows.shape, *tensor.shape[1:])
