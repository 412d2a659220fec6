"""A data set as arrays: what every upload becomes, and the file that workers fetch."""

import hashlib
import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from dropt.errors import DatasetUnreadable, FieldError
from dropt.spec.job import Split, Task
from dropt.spec.protocol import DatasetOffer, SplitName

Array = NDArray[Any]
PARTS: tuple[SplitName, ...] = ("train", "validation", "test")
MAX_CLASSES = 10_000
CHUNK_BYTES = 1 << 20
MAX_INTEGER_CLASSES = 20  # integers with more different values are quantities, not classes
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first time that a zip can name: equal bytes at any time


@dataclass(frozen=True)
class DataArrays:
    """Rows with their targets.

    Attributes:
        x: [N, ...], float32, or int64 token ids [N, T].
        y: classification [N], int64 codes of `class_names`; regression [N] or [N, D], float32;
            next token [N, T], int64, the token that follows each of `x`.
        split: [N], uint8: 0 trains, 1 validates, 2 tests.
        group: [N], int64: rows of a group stay together in a split.
    """

    task: Task
    x: Array
    y: Array
    class_names: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    target: str | None = None
    split: Array | None = None
    group: Array | None = None


def unreadable(
    message: str,
    remedy: str,
    *,
    pointer: str = "/file",
    row: int | None = None,
    column: str | None = None,
    received: str | None = None,
    allowed: Sequence[str] = (),
) -> DatasetUnreadable:
    """The error over a place in a file; the row counts from 1, the header included."""
    place = [f"row {row}"] if row is not None else []
    place += [f"column '{column}'"] if column is not None else []
    where = ", ".join(place)
    detail = f"{where[:1].upper()}{where[1:]}: {message}" if where else message
    field = FieldError(pointer, "dataset-unreadable", f"{detail}. {remedy}", received,
                       tuple(allowed))  # fmt: skip
    members = {"row": row, "column": column}
    return DatasetUnreadable(
        f"{detail}. {remedy}", errors=[field],
        members={name: value for name, value in members.items() if value is not None},
    )  # fmt: skip


def check_content(data: DataArrays) -> None:
    """Whether there is something to learn, and rows for each part of the split.

    Raises:
        DatasetUnreadable: one class or one value only, too many classes, too few rows.
    """
    if data.task != "regression":
        _check_classes(data)
    elif bool((data.y == data.y[:1]).all()):
        raise unreadable(
            "The target is the same in every row", "There is nothing to learn; take another one",
            column=data.target,
        )  # fmt: skip
    if missing := [part for part, n_rows in split_rows(data).items() if n_rows == 0]:
        raise unreadable(
            f"{len(data.y)} rows leave none for {' and '.join(missing)}",
            "Give more rows, or an array 'split' that uses 0, 1 and 2"
            if data.split is None else "Use 0, 1 and 2 in 'split': train, validation, test",
        )  # fmt: skip


def _check_classes(data: DataArrays) -> None:
    n_classes = len(data.class_names)
    if n_classes < 2:
        raise unreadable(
            f"The target holds one class only, '{''.join(data.class_names)}'",
            "A classification needs at least two; take another target column",
            column=data.target,
        )  # fmt: skip
    if n_classes > MAX_CLASSES:
        raise unreadable(
            f"The target holds {n_classes:,} different values, more than {MAX_CLASSES:,} classes",
            "Is it an identifier? Take another target, or say task=regression for a quantity",
            column=data.target,
        )  # fmt: skip


def split_rows(data: DataArrays) -> dict[SplitName, int]:
    """Rows of each part: of the split that is given, else of the default hash split."""
    if data.split is not None:
        counts = np.bincount(data.split, minlength=3)
        return {part: int(n) for part, n in zip(PARTS, counts, strict=True)}
    if data.group is not None:
        return _group_rows(data.group)
    labelled = data.task == "classification"
    sizes = np.bincount(data.y).tolist() if labelled else [len(data.y)]
    return _summed(_parts(n) for n in sizes)


def _group_rows(group: Array) -> dict[SplitName, int]:
    """Groups in the order of the SHA-256 of `<seed>:<group>` fill the parts, whole."""
    names, sizes = np.unique(group, return_counts=True)
    seed = Split().seed
    order = sorted(
        range(len(names)), key=lambda i: hashlib.sha256(f"{seed}:{names[i]}".encode()).digest()
    )
    n_train, n_validation, _ = _parts(len(names))
    cuts = (order[:n_train], order[n_train : n_train + n_validation])
    n_rows = [int(sizes[cut].sum()) for cut in cuts]
    return dict(zip(PARTS, [*n_rows, len(group) - sum(n_rows)], strict=True))


def _parts(n: int) -> tuple[int, int, int]:
    split = Split()
    n_train, n_validation = int(split.train * n), int(split.validation * n)
    return n_train, n_validation, n - n_train - n_validation


def _summed(parts: Iterable[tuple[int, int, int]]) -> dict[SplitName, int]:
    totals = [sum(column) for column in zip(*parts, strict=True)]
    return dict(zip(PARTS, totals, strict=True))


def write_canonical(data: DataArrays, file: IO[bytes]) -> str:
    """Write the npz that workers fetch, and return the SHA-256 of its bytes.

    The bytes are a function of the content: no compression, no clock, one order of members.
    """
    meta = {
        "task": data.task, "class_names": list(data.class_names),
        "features": list(data.features), "target": data.target,
    }  # fmt: skip
    members: Mapping[str, Array | None] = {
        "x": data.x, "y": data.y, "split": data.split, "group": data.group,
        "meta": np.array(json.dumps(meta, sort_keys=True)),
    }  # fmt: skip
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, array in members.items():
            if array is not None:
                info = zipfile.ZipInfo(f"{name}.npy", _EPOCH)
                with archive.open(info, "w", force_zip64=True) as member:
                    _write_array(member, array)
    file.seek(0)
    digest = hashlib.sha256()
    while chunk := file.read(CHUNK_BYTES):
        digest.update(chunk)
    file.seek(0)
    return digest.hexdigest()


def _write_array(member: Any, array: Array) -> None:
    little = array.dtype.newbyteorder("<")
    plain = np.ascontiguousarray(array).astype(little, copy=False)
    np.lib.format.write_array(member, plain.reshape(array.shape), (1, 0), allow_pickle=False)


def offer_of(data: DataArrays, *, name: str, sha256: str) -> DatasetOffer:
    """What jobs and workers are told of the data set."""
    return DatasetOffer(
        name=name, sha256=sha256, task=data.task, rows=len(data.y),
        input_shape=tuple(data.x.shape[1:]), classes=len(data.class_names) or None,
        split_rows=split_rows(data),
    )  # fmt: skip
