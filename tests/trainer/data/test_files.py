import hashlib
import io
import json

import numpy as np
import pytest
import torch

from dropt.errors import DatasetUnreadable, DigestMismatch
from dropt_trainer.data.dataset import Dataset
from dropt_trainer.data.files import load_npz

X = np.arange(12, dtype=np.float32).reshape(4, 3)
LABELS = np.array([0, 1, 2, 1])


def npz(**arrays: object) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=True, **{name: np.asarray(a) for name, a in arrays.items()})
    return buffer.getvalue()


def read(content: bytes) -> Dataset:
    return load_npz(content, name="mine", sha256=hashlib.sha256(content).hexdigest())


def test_a_classification_keeps_its_names_split_and_groups() -> None:
    meta = {"task": "classification", "class_names": ["ant", "bee", "cat"], "licence": "CC0"}
    dataset = read(
        npz(x=X, y=LABELS, split=[0, 0, 1, 2], group=[7, 7, 8, 9], meta=json.dumps(meta))
    )
    assert dataset.task == "classification"
    assert dataset.class_names == ("ant", "bee", "cat")
    assert dataset.n_outputs == 3
    assert dataset.licence == "CC0"
    assert dataset.split is not None
    assert dataset.group is not None
    assert dataset.split.tolist() == [0, 0, 1, 2]
    assert dataset.group.tolist() == [7, 7, 8, 9]
    assert dataset.standardize
    assert isinstance(dataset.x, torch.Tensor)
    assert torch.equal(dataset.x, torch.from_numpy(X))


def test_without_meta_the_type_of_the_target_decides_the_task() -> None:
    assert read(npz(x=X, y=LABELS)).class_names == ("0", "1", "2")
    regression = read(npz(x=X, y=LABELS.astype(np.float32)))
    assert (regression.task, regression.n_outputs) == ("regression", 1)
    assert read(npz(x=X, y=X)).n_outputs == 3


def test_token_ids_stay_whole_numbers() -> None:
    dataset = read(npz(x=np.array([[1, 2], [3, 4]]), y=np.array([0, 1])))
    assert isinstance(dataset.x, torch.Tensor)
    assert dataset.x.dtype == torch.int64
    assert dataset.n_tokens == 5
    assert read(npz(x=X, y=LABELS)).n_tokens is None


def test_other_bytes_are_refused() -> None:
    with pytest.raises(DigestMismatch, match="mine"):
        load_npz(npz(x=X, y=LABELS), name="mine", sha256="0" * 64)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no npz"),
        (b"x,y\n1,2\n", "no npz"),
        (npz(x=X, y=LABELS)[:100], "no npz"),
        (npz(x=np.array([{}, {}, {}, {}]), y=LABELS), "no npz of plain arrays"),
        (npz(y=LABELS), "'x' is missing"),
        (npz(x=X[:3], y=LABELS), "has shape"),
        (npz(x=X, y=LABELS, split=[0, 1]), "'split' has shape"),
        (npz(x=np.array(["a", "b", "c", "d"]), y=LABELS), "numbers are allowed"),
        (npz(x=np.full((4, 3), np.nan), y=LABELS), "not finite"),
        (npz(x=X, y=LABELS - 1), "0 or more"),
        (npz(x=X, y=LABELS, meta="{"), "no JSON"),
        (npz(x=X, y=LABELS, meta="[]"), "an object is expected"),
        (npz(x=X, y=LABELS, meta='{"task": "ranking"}'), "'ranking'"),
        (npz(x=X, y=LABELS, meta='{"class_names": ["a"]}'), "1 classes are named"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_data_set_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(DatasetUnreadable, match=message):
        read(content)


def test_next_tokens_have_the_vocabulary_of_inputs_and_targets() -> None:
    x, y = np.array([[0, 4], [1, 2]]), np.array([[1, 2], [3, 0]])
    dataset = read(npz(x=x, y=y, meta=json.dumps({"task": "next_token"})))
    assert (dataset.task, dataset.n_outputs, dataset.n_tokens) == ("next_token", 5, 5)
    assert dataset.class_names == ("0", "1", "2", "3", "4")
    assert dataset.y.tolist() == y.tolist()


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (X, np.zeros((4, 3), np.int64), "float32.*both are int64 token ids"),
        (np.zeros((2, 3), np.int64), np.zeros((2, 4), np.int64), r"\[2, 4\]; for next_token"),
        (np.zeros((2, 3), np.int64), np.zeros(2, np.int64), r"0 or more, \[N, T\]"),
        (np.zeros((2, 3), np.int64), np.full((2, 3), -1), "0 or more"),
    ],
)
def test_next_tokens_that_do_not_follow_their_inputs_are_refused(
    x: object, y: object, message: str
) -> None:
    with pytest.raises(DatasetUnreadable, match=message):
        read(npz(x=x, y=y, meta=json.dumps({"task": "next_token"})))
