"""Canonical npz files: what the service hands out for an uploaded data set.

Arrays: `x` (float, or int64 token ids), `y` (integer classes or tokens, or float targets), and,
where the user gave them, `split` (0, 1, 2) and `group`. `meta` is a JSON object as a text scalar
with what arrays cannot say: `task`, `class_names`, `licence`, `source`; each may be missing.
"""

import hashlib
import io
import json
import typing
import zipfile
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dropt.errors import DatasetUnreadable, DigestMismatch
from dropt_trainer.data.dataset import Dataset, Task, count_tokens

Array = NDArray[np.generic]
TASKS: tuple[Task, ...] = typing.get_args(Task)


def verify(content: bytes, sha256: str, name: str) -> None:
    """Check that the bytes are those that the digest names.

    Raises:
        DigestMismatch: they are not.
    """
    received = hashlib.sha256(content).hexdigest()
    if received != sha256:
        raise DigestMismatch(
            f"data set {name!r} has SHA-256 {received}, expected {sha256}; fetch it again"
        )


def read_arrays(content: bytes) -> dict[str, Array]:
    """The arrays of an npz file, none of them pickled.

    Raises:
        DatasetUnreadable: the bytes are no npz file, or one of its arrays holds objects.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise DatasetUnreadable(f"the file is no npz of plain arrays: {error}") from error


def load_npz(content: bytes, *, name: str, sha256: str, standardize: bool = True) -> Dataset:
    """The data set in a canonical npz file.

    Args:
        content: the file's bytes.
        name: of the data set, for messages.
        sha256: that the bytes must have, hexadecimal.
        standardize: see `Dataset`.

    Raises:
        DigestMismatch: the bytes are other bytes.
        DatasetUnreadable: no npz file, arrays of unequal length, values that are not finite, or a
            classification with labels below 0.
    """
    verify(content, sha256, name)
    arrays = read_arrays(content)
    for needed in ("x", "y"):
        if needed not in arrays:
            raise DatasetUnreadable(f"array {needed!r} is missing; the file has {sorted(arrays)}")
    _check(arrays)
    meta = _meta(arrays)
    task = _task(meta, arrays["y"])
    y = _targets(arrays["y"], task)
    x = _numbers(arrays["x"])
    names = tuple(str(label) for label in _list(meta.get("class_names")))
    n_outputs, n_tokens = _n_outputs(y, task, len(names)), count_tokens(x)
    if task == "next_token":
        n_outputs = n_tokens = _vocabulary(x, y, n_outputs)
    return Dataset(
        x=x, y=y, task=task, n_outputs=n_outputs, n_tokens=n_tokens,
        class_names=names or _numbered(n_outputs, task),
        group=_optional(arrays.get("group"), np.int64),
        split=_optional(arrays.get("split"), np.int8),
        standardize=standardize,
        licence=_text(meta.get("licence")), source=_text(meta.get("source")),
        name=name, sha256=sha256,
    )  # fmt: skip


def _check(arrays: Mapping[str, Array]) -> None:
    n_rows = len(arrays["y"])
    for name in ("x", "y", "split", "group"):
        array = arrays.get(name)
        if array is None:
            continue
        if array.ndim == 0 or len(array) != n_rows:
            raise DatasetUnreadable(f"array {name!r} has shape {array.shape}, y has {n_rows} rows")
        if array.dtype.kind not in "biuf":
            raise DatasetUnreadable(f"array {name!r} holds {array.dtype}, numbers are allowed")
        if not np.isfinite(array).all():
            raise DatasetUnreadable(f"array {name!r} holds values that are not finite")


def _meta(arrays: Mapping[str, Array]) -> Mapping[str, object]:
    if "meta" not in arrays:
        return {}
    try:
        meta = json.loads(str(arrays["meta"][()]))
    except ValueError as error:
        raise DatasetUnreadable(f"array 'meta' is no JSON: {error}") from error
    if not isinstance(meta, dict):
        raise DatasetUnreadable(f"array 'meta' is {type(meta).__name__}, an object is expected")
    return meta


def _task(meta: Mapping[str, object], y: Array) -> Task:
    if "task" not in meta:
        return "regression" if y.dtype.kind == "f" else "classification"
    for task in TASKS:
        if task == meta["task"]:
            return task
    raise DatasetUnreadable(f"task is {meta['task']!r}, allowed: {', '.join(TASKS)}")


def _targets(y: Array, task: Task) -> Tensor:
    if task == "regression":
        return torch.from_numpy(y.astype(np.float64))
    labels = torch.from_numpy(y.astype(np.int64))
    if bool((labels < 0).any()) or y.ndim != (2 if task == "next_token" else 1):
        raise DatasetUnreadable(
            "tokens are whole numbers of 0 or more, [N, T]"
            if task == "next_token"
            else "class labels are one whole number of 0 or more per row"
        )
    return labels


def _n_outputs(y: Tensor, task: Task, n_named: int) -> int:
    if task == "regression":
        return 1 if y.ndim == 1 else y[0].numel()
    n_classes = int(y.max()) + 1
    if n_named and n_named < n_classes:
        raise DatasetUnreadable(f"{n_named} classes are named, a label is {n_classes - 1}")
    return max(n_classes, n_named)


def _vocabulary(x: Tensor, y: Tensor, n_outputs: int) -> int:
    """Tokens of inputs and targets, which are told of the same vocabulary."""
    n_tokens = count_tokens(x)
    if n_tokens is None or x.shape != y.shape:
        raise DatasetUnreadable(
            f"x is {x.dtype} {list(x.shape)}, y has {list(y.shape)}; for next_token both are "
            "int64 token ids [N, T]"
        )
    return max(n_outputs, n_tokens)


def _numbered(n_outputs: int, task: Task) -> tuple[str, ...]:
    return () if task == "regression" else tuple(str(label) for label in range(n_outputs))


def _numbers(x: Array) -> Tensor:
    """Float32, or int64 where the values are token ids."""
    return torch.from_numpy(x.astype(np.int64 if x.dtype == np.int64 else np.float32))


def _optional(array: Array | None, dtype: type[np.int64 | np.int8]) -> Tensor | None:
    return None if array is None else torch.from_numpy(array.astype(dtype))


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
