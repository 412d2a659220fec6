"""From a data set and a split to the tensors that a pack trains on."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dropt_trainer.data.dataset import MASK, Dataset, Inputs, Task, take
from dropt_trainer.data.splits import Part
from dropt_trainer.data.streams import Streamed


@dataclass(frozen=True)
class Rows:
    """The rows of one part of a split, on the device.

    Attributes:
        x: [n, ...], standardised where the data set asks for it; or such tensors by name; or
            where they are read from, see `streams`.
        y: classification [n] or next token [n, T], int64; regression [n, D], standardised
            likewise.
        rows: [n], int64, their numbers in the data set, ascending.
        group: [n], int64, or None.
    """

    x: Inputs | Streamed
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
        input_shape: of one example; of the first tensor when there are several.
        input_names: names of the input tensors; none for a single one.
        n_tokens: of the vocabulary, where inputs are token ids.
        target_mean: [D], what a regression target was shifted by; None for a classification.
        target_scale: [D], what it was divided by: one unit of output in units of the target.
    """

    parts: Mapping[str, Rows]
    task: Task
    n_outputs: int
    input_shape: tuple[int, ...]
    input_names: tuple[str, ...] = ()
    n_tokens: int | None = None
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
    nothing that could be learnt and becomes 0 everywhere. Steps that a sequence has not (`MASK`)
    count for neither and are 0.

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
        input_names=dataset.input_names,
        n_tokens=dataset.n_tokens,
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
        mask = named.get(MASK)
        real = None if mask is None else mask[train]
        inputs = {
            name: _features(x[train], real if _has_steps(x, mask) else None, dataset.is_sequence)
            for name, x in named.items() if x.is_floating_point()
        }  # fmt: skip
    if dataset.task != "regression":
        return Scaling(inputs, None)
    return Scaling(inputs, _target(_columns(dataset.y[train]), standardize=dataset.standardize))


def _has_steps(x: Tensor, mask: Tensor | None) -> bool:
    """Whether the mask [N, T] says which steps of these inputs [N, T, ...] are real."""
    return mask is not None and mask.dtype == torch.bool and x.shape[: mask.ndim] == mask.shape


def _features(x: Tensor, real: Tensor | None, is_sequence: bool) -> Affine:
    """Per column of a table or feature of a sequence; an image has one mean and one deviation.

    It has one unit, and standardising each pixel by itself would blow up the ones that are almost
    never inked. A series of single numbers [N, T] has one unit as well.
    """
    by_column = x.ndim == 3 if is_sequence else x.ndim == 2 and real is None
    kept = x.to(torch.float64) if real is None else x[real].to(torch.float64)
    columns = kept.reshape(-1, x.shape[-1] if by_column else 1)
    mean, inverse = columns.mean(0), 1 / columns.std(0, correction=0)
    inverse[_is_constant(columns)] = 0
    return Affine(mean, inverse) if by_column else Affine(mean[0], inverse[0])


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
    x = take(dataset.x, rows)
    named = x if isinstance(x, dict) else {"": x}
    mask = named.get(MASK)
    scaled = {
        name: _scaled(t, scaling.inputs.get(name), mask).to(
            device, dtype if t.is_floating_point() else None
        )
        for name, t in named.items()
    }
    y = dataset.y[rows]
    return Rows(
        x=scaled if isinstance(x, dict) else scaled[""],
        y=y.to(device)
        if scaling.target is None
        else scaling.target(_columns(y)).to(device, dtype),
        rows=rows,
        group=None if dataset.group is None else dataset.group[rows],
    )


def _scaled(x: Tensor, affine: Affine | None, mask: Tensor | None) -> Tensor:
    """Standardised, and 0 where there is no step, whatever the padding was."""
    if affine is None:
        return x
    x = affine(x)
    if mask is None or not _has_steps(x, mask):
        return x
    return x * mask.reshape(*mask.shape, *[1] * (x.ndim - mask.ndim))
