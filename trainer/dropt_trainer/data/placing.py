"""Where inputs are kept while a pack trains on them: the device, the host or the disk."""

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from dropt_trainer.data.dataset import Dataset, Inputs
from dropt_trainer.data.prepare import Prepared, Rows, prepare
from dropt_trainer.data.reading import ReadDataset, Reader
from dropt_trainer.data.streams import HostRows, ReadRows, first_rows

CPU = torch.device("cpu")
RESIDENT_SHARE = 0.25  # of the free memory of a device: four data sets are kept by a worker


def place(
    dataset: Dataset,
    split: Tensor,
    *,
    parts: Iterable[str],
    device: torch.device,
    dtype: torch.dtype,
    free_bytes: int,
) -> Prepared:
    """`prepare`, with the inputs where they fit.

    Args:
        dataset: all rows.
        split: [N], see `prepare`.
        parts: that may be read; the training rows are always there.
        device: that trains.
        dtype: of what is floating point.
        free_bytes: memory of the device that is free.
    """
    room = int(RESIDENT_SHARE * free_bytes)
    if isinstance(dataset, ReadDataset):
        is_random = hasattr(dataset.opened, "transform")
        if is_random or n_bytes(dataset.x) * dataset.n_rows > room:
            return _read(dataset, split, parts, device, dtype)
        dataset = _loaded(dataset)
    if n_bytes(dataset.x) <= room or device.type == "cpu":
        return prepare(dataset, split, parts=parts, device=device, dtype=dtype)
    on_host = prepare(dataset, split, parts=parts, device="cpu", dtype=dtype)
    rows = {name: _hosted(part, device) for name, part in on_host.parts.items()}
    mean, scale = (
        None if t is None else t.to(device) for t in (on_host.target_mean, on_host.target_scale)
    )
    return replace(on_host, parts=rows, target_mean=mean, target_scale=scale)


def n_bytes(x: Inputs) -> int:
    """What inputs take in memory."""
    return sum(t.nbytes for t in x.values()) if isinstance(x, dict) else x.nbytes


def _loaded(dataset: ReadDataset) -> Dataset:
    """All rows read, once."""
    rows = ReadRows(Reader(dataset), torch.arange(dataset.n_rows), CPU, torch.float32)
    return _as_tensors(dataset, first_rows(rows, dataset.n_rows))


def _as_tensors(dataset: ReadDataset, x: Inputs) -> Dataset:
    fields = {name: getattr(dataset, name) for name in Dataset.__dataclass_fields__}
    return Dataset(**fields | {"x": x})


def _read(
    dataset: ReadDataset, split: Tensor, parts: Iterable[str], device: torch.device,
    dtype: torch.dtype,
) -> Prepared:  # fmt: skip
    """Targets on the device, inputs behind a reader that all parts share."""
    numbered = _as_tensors(dataset, torch.arange(dataset.n_rows))
    prepared = prepare(numbered, split, parts=parts, device=device, dtype=dtype)
    reader = Reader(dataset)
    rows = {
        name: replace(part, x=ReadRows(reader, part.rows, device, dtype))
        for name, part in prepared.parts.items()
    }
    return replace(prepared, parts=rows, input_shape=dataset.input_shape,
                   input_names=dataset.input_names)  # fmt: skip


def _hosted(part: Rows, device: torch.device) -> Rows:
    x = part.x
    assert not isinstance(x, HostRows | ReadRows), "prepare gives tensors"
    return replace(part, x=HostRows(x, device), y=part.y.to(device))
