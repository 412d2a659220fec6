"""Rows that are read when they are needed: images on disk, whatever is larger than memory.

A map-style data set has `__len__` and `__getitem__(row) -> (x, y)`, the same at each call. A
method `transform(x, generator) -> x`, if it has one, changes the training rows at random. torch's
DataLoader reads; the order comes from the caller, as everything that is random does.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from dropt.errors import DatasetUnreadable
from dropt_trainer.data.dataset import Dataset, Inputs


class MapStyle(Protocol):
    """Rows by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int, /) -> tuple[object, object]: ...


Open = Callable[[], MapStyle]


class Visit(NamedTuple):
    """One trial in one epoch, counted from 1: what its random transforms are a function of."""

    seed: int
    epoch: int


Request = tuple[int, Visit | None]  # a row, and the visit that it is transformed for


@dataclass(frozen=True)
class ReadDataset(Dataset):
    """A data set whose inputs are read when needed; `x` holds those of the first row alone.

    Attributes:
        opened: the rows, in this process.
        reopen: makes the rows anew in a process that reads; pickled.
        n_processes: that read at the same time; 0 reads in the process that trains.
    """

    opened: MapStyle | None = None
    reopen: Open | None = None
    n_processes: int = 0


@dataclass(frozen=True)
class Unread:
    """Why a batch could not be read; as a value, since an exception would bring a traceback."""

    why: str


class Reader:
    """Batches of a map-style data set in the order of a plan."""

    def __init__(self, dataset: ReadDataset) -> None:
        """Take the rows; processes that read are started with the first plan and kept."""
        self._plan: list[list[Request]] = []
        n = dataset.n_processes if dataset.reopen is not None else 0
        self._loader = DataLoader(
            cast("Any", _Items(dataset.opened if n == 0 else None, dataset.reopen)),
            batch_sampler=_Plan(self._plan), collate_fn=_stack, num_workers=n,
            persistent_workers=n > 0, multiprocessing_context="spawn" if n else None,
            generator=torch.Generator().manual_seed(0),  # else a global one would be moved
        )  # fmt: skip

    def read(self, plan: Sequence[list[Request]]) -> Iterator[Inputs]:
        """The inputs of each batch of the plan, on the CPU.

        Raises:
            DatasetUnreadable: a row cannot be read, or has another shape than its neighbours.
        """
        self._plan[:] = plan
        for batch in self._loader:
            if isinstance(batch, Unread):
                raise DatasetUnreadable(batch.why)
            yield batch


def inputs_of(value: object) -> Inputs:
    """The inputs of a row as tensors.

    Raises:
        TypeError: they are neither numbers nor a mapping of names to such.
    """
    if isinstance(value, Mapping):
        return {str(name): tensor_of(part) for name, part in value.items()}
    return tensor_of(value)


def tensor_of(value: object) -> Tensor:
    """Numbers as a tensor: float32 where they are floating point, int64 or Boolean where not.

    Raises:
        TypeError: no numbers, or bytes, of which nothing says how they are to be scaled.
    """
    tensor = torch.as_tensor(cast("Any", value))
    if tensor.dtype == torch.uint8:
        raise TypeError("uint8 says nothing of its scale; give floats (x / 255) or int64 ids")
    if tensor.is_floating_point():
        return tensor.to(torch.float32)
    return tensor if tensor.dtype == torch.bool else tensor.to(torch.int64)


@dataclass
class _Items:
    """What DataLoader asks for rows, in this process or in one that has to open them first."""

    opened: MapStyle | None
    reopen: Open | None

    def __getitem__(self, request: Request) -> Inputs | Unread:
        row, visit = request
        try:
            return self._read(row, visit)
        except Exception as error:  # noqa: BLE001 (whatever the user's code raises is reported)
            return Unread(f"row {row} cannot be read: {type(error).__name__}: {error}")

    def _read(self, row: int, visit: Visit | None) -> Inputs:
        if self.opened is None:
            assert self.reopen is not None, "a reader has one of them"
            self.opened = _opened(self.reopen)
        x = self.opened[row][0]
        transform = getattr(self.opened, "transform", None)
        if visit is not None and transform is not None:
            x = transform(x, transform_generator(visit, row))
        return inputs_of(x)


@cache
def _opened(reopen: Open) -> MapStyle:
    torch.set_num_threads(1)  # as many processes read at the same time
    return reopen()


def transform_generator(visit: Visit, row: int) -> torch.Generator:
    """The randomness of one row in one epoch of one trial."""
    text = f"transform:{visit.seed}:{visit.epoch}:{row}"
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little", signed=True)
    return torch.Generator().manual_seed(seed)


@dataclass
class _Plan:
    """The batches to come, which change between two passes of one loader."""

    batches: list[list[Request]]

    def __iter__(self) -> Iterator[list[Request]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def _stack(items: Sequence[Inputs | Unread]) -> Inputs | Unread:
    """The inputs of rows as [n, ...]."""
    for item in items:
        if isinstance(item, Unread):
            return item
    rows = cast("Sequence[Inputs]", items)
    try:
        if isinstance(rows[0], dict):
            named = cast("Sequence[dict[str, Tensor]]", rows)
            return {name: torch.stack([row[name] for row in named]) for name in named[0]}
        return torch.stack(cast("list[Tensor]", list(rows)))
    except (RuntimeError, TypeError, KeyError) as error:
        return Unread(f"rows do not have one form: {error}")
