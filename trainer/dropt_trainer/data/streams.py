"""Inputs of the rows of a part, batch by batch, wherever they are.

They are tensors on the device, tensors of the host that do not fit there, or rows that are read
when they are needed. All three give the same batches.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from dropt_trainer.data.dataset import Inputs, take
from dropt_trainer.data.reading import Reader, Request, Visit

READ_AT_ONCE = 256  # rows of a chunk: a batch of usual size, since each may be an image


@dataclass(frozen=True)
class HostRows:
    """Inputs in the memory of the host, [n, ...]; each batch is copied to the device."""

    x: Inputs
    device: torch.device

    def train(
        self, order: Tensor, ends: Sequence[int], visits: Sequence[Visit]
    ) -> Iterator[Inputs]:
        for start, end in pairwise((0, *ends)):
            yield to_device(take(self.x, order[:, start:end].cpu()), self.device)

    def chunks(self, size: int) -> Iterator[Inputs]:
        first = next(iter(self.x.values())) if isinstance(self.x, dict) else self.x
        for rows in torch.split(torch.arange(len(first)), size):
            yield to_device(take(self.x, rows), self.device)


@dataclass(frozen=True)
class ReadRows:
    """Inputs that a reader has to read: `rows` [n] are their numbers in the data set."""

    reader: Reader
    rows: Tensor
    device: torch.device
    dtype: torch.dtype

    def train(
        self, order: Tensor, ends: Sequence[int], visits: Sequence[Visit]
    ) -> Iterator[Inputs]:
        numbers = self.rows[order.cpu()].tolist()
        plan: list[list[Request]] = [
            [(row, visit) for own, visit in zip(numbers, visits, strict=True)
             for row in own[start:end]]
            for start, end in pairwise((0, *ends))
        ]  # fmt: skip
        for batch in self.reader.read(plan):
            yield _per_trial(to_device(batch, self.device, self.dtype), len(visits))

    def chunks(self, size: int) -> Iterator[Inputs]:
        parts = torch.split(self.rows, min(size, READ_AT_ONCE))
        plan: list[list[Request]] = [[(row, None) for row in part.tolist()] for part in parts]
        for batch in self.reader.read(plan):
            yield to_device(batch, self.device, self.dtype)


Streamed = HostRows | ReadRows


def training_batches(
    x: Inputs | Streamed, order: Tensor, ends: Sequence[int], visits: Sequence[Visit]
) -> Iterator[Inputs]:
    """The inputs of each step of an epoch, [n, B, ...].

    Args:
        x: of the training rows.
        order: [n, N], each trial's own order of the rows.
        ends: where the batches end in it, ascending.
        visits: trial and epoch, [n].
    """
    if isinstance(x, Streamed):
        return x.train(order, ends, visits)
    return (take(x, order[:, start:end]) for start, end in pairwise((0, *ends)))


def chunks(x: Inputs | Streamed, n_rows: int, size: int) -> Iterator[Inputs]:
    """The inputs of all rows in their order, [at most size, ...] at a time; nothing at random."""
    if isinstance(x, Streamed):
        return x.chunks(size)
    first = next(iter(x.values())) if isinstance(x, dict) else x
    every = torch.arange(n_rows, device=first.device)
    return (take(x, rows) for rows in torch.split(every, size))


def first_rows(x: Inputs | Streamed, n: int) -> Inputs:
    """The inputs of the first n rows, [n, ...]."""
    if isinstance(x, ReadRows):
        return _joined(list(ReadRows(x.reader, x.rows[:n], x.device, x.dtype).chunks(n)))
    if isinstance(x, HostRows):
        return to_device(first_rows(x.x, n), x.device)
    return {name: t[:n] for name, t in x.items()} if isinstance(x, dict) else x[:n]


def to_device(x: Inputs, device: torch.device, dtype: torch.dtype | None = None) -> Inputs:
    """The same on a device; `dtype` is for what is floating point."""
    if isinstance(x, dict):
        return {name: _to(t, device, dtype) for name, t in x.items()}
    return _to(x, device, dtype)


def _to(tensor: Tensor, device: torch.device, dtype: torch.dtype | None) -> Tensor:
    return tensor.to(device, dtype if tensor.is_floating_point() else None)


def _joined(parts: Sequence[Inputs]) -> Inputs:
    first = parts[0]
    if isinstance(first, dict):
        dicts = [part for part in parts if isinstance(part, dict)]
        return {name: torch.cat([part[name] for part in dicts]) for name in first}
    return torch.cat([part for part in parts if isinstance(part, Tensor)])


def _per_trial(x: Inputs, n_trials: int) -> Inputs:
    """[n * B, ...] as [n, B, ...]."""
    if isinstance(x, dict):
        return {name: t.view(n_trials, -1, *t.shape[1:]) for name, t in x.items()}
    return x.view(n_trials, -1, *x.shape[1:])
