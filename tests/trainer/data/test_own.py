"""What a user's function may return as a data set, and what is wrong with it in words."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from dropt.errors import DatasetUnreadable
from dropt_trainer.data.own import as_dataset
from dropt_trainer.data.reading import ReadDataset

X = torch.arange(12.0).reshape(6, 2)
Y = torch.tensor([0, 1, 2, 0, 1, 2])


class Rows:
    """A map-style data set; the keywords are its attributes."""

    def __init__(self, x: Any = X, y: Any = Y, **attributes: Any) -> None:
        self.x, self.y, self.n_reads = x, y, 0
        vars(self).update(attributes)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, row: int) -> tuple[Any, Any]:
        self.n_reads += 1
        return self.x[row], self.y[row]


@pytest.mark.parametrize(
    "value",
    [
        (X, Y),
        [X.numpy(), Y.numpy()],
        {"x": X.tolist(), "y": Y.tolist()},
        TensorDataset(X, Y),
        Rows(),
    ],
)
def test_each_form_is_the_same_data_set(value: object) -> None:
    dataset = as_dataset(value, name="mine")
    assert (dataset.task, dataset.n_outputs, dataset.n_rows) == ("classification", 3, 6)
    assert dataset.input_shape == (2,)
    assert torch.equal(dataset.y, Y)
    assert len(dataset.sha256) == 64


def test_real_numbers_are_a_regression_of_their_columns() -> None:
    assert as_dataset((X, X[:, 0]), name="mine").task == "regression"
    assert as_dataset((X, X), name="mine").n_outputs == 2


def test_tensors_by_name_keep_their_types() -> None:
    x = {"ids": torch.ones(6, 4, dtype=torch.int32), "mask": torch.ones(6, 4, dtype=torch.bool)}
    dataset = as_dataset({"x": x, "y": Y}, name="mine")
    assert isinstance(dataset.x, dict)
    assert {name: t.dtype for name, t in dataset.x.items()} == {
        "ids": torch.int64, "mask": torch.bool,
    }  # fmt: skip
    assert dataset.n_tokens == 2


def changed() -> Iterator[dict[str, Any]]:
    other = X.clone()
    other[5, 1] += 1e-3
    yield {"x": other}
    yield {"x": X.int()}
    yield {"y": Y.flip(0)}
    yield {"split": [0, 0, 1, 1, 2, 2]}
    yield {"group": [0, 0, 1, 1, 2, 2]}
    yield {"standardize": True}
    yield {"class_names": ["a", "b", "c"]}
    yield {"task": "regression", "y": Y.double()}


def test_digest_is_the_same_for_equal_content_and_another_for_every_change() -> None:
    plain = {"x": X, "y": Y}
    digest = as_dataset(plain, name="mine").sha256
    assert as_dataset({"x": X.clone(), "y": Y.clone()}, name="another name").sha256 == digest
    digests = [as_dataset(plain | change, name="mine").sha256 for change in changed()]
    assert len({digest, *digests}) == 1 + len(digests)


def test_rows_are_read_once_each_for_their_digest_and_not_at_all_where_they_say_it() -> None:
    read = Rows()
    dataset = as_dataset(read, name="mine")
    assert isinstance(dataset, ReadDataset)
    assert read.n_reads == 7  # the first one more, for its form
    told = Rows(targets=Y, sha256="a" * 64)
    assert as_dataset(told, name="mine").sha256 == "a" * 64
    assert told.n_reads == 1


def raising(row: int) -> Tensor:
    raise OSError("no such file: 3.png")


class Broken(Rows):
    def __getitem__(self, row: int) -> tuple[Any, Any]:
        return (self.x[row], self.y[row]) if row < 3 else raising(row)  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, r"\(x, y\), a mapping with x and y, or a map-style data set is expected"),
        ((X,), "a tuple of 1 came"),
        ({"x": X}, "field 'y' is missing"),
        ({"x": X, "y": Y, "labels": Y}, "unknown field 'labels'"),
        ((X[:4], Y), r"x has shape \[4, 2\], y has \[6\]"),
        ((X.to(torch.uint8), Y), "uint8 says nothing of its scale"),
        (({"a": X, "b": X[:2]}, Y), r"b has shape \[2, 2\]"),
        ((X / 0, Y), "not finite"),
        ((["a", "b"], [0, 1]), "too many dimensions 'str'|str"),
        ((X, Y - 1), "0 or more"),
        ((X, Y[:, None]), "say which task"),
        ({"x": X, "y": Y, "task": "ranking"}, "its task is 'ranking', allowed: classification"),
        ({"x": X, "y": X[:, 0], "task": "classification"}, "whole numbers"),
        ({"x": X, "y": Y, "class_names": ["a"]}, "1 classes are named, a label is 2"),
        ({"x": X, "y": Y, "split": [0, 1, 2]}, "split is one whole number for each of 6 rows"),
        ({"x": X, "y": Y, "split": [3] * 6}, "split is 0"),
        (Rows(x=[], y=[]), "no rows"),
        (Broken(), "row 3 raises OSError: no such file: 3.png"),
        (Rows(x=[X[0], X[0, :1]], y=[0, 1]), r"row 1 has the form {'x': \[1\]}"),
        (Rows(standardize=True), "scale them in __getitem__"),
        (Rows(sha256="no"), "64 hexadecimal digits"),
        ([X, Y, Y], "a list of 3 came"),
    ],
)
def test_what_is_wrong_is_said(value: object, said: str) -> None:
    with pytest.raises(DatasetUnreadable, match=said):
        as_dataset(value, name="mine")


def test_arrays_of_numpy_are_not_changed() -> None:
    x = np.arange(6, dtype=np.float64).reshape(3, 2)
    as_dataset((x, [0, 1, 0]), name="mine")
    assert x.dtype == np.float64
