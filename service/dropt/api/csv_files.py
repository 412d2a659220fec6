"""CSV files with a header row: every column but the target is a feature, every cell a number."""

import csv
import io
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from dropt.api.arrays import MAX_INTEGER_CLASSES, Array, DataArrays, unreadable
from dropt.errors import DatasetUnreadable, TooLarge
from dropt.spec.job import Task
from dropt.spec.nearest import did_you_mean

MAX_LINE = 4 << 20  # characters; 4,096 columns of 24 digits need a fortieth of it
MAX_FLOAT32 = float(np.finfo(np.float32).max)
MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "?"})
DELIMITERS = ",;\t"


@dataclass(frozen=True)
class Columns:
    """The header: the features in their order, and where the target is."""

    names: tuple[str, ...]
    target: int

    @property
    def features(self) -> tuple[str, ...]:
        return self.names[: self.target] + self.names[self.target + 1 :]


def read_csv(
    file: BinaryIO, *, target: str | None, task: Task | None, max_columns: int, max_bytes: int
) -> DataArrays:
    """The data set in a CSV file.

    A target with text holds class names; whole numbers with at most 20 different values are
    classes; else it is a regression. `task` overrides.

    Raises:
        DatasetUnreadable: with row and column; the header is row 1.
        TooLarge: the rows need more than `max_bytes` as float32.
    """
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    try:
        lines = _lines(text)
        header = next(lines, "")
        delimiter = max(DELIMITERS, key=header.count)
        rows = csv.reader(_with(header, lines), delimiter=delimiter, strict=True)
        return _read(rows, target, task, max_columns=max_columns, max_bytes=max_bytes)
    except csv.Error as error:
        raise unreadable(f"This is no CSV: {error}", "Check the quotes and delimiters") from error
    except UnicodeDecodeError as error:
        raise unreadable(
            "The text is not UTF-8", "Save the file as 'CSV UTF-8', or as npz"
        ) from error
    finally:
        text.detach()


def _read(
    rows: Iterator[list[str]], target: str | None, task: Task | None, *, max_columns: int,
    max_bytes: int,
) -> DataArrays:  # fmt: skip
    columns = _columns(next(rows, []), target, max_columns)
    values, labels = array("f"), array("q")
    codes: dict[str, int] = {}
    first_row: list[int] = []
    for number, cells in enumerate(rows, start=2):
        if not cells:
            continue
        if len(cells) != len(columns.names):
            raise _ragged(columns, cells, number)
        label = _label(cells.pop(columns.target), columns, number)
        code = codes.setdefault(label, len(codes))
        if code == len(first_row):
            first_row.append(number)
        labels.append(code)
        values.extend(_numbers(cells, columns, number))
        if len(values) * values.itemsize > max_bytes:
            raise TooLarge(f"The rows need more than {max_bytes:,} bytes in memory")
    if not labels:
        raise unreadable("The file has no rows below its header", "Give at least ten")
    x = np.frombuffer(values, np.float32).reshape(len(labels), -1)
    found = _targets(list(codes), first_row, task, columns)
    y = found.values[np.frombuffer(labels, np.int64)]
    return DataArrays(
        task=found.task, x=x, y=y, class_names=found.class_names, features=columns.features,
        target=columns.names[columns.target],
    )  # fmt: skip


def _lines(text: io.TextIOWrapper) -> Iterator[str]:
    number = 0
    while line := text.readline(MAX_LINE):
        number += 1
        if len(line) == MAX_LINE:
            raise unreadable("A line is longer than 4 million characters", "Is this a CSV file?",
                             row=number)  # fmt: skip
        if "\0" in line:
            raise unreadable("A NUL character", "Is this a CSV file? Save it as CSV UTF-8",
                             row=number)  # fmt: skip
        yield line


def _with(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


def _columns(header: Sequence[str], target: str | None, max_columns: int) -> Columns:
    names = tuple(name.strip() for name in header)
    if not any(names):
        raise unreadable("The file is empty", "Give a header row and rows below it")
    if len(names) > max_columns:
        raise unreadable(f"{len(names):,} columns, at most {max_columns:,} are read",
                         "Leave out what the model does not need", row=1)  # fmt: skip
    for number, name in enumerate(names, start=1):
        if not name:
            raise unreadable(
                f"Column {number} has no name",
                "Name it or leave it out; pandas writes one for its index: to_csv(index=False)",
                row=1,
            )  # fmt: skip
        if name in names[: number - 1]:
            raise unreadable("Two columns have this name", "Rename one", row=1, column=name)
    return Columns(names, _target_column(names, target))


def _target_column(names: tuple[str, ...], target: str | None) -> int:
    if target is None:
        raise unreadable(
            "The column to predict is not named", "Send its name in the form field 'target'",
            pointer="/target", allowed=names,
        )  # fmt: skip
    if target not in names:
        raise unreadable(
            "No column has the name of the target", f"Name one.{did_you_mean(target, names)}",
            pointer="/target", received=target, allowed=names,
        )  # fmt: skip
    if len(names) == 1:
        raise unreadable("There is no column but the target", "Give at least one feature", row=1)
    return names.index(target)


def _ragged(columns: Columns, cells: Sequence[str], row: int) -> DatasetUnreadable:
    return unreadable(
        f"{len(cells)} cells, the header has {len(columns.names)}",
        "Every row needs one cell for each column", row=row,
    )  # fmt: skip


def _label(cell: str, columns: Columns, row: int) -> str:
    text = cell.strip()
    if text.lower() in MISSING:
        raise _missing(cell, columns.names[columns.target], row)
    return text


def _numbers(cells: Sequence[str], columns: Columns, row: int) -> Iterable[float]:
    """The features of one row; where a fault is, is looked for only when there is one."""
    joined = "".join(cells)
    try:
        numbers = [float(cell) for cell in cells]
        if joined.isascii() and "_" not in joined and _fit(numbers):
            return numbers
    except ValueError:
        pass
    return [_number(cell, name, row) for cell, name in zip(cells, columns.features, strict=True)]


def _fit(numbers: Iterable[float]) -> bool:
    return all(-MAX_FLOAT32 <= number <= MAX_FLOAT32 for number in numbers)


def _number(cell: str, column: str, row: int) -> float:
    text = cell.strip()
    if text.lower() in MISSING:
        raise _missing(cell, column, row)
    number = _parsed(text)
    if number is None:
        raise unreadable(
            f"{_quoted(cell)} is no number", "Write it as a number, or leave the column out",
            row=row, column=column, received=cell,
        )  # fmt: skip
    if not _fit([number]):
        raise unreadable(
            f"{_quoted(cell)} is not finite or too large for float32", "Use finite numbers",
            row=row, column=column, received=cell,
        )  # fmt: skip
    return number


def _parsed(text: str) -> float | None:
    """The number, None when there is none; Python alone would take `1_000` and other digits."""
    if not text.isascii() or "_" in text:
        return None
    try:
        return float(text)
    except ValueError:
        return None


def _missing(cell: str, column: str, row: int) -> DatasetUnreadable:
    return unreadable(
        "The value is missing", "Fill it in, or leave out the row or the column",
        row=row, column=column, received=cell,
    )  # fmt: skip


def _quoted(cell: str) -> str:
    return f"'{cell if len(cell) <= 50 else cell[:49] + '…'}'"


@dataclass(frozen=True)
class Targets:
    """What each distinct text of the target column stands for."""

    task: Task
    values: Array
    class_names: tuple[str, ...] = ()


def _targets(
    texts: Sequence[str], first_row: Sequence[int], task: Task | None, columns: Columns
) -> Targets:
    if task == "next_token":
        raise unreadable("A csv has one target in each row", "For next_token give an npz",
                         received=task, allowed=("classification", "regression"))  # fmt: skip
    numbers = [_parsed(text) for text in texts]
    finite = [number for number in numbers if number is not None and _fit([number])]
    is_whole = len(finite) == len(texts) and all(number.is_integer() for number in finite)
    if task is None:
        # Text among many numbers is a fault in a quantity: it is told, not made a class.
        is_quantity = len(set(finite)) > MAX_INTEGER_CLASSES or len(finite) == len(texts)
        few = is_whole and len(set(finite)) <= MAX_INTEGER_CLASSES
        task = "regression" if is_quantity and not few else "classification"
    if task == "classification":
        return _classes([str(int(n)) for n in finite] if is_whole else texts, is_whole=is_whole)
    for text, row in zip(texts, first_row, strict=True):
        _number(text, columns.names[columns.target], row)
    return Targets("regression", np.array(finite, np.float32))


def _classes(names: Sequence[str], *, is_whole: bool) -> Targets:
    distinct = set(names)
    ordered = sorted(distinct, key=int) if is_whole else sorted(distinct)
    code_of = {name: code for code, name in enumerate(ordered)}
    codes = np.array([code_of[name] for name in names], np.int64)
    return Targets("classification", codes, tuple(ordered))
