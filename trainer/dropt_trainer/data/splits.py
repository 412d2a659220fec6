"""Splits: which rows train, validate and test; functions of the rows and a seed alone."""

import hashlib
from collections.abc import Hashable, Iterable, Sequence
from enum import IntEnum
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from dropt_trainer.data.dataset import Dataset

Item = TypeVar("Item", bound=Hashable)


class Part(IntEnum):
    """The parts of a split, in the numbers of a `split` array."""

    TRAIN = 0
    VALIDATION = 1
    TEST = 2


def hash_split(
    n_rows: int,
    *,
    seed: int,
    train: float,
    validation: float,
    labels: Sequence[int] | None = None,
    groups: Sequence[Hashable] | None = None,
) -> Tensor:
    """The `hash` split of the worker protocol, which any language can repeat.

    For each class, or over all rows without labels, rows are sorted by the SHA-256 of the ASCII
    text `<seed>:<row>`; the first `floor(train * n)` train, the next `floor(validation * n)`
    validate, the rest test. With groups, the same is done with the text `<seed>:<group>` and the
    number of groups, over all classes: a group is never parted.

    Args:
        n_rows: N.
        seed: any integer.
        train: share in (0, 1).
        validation: share in (0, 1).
        labels: [N], the class of each row.
        groups: [N], the group of each row, written as text by `str`.

    Returns:
        [N], int8.
    """
    split = np.full(n_rows, Part.TEST, dtype=np.int8)
    if groups is not None:
        names = _by_digest(dict.fromkeys(groups), seed)
        part_of = dict(zip(names, _cut(len(names), train, validation), strict=True))
        return torch.tensor([part_of[group] for group in groups], dtype=torch.int8)
    for rows in _rows_by_class(n_rows, labels):
        split[_by_digest(rows, seed)] = _cut(len(rows), train, validation)
    return torch.from_numpy(split)


def counted_split(labels: Sequence[int], *, seed: int, train: int, validation: int) -> Tensor:
    """A split in the order of `hash_split` with exact numbers of rows, stratified by class.

    Each class gives its proportional share; what rounding down leaves over goes to the classes
    with the largest remainders, the lower class first.

    Returns:
        [N], int8.
    """
    split = np.full(len(labels), Part.TEST, dtype=np.int8)
    classes = _rows_by_class(len(labels), labels)
    sizes = [len(rows) for rows in classes]
    shares = zip(_shares(sizes, train), _shares(sizes, validation), strict=True)
    for rows, (n_train, n_validation) in zip(classes, shares, strict=True):
        order = _by_digest(rows, seed)
        split[order[:n_train]] = Part.TRAIN
        split[order[n_train : n_train + n_validation]] = Part.VALIDATION
    return torch.from_numpy(split)


def ordered_split(n_rows: int, *, train: float, validation: float) -> Tensor:
    """The first rows train, the next validate, the last test: [N], int8."""
    return torch.from_numpy(np.array(_cut(n_rows, train, validation), dtype=np.int8))


def split_rows(
    dataset: Dataset, method: str | None, *, seed: int, train: float, validation: float
) -> Tensor:
    """The split of a data set by method: `hash`, `given` or `ordered`; None is its own, else hash.

    Returns:
        [N], int8.

    Raises:
        ValueError: the method is `given` and the data set comes with no split, or the split leaves
            nothing to train on or to validate with.
    """
    split = _split_rows(dataset, method, seed=seed, train=train, validation=validation)
    for part in (Part.TRAIN, Part.VALIDATION):
        if not bool((split == part).any()):
            raise ValueError(
                f"the {method or 'given'} split of {dataset.name!r} has no {part.name.lower()} "
                f"rows among {dataset.n_rows}; use a larger share or more rows"
            )
    return split


def _split_rows(
    dataset: Dataset, method: str | None, *, seed: int, train: float, validation: float
) -> Tensor:
    if method == "ordered":
        return ordered_split(dataset.n_rows, train=train, validation=validation)
    if method == "given" and dataset.split is None:
        raise ValueError(f"data set {dataset.name!r} comes with no split; use 'hash' or 'ordered'")
    if method != "hash" and dataset.split is not None:
        return dataset.split
    labels = dataset.y.tolist() if dataset.task == "classification" else None
    groups = None if dataset.group is None else dataset.group.tolist()
    return hash_split(
        dataset.n_rows, seed=seed, train=train, validation=validation, labels=labels, groups=groups
    )


def _cut(n: int, train: float, validation: float) -> list[Part]:
    """The parts of n things in order."""
    n_train, n_validation = int(train * n), int(validation * n)
    n_test = n - n_train - n_validation
    return [Part.TRAIN] * n_train + [Part.VALIDATION] * n_validation + [Part.TEST] * n_test


def _by_digest(items: Iterable[Item], seed: int) -> list[Item]:
    """The items in the order of the SHA-256 of `<seed>:<item>`."""
    return sorted(items, key=lambda item: hashlib.sha256(f"{seed}:{item}".encode()).digest())


def _rows_by_class(n_rows: int, labels: Sequence[int] | None) -> list[list[int]]:
    """The rows of each class in the order of the classes; all rows without labels."""
    if labels is None:
        return [list(range(n_rows))]
    classes: dict[int, list[int]] = {label: [] for label in sorted(set(labels))}
    for row, label in enumerate(labels):
        classes[label].append(row)
    return list(classes.values())


def _shares(sizes: Sequence[int], total: int) -> list[int]:
    """`total` divided in proportion to the sizes, by largest remainder."""
    n = sum(sizes)
    shares = [size * total // n for size in sizes]
    remainders = [size * total % n for size in sizes]
    order = sorted(range(len(sizes)), key=lambda i: (-remainders[i], i))
    for i in order[: total - sum(shares)]:
        shares[i] += 1
    return shares
