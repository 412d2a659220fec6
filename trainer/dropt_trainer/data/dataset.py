"""A data set in memory, before it is split."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Task = Literal["classification", "regression"]
Inputs = Tensor | dict[str, Tensor]


@dataclass(frozen=True)
class Dataset:
    """Rows of inputs and targets, with what is needed to split, train and cite them.

    Attributes:
        x: [N, ...], floating point or int64 token ids; or several such tensors by name.
        y: classification [N], int64, from 0; regression [N] or [N, D], floating point.
        n_outputs: what the model must put out per example: classes, or D.
        class_names: one per class; empty for a regression.
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
        first = next(iter(self.x.values())) if isinstance(self.x, dict) else self.x
        return tuple(first.shape[1:])


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


def _take(tensor: Tensor, rows: Tensor) -> Tensor:
    picked = torch.index_select(tensor, 0, rows.flatten())
    return picked.view(*rows.shape, *tensor.shape[1:])
