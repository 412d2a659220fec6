"""A user's own data set, from what their function returns to a data set with a digest.

The function returns `(x, y)`, a mapping with `x`, `y` and whatever else is to be said, or a
map-style data set (see `reading`) whose attributes say the same. Nothing of dropt has to be
imported for any of them.
"""

import dataclasses
import hashlib
import re
import typing
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from dropt.errors import DatasetUnreadable
from dropt_trainer.data.dataset import Dataset, Inputs, Task, count_tokens
from dropt_trainer.data.reading import MapStyle, Open, ReadDataset, inputs_of, tensor_of

TASKS: tuple[Task, ...] = typing.get_args(Task)
SAID = (
    "task", "split", "group", "class_names", "standardize", "n_tokens", "is_sequence", "licence",
    "source",
)  # fmt: skip


def as_dataset(value: object, *, name: str, reopen: Open | None = None) -> Dataset:
    """What a user's function returned, as a data set.

    Args:
        value: see the module.
        name: of the data set, for messages and for the job.
        reopen: makes a map-style data set anew, for processes that read.

    Raises:
        DatasetUnreadable: it is none of the three, or its arrays fit neither each other nor their
            task.
    """
    try:
        return _as_dataset(value, name, reopen)
    except (TypeError, ValueError, IndexError, KeyError, RuntimeError) as error:
        raise DatasetUnreadable(f"data set {name!r}: {error}") from error


def _as_dataset(value: object, name: str, reopen: Open | None) -> Dataset:
    if isinstance(value, Dataset):
        said = {key: getattr(value, key) for key in SAID}
        return _of_tensors(value.x, value.y, said, name)
    if isinstance(value, Mapping):
        if unknown := sorted(set(value) - {"x", "y", *SAID}):
            raise ValueError(f"unknown field {unknown[0]!r}; allowed are x, y, {', '.join(SAID)}")
        if missing := sorted({"x", "y"} - set(value)):
            raise ValueError(f"field {missing[0]!r} is missing")
        return _of_tensors(value["x"], value["y"], value, name)
    if isinstance(value, tuple | list):
        if len(value) != 2:
            raise ValueError(f"(x, y) is expected, a {type(value).__name__} of {len(value)} came")
        return _of_tensors(value[0], value[1], {}, name)
    if hasattr(value, "__len__") and hasattr(value, "__getitem__"):
        return _of_rows(cast("MapStyle", value), name, reopen)
    raise TypeError(
        f"(x, y), a mapping with x and y, or a map-style data set is expected, "
        f"{type(value).__name__} came"
    )


def _of_tensors(x: object, y: object, said: Mapping[str, Any], name: str) -> Dataset:
    dataset = _checked(_finite(inputs_of(x)), tensor_of(y), said, name)
    digest = hashlib.sha256()
    _feed(digest, dataset.x)
    return replace(dataset, sha256=_finished(digest, dataset))


def _of_rows(rows: MapStyle, name: str, reopen: Open | None) -> Dataset:
    """All rows are read once, for targets and digest, and again when they are needed.

    A data set that gives both itself, as `targets` and `sha256`, is not read before it trains.
    """
    n_rows, said = len(rows), {key: getattr(rows, key, None) for key in SAID}
    if n_rows == 0:
        raise ValueError("it has no rows")
    if said["standardize"]:
        raise ValueError("rows that are read are not standardised; scale them in __getitem__")
    x, _ = _row(rows, 0)
    targets, sha256 = getattr(rows, "targets", None), getattr(rows, "sha256", None)
    if sha256 is not None and not re.fullmatch("[0-9a-f]{64}", str(sha256)):
        raise ValueError(f"its sha256 {sha256!r} is not 64 hexadecimal digits")
    digest, read = hashlib.sha256(), []
    if targets is None or sha256 is None:
        read = [_read(rows, number, x, digest) for number in range(n_rows)]
    y = torch.stack(read) if targets is None else tensor_of(targets)
    dataset = _checked(_batch_of_one(x), y, said, name, n_rows=n_rows)
    fields = {one.name: getattr(dataset, one.name) for one in dataclasses.fields(dataset)}
    fields["sha256"] = sha256 or _finished(digest, dataset)
    n_processes = int(getattr(rows, "n_processes", 0))
    return ReadDataset(**fields, opened=rows, reopen=reopen, n_processes=n_processes)


def _read(rows: MapStyle, number: int, like: Inputs, digest: "hashlib._Hash") -> Tensor:
    """The target of a row whose inputs go into the digest."""
    x, y = _row(rows, number)
    if _form(x) != _form(like):
        raise ValueError(f"row {number} has the form {_form(x)}, row 0 {_form(like)}")
    _feed(digest, x)
    return y


def _row(rows: MapStyle, number: int) -> tuple[Inputs, Tensor]:
    try:
        item: object = rows[number]
    except Exception as error:
        raise ValueError(f"row {number} raises {type(error).__name__}: {error}") from error
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise ValueError(f"row {number} is {type(item).__name__}, expected (x, y)")
    return inputs_of(item[0]), tensor_of(item[1])


def _form(x: Inputs) -> dict[str, list[int]]:
    return {n: list(t.shape) for n, t in (x if isinstance(x, dict) else {"x": x}).items()}


def _batch_of_one(x: Inputs) -> Inputs:
    return {name: t[None] for name, t in x.items()} if isinstance(x, dict) else x[None]


def _checked(
    x: Inputs, y: Tensor, said: Mapping[str, Any], name: str, *, n_rows: int | None = None
) -> Dataset:
    """The data set without a digest; `n_rows` where `x` is not all of it."""
    for part, tensor in (x if isinstance(x, dict) else {"x": x}).items():
        if tensor.ndim == 0 or (n_rows is None and len(tensor) != len(y)):
            raise ValueError(f"{part} has shape {list(tensor.shape)}, y has {list(y.shape)}")
    if y.ndim == 0 or len(y) == 0 or (n_rows is not None and len(y) != n_rows):
        raise ValueError(f"y has shape {list(y.shape)}: one target for each row is expected")
    task = _task(said.get("task"), y)
    _check_targets(y, task)
    names = tuple(str(label) for label in said.get("class_names") or ())
    n_outputs = _n_outputs(y, task, len(names))
    if task == "classification" and not names:
        names = tuple(str(label) for label in range(n_outputs))
    n_tokens = said.get("n_tokens")
    if n_tokens is None and n_rows is None:
        n_tokens = count_tokens(x)
    return Dataset(
        x=x, y=y, task=task, n_outputs=n_outputs, class_names=names, n_tokens=n_tokens,
        is_sequence=bool(said.get("is_sequence")), standardize=bool(said.get("standardize")),
        group=_whole(said.get("group"), "group", len(y), torch.int64),
        split=_whole(said.get("split"), "split", len(y), torch.int8),
        licence=said.get("licence"), source=said.get("source"), name=name,
    )  # fmt: skip


def _task(said: object, y: Tensor) -> Task:
    """As it is said; else real numbers are a regression, one whole number a class."""
    if said is not None:
        for task in TASKS:
            if task == said:
                return task
        raise ValueError(f"its task is {said!r}, allowed: {', '.join(TASKS)}")
    if not y.is_floating_point() and y.ndim > 1:
        raise ValueError(f"its y has shape {list(y.shape)}; say which task that is")
    return "regression" if y.is_floating_point() else "classification"


def _check_targets(y: Tensor, task: Task) -> None:
    if task == "regression":
        if not (y.is_floating_point() and bool(y.isfinite().all()) and y.ndim <= 2):
            raise ValueError("targets of a regression are finite floats, [N] or [N, D]")
        return
    if y.is_floating_point():
        raise ValueError(f"targets of {task} are whole numbers, y is {y.dtype}")
    if task == "classification" and (y.ndim != 1 or int(y.min()) < 0):
        raise ValueError("class labels are one whole number of 0 or more per row")


def _n_outputs(y: Tensor, task: Task, n_named: int) -> int:
    if task == "regression":
        return 1 if y.ndim == 1 else y.shape[1]
    n_classes = int(y.max()) + 1
    if 0 < n_named < n_classes:
        raise ValueError(f"{n_named} classes are named, a label is {n_classes - 1}")
    return max(n_classes, n_named)


def _whole(value: object, what: str, n_rows: int, dtype: torch.dtype) -> Tensor | None:
    if value is None:
        return None
    numbers = torch.as_tensor(cast("Any", value))
    if numbers.is_floating_point() or numbers.shape != (n_rows,):
        raise ValueError(f"{what} is one whole number for each of {n_rows} rows")
    if what == "split" and not bool(((numbers >= 0) & (numbers <= 2)).all()):
        raise ValueError("split is 0 (train), 1 (validation) or 2 (test)")
    return numbers.to(dtype)


def _finite(x: Inputs) -> Inputs:
    for name, tensor in (x if isinstance(x, dict) else {"x": x}).items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ValueError(f"{name} holds values that are not finite")
    return x


def _feed(digest: "hashlib._Hash", part: Inputs) -> None:
    """Names, types, shapes and numbers of tensors, in one order."""
    named = part if isinstance(part, dict) else {"": part}
    for name, tensor in sorted(named.items()):
        digest.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().data)


def _finished(digest: "hashlib._Hash", dataset: Dataset) -> str:
    """The digest of inputs, and of everything else that training and scoring depend on."""
    others = {"y": dataset.y, "group": dataset.group, "split": dataset.split}
    _feed(digest, {name: tensor for name, tensor in others.items() if tensor is not None})
    said = [
        dataset.task, dataset.n_outputs, dataset.class_names, dataset.standardize,
        dataset.n_tokens, dataset.is_sequence,
    ]  # fmt: skip
    digest.update(repr(said).encode())
    return digest.hexdigest()
