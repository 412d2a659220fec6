"""Rows that are read give the batches that tensors give; random transforms follow the trial."""

from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dropt.errors import DatasetUnreadable
from dropt_trainer.data.own import as_dataset
from dropt_trainer.data.placing import place
from dropt_trainer.data.prepare import Prepared, prepare
from dropt_trainer.data.reading import ReadDataset, Reader, Visit, transform_generator
from dropt_trainer.data.splits import hash_split
from dropt_trainer.data.streams import (
    HostRows,
    ReadRows,
    chunks,
    first_rows,
    to_device,
    training_batches,
)

CPU, N = torch.device("cpu"), 20
SPLIT = hash_split(N, seed=0, train=0.6, validation=0.2)
ORDER = torch.stack(
    [torch.randperm(12, generator=torch.Generator().manual_seed(i)) for i in (1, 2)]
)
ENDS, VISITS = [5, 10, 12], [Visit(11, 1), Visit(12, 1)]


class Files:
    """Rows in one file each, as images would be."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __len__(self) -> int:
        return N

    def __getitem__(self, row: int) -> tuple[Any, Any]:
        x = np.load(self.folder / f"{row}.npy")
        return {"image": x, "mask": x[0] > 0}, row % 2


class Shaken(Files):
    def transform(self, x: Any, generator: torch.Generator) -> Any:
        image = torch.as_tensor(x["image"])
        return {**x, "image": image + torch.randn(image.shape, generator=generator)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    for row in range(N):
        np.save(tmp_path / f"{row}.npy", generator.normal(size=(3, 4)).astype(np.float32))
    return tmp_path


def opened(rows: Files, **changes: Any) -> ReadDataset:
    dataset = as_dataset(rows, name="files")
    assert isinstance(dataset, ReadDataset)
    return ReadDataset(**{**vars(dataset), **changes})


def placed(dataset: Any, free_bytes: int) -> Prepared:
    return place(
        dataset, SPLIT, parts=("train", "validation"), device=CPU, dtype=torch.float32,
        free_bytes=free_bytes,
    )  # fmt: skip


def in_memory(folder: Path) -> Prepared:
    rows = Files(folder)
    images = torch.stack([torch.as_tensor(rows[i][0]["image"]) for i in range(N)])
    x = {"image": images, "mask": images[:, 0] > 0}
    tensors = as_dataset({"x": x, "y": [i % 2 for i in range(N)]}, name="tensors")
    return prepare(tensors, SPLIT, parts=("train", "validation"))


def is_equal(one: Any, other: Any) -> bool:
    return all(torch.equal(one[name], other[name]) for name in ("image", "mask"))


@pytest.mark.parametrize("free_bytes", [0, 10**9])
def test_rows_that_are_read_give_the_batches_of_tensors(folder: Path, free_bytes: int) -> None:
    read, held = placed(opened(Files(folder)), free_bytes), in_memory(folder)
    assert isinstance(read.parts["train"].x, ReadRows) == (free_bytes == 0)
    assert (read.input_shape, read.input_names) == ((3, 4), ("image", "mask"))
    assert torch.equal(read.parts["train"].y, held.parts["train"].y)
    both = [
        list(training_batches(one.parts["train"].x, ORDER, ENDS, VISITS)) for one in (read, held)
    ]
    assert len(both[0]) == 3
    assert all(is_equal(a, b) for a, b in zip(*both, strict=True))
    parts = [list(chunks(one.parts["validation"].x, 4, 3)) for one in (read, held)]
    assert all(is_equal(a, b) for a, b in zip(*parts, strict=True))
    assert is_equal(first_rows(read.parts["train"].x, 5), first_rows(held.parts["train"].x, 5))


def test_tensors_of_the_host_give_the_batches_of_those_on_the_device(folder: Path) -> None:
    x = in_memory(folder).parts["train"].x
    assert isinstance(x, dict)
    host = HostRows(x, CPU)
    for a, b in zip(host.train(ORDER, ENDS, VISITS), training_batches(x, ORDER, ENDS, VISITS),
                    strict=True):  # fmt: skip
        assert is_equal(a, b)
    for a, b in zip(host.chunks(5), chunks(x, 12, 5), strict=True):
        assert is_equal(a, b)
    assert is_equal(first_rows(host, 3), first_rows(x, 3))


def images(x: Any) -> Tensor:
    assert isinstance(x, dict)
    image: Tensor = x["image"]
    return image


def test_transform_is_a_function_of_seed_epoch_and_row_and_acts_in_training_alone(
    folder: Path,
) -> None:
    data, held = placed(opened(Shaken(folder)), 10**9), in_memory(folder)
    train, plain = data.parts["train"], images(held.parts["train"].x)
    (batch, *_) = training_batches(train.x, ORDER, ENDS, VISITS)
    for trial, visit in enumerate(VISITS):
        for place_, at in enumerate(ORDER[trial, :5].tolist()):
            generator = transform_generator(visit, int(train.rows[at]))
            expected = plain[at] + torch.randn(3, 4, generator=generator)
            assert torch.equal(images(batch)[trial, place_], expected)
    validation = images(next(chunks(data.parts["validation"].x, 4, 4)))
    assert torch.equal(validation, images(held.parts["validation"].x))
    (again, *_) = training_batches(train.x, ORDER, ENDS, [Visit(11, 2), Visit(12, 2)])
    assert not torch.equal(images(batch), images(again))


def test_row_that_cannot_be_read_is_named_without_a_traceback(folder: Path) -> None:
    dataset = opened(Files(folder))
    (folder / "7.npy").unlink()
    with pytest.raises(DatasetUnreadable, match=r"row 7 cannot be read: FileNotFoundError") as e:
        list(Reader(dataset).read([[(6, None), (7, None)]]))
    assert "Traceback" not in str(e.value)


def test_rows_of_different_forms_are_refused(folder: Path) -> None:
    dataset = opened(Files(folder))
    np.save(folder / "7.npy", np.zeros((3, 5), dtype=np.float32))
    with pytest.raises(DatasetUnreadable, match="rows do not have one form"):
        list(Reader(dataset).read([[(6, None), (7, None)]]))


def test_reading_moves_no_global_generator(folder: Path) -> None:
    data = placed(opened(Shaken(folder)), 0)
    before = torch.get_rng_state()
    list(training_batches(data.parts["train"].x, ORDER, ENDS, VISITS))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.slow
def test_processes_that_read_give_the_same_batches_in_the_same_order(folder: Path) -> None:
    alone = placed(opened(Shaken(folder)), 0)
    many = placed(opened(Shaken(folder), n_processes=2, reopen=partial(Shaken, folder)), 0)
    for _ in range(2):  # the processes stay for the second epoch
        both = [
            list(training_batches(one.parts["train"].x, ORDER, ENDS, VISITS))
            for one in (alone, many)
        ]
        assert all(is_equal(a, b) for a, b in zip(*both, strict=True))


def test_floats_take_the_type_of_the_device_and_whole_numbers_keep_theirs() -> None:
    x = to_device({"a": torch.ones(2), "b": torch.ones(2).long()}, CPU, torch.float64)
    assert isinstance(x, dict)
    assert (x["a"].dtype, x["b"].dtype) == (torch.float64, torch.int64)


def test_batches_cover_the_order_once() -> None:
    x = torch.arange(12.0)[:, None]
    batches = list(training_batches(x, ORDER, ENDS, VISITS))
    assert [b.shape[1] for b in batches if isinstance(b, Tensor)] == [
        end - start for start, end in pairwise((0, *ENDS))
    ]
    joined = torch.cat([b for b in batches if isinstance(b, Tensor)], 1)
    assert torch.equal(joined[..., 0], ORDER.float())
