"""From a data set and a split to the tensors that a pack trains on."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dropt_trainer.data.dataset import Dataset, Inputs, Task, take
from dropt_trainer.data.splits import Part


@dataclass(frozen=True)
class Rows:
    """The rows of one part of a split, on the device.

    Attributes:
        x: [n, ...], standardised where the data set asks for it; or such tensors by name.
        y: classification [n], int64; regression [n, D], standardised likewise.
        rows: [n], int64, their numbers in the data set, ascending.
        group: [n], int64, or None.
    """

    x: Inputs
    y: Tensor
    rows: Tensor
    group: Tensor | None

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True)
class Prepared:
    """A split data set, ready to train on; the parts that may not be read are not there.

    Attributes:
        parts: `train`, `validation` and, only where it may be scored, `test`.
        target_mean: [D], what a regression target was shifted by; None for a classification.
        target_scale: [D], what it was divided by: one unit of output in units of the target.
    """

    parts: Mapping[str, Rows]
    task: Task
    n_outputs: int
    input_shape: tuple[int, ...]
    target_mean: Tensor | None = None
    target_scale: Tensor | None = None


def prepare(
    dataset: Dataset,
    split: Tensor,
    *,
    parts: Iterable[str] = ("train", "validation"),
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Prepared:
    """Put the named parts of a split data set on a device.

    Means and deviations come from the training rows alone. A feature that is constant in them says
    nothing that could be learnt and becomes 0 everywhere.

    Args:
        dataset: all rows.
        split: [N], int8: 0 trains, 1 validates, 2 tests.
        parts: which parts may be read; the training rows are always there.
        device: where to.
        dtype: of inputs and targets that are floating point.
    """
    scaling = _scaling(dataset, split == Part.TRAIN)
    wanted = {"train", *parts}
    rows = {
        part.name.lower(): _rows(dataset, split == part, scaling, torch.device(device), dtype)
        for part in Part
        if part.name.lower() in wanted
    }
    target = scaling.target
    return Prepared(
        parts=rows,
        task=dataset.task,
        n_outputs=dataset.n_outputs,
        input_shape=dataset.input_shape,
        target_mean=None if target is None else target.mean.to(device, dtype),
        target_scale=None if target is None else (1 / target.inverse).to(device, dtype),
    )


@dataclass(frozen=True)
class Affine:
    """A shift, then a factor: `(value - mean) * inverse`, in float64."""

    mean: Tensor
    inverse: Tensor

    def __call__(self, values: Tensor) -> Tensor:
        return (values.to(torch.float64) - self.mean) * self.inverse


@dataclass(frozen=True)
class Scaling:
    """What the training rows say of features (by name; "" for a single tensor) and target."""

    inputs: Mapping[str, Affine]
    target: Affine | None


def _scaling(dataset: Dataset, train: Tensor) -> Scaling:
    inputs: dict[str, Affine] = {}
    if dataset.standardize:
        named = dataset.x if isinstance(dataset.x, dict) else {"": dataset.x}
        inputs = {name: _features(x[train]) for name, x in named.items() if x.is_floating_point()}
    if dataset.task != "regression":
        return Scaling(inputs, None)
    return Scaling(inputs, _target(_columns(dataset.y[train]), standardize=dataset.standardize))


def _features(x: Tensor) -> Affine:
    """Per column of a table; images and sequences have one unit, so one mean and one deviation.

    Standardising each pixel by itself would blow up the ones that are almost never inked.
    """
    columns = x.to(torch.float64) if x.ndim == 2 else x.to(torch.float64).reshape(-1, 1)
    mean, inverse = columns.mean(0), 1 / columns.std(0, correction=0)
    inverse[_is_constant(columns)] = 0
    return Affine(mean, inverse) if x.ndim == 2 else Affine(mean[0], inverse[0])


def _target(columns: Tensor, *, standardize: bool) -> Affine:
    """A factor of 1 where the target is constant: it must be possible to go back."""
    if not standardize:
        return Affine(torch.zeros_like(columns[0]), torch.ones_like(columns[0]))
    inverse = 1 / columns.std(0, correction=0)
    inverse[_is_constant(columns)] = 1
    return Affine(columns.mean(0), inverse)


def _is_constant(columns: Tensor) -> Tensor:
    """Compared, not by a deviation of 0: the mean of equal numbers may be off by a rounding."""
    return columns.amax(0) == columns.amin(0)


def _columns(y: Tensor) -> Tensor:
    """[N, D] in float64 of a target that may be [N]."""
    return y.to(torch.float64).reshape(len(y), -1)


def _rows(
    dataset: Dataset, chosen: Tensor, scaling: Scaling, device: torch.device, dtype: torch.dtype
) -> Rows:
    rows = chosen.nonzero().flatten()

    def scaled(x: Tensor, name: str) -> Tensor:
        affine = scaling.inputs.get(name)
        x = x if affine is None else affine(x)
        return x.to(device, dtype if x.is_floating_point() else None)

    x = take(dataset.x, rows)
    y = dataset.y[rows]
    return Rows(
        x={name: scaled(t, name) for name, t in x.items()}
        if isinstance(x, dict)
        else scaled(x, ""),
        y=y.to(device)
        if scaling.target is None
        else scaling.target(_columns(y)).to(device, dtype),
        rows=rows,
        group=None if dataset.group is None else dataset.group[rows],
    )
