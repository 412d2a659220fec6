import hashlib
import io
import zipfile

import numpy as np
import pytest

from dropt.api.arrays import (
    Array,
    DataArrays,
    check_content,
    offer_of,
    split_rows,
    write_canonical,
)
from dropt.api.npz_files import read_npz
from dropt.errors import DatasetUnreadable

N = 50
X = np.linspace(-1, 1, 2 * N, dtype=np.float32).reshape(N, 2)
CODES = np.arange(N) % 2


def classes(**parts: object) -> DataArrays:
    given = {"x": X, "y": CODES, "class_names": ("no", "yes"), "features": ("a", "b"), **parts}
    return DataArrays("classification", target="t", **given)  # type: ignore[arg-type]  # of the test


def regression(y: Array) -> DataArrays:
    return DataArrays("regression", x=X[: len(y)], y=y)


def written(data: DataArrays) -> tuple[bytes, str]:
    file = io.BytesIO()
    digest = write_canonical(data, file)
    return file.getvalue(), digest


@pytest.mark.parametrize(
    "data",
    [
        classes(),
        classes(split=(np.arange(N) % 3).astype(np.uint8), group=np.arange(N) // 2),
        classes(x=np.arange(5 * N).reshape(N, 5)),
        regression(X[:, :1]),
    ],
    ids=["classes", "split and group", "tokens", "regression"],
)
def test_canonical_file_is_read_back_as_it_was_and_written_to_the_same_bytes(
    data: DataArrays,
) -> None:
    content, digest = written(data)
    again = read_npz(io.BytesIO(content), task=None, max_columns=10, max_bytes=1 << 20)
    assert (again.task, again.class_names, again.features, again.target) == (
        data.task, data.class_names, data.features, data.target,
    )  # fmt: skip
    for name in ("x", "y", "split", "group"):
        ours, theirs = getattr(data, name), getattr(again, name)
        assert (ours is None) == (theirs is None)
        if ours is not None:
            assert ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours, theirs)
    assert written(again) == (content, digest)


def test_digest_is_a_function_of_the_content() -> None:
    content, digest = written(classes())
    assert digest == hashlib.sha256(content).hexdigest()
    other_layout = classes(x=np.asfortranarray(X).astype(">f4"))
    assert written(other_layout) == (content, digest)
    assert written(classes(class_names=("a", "b")))[1] != digest
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_numpy_reads_the_canonical_file() -> None:
    with np.load(io.BytesIO(written(classes())[0]), allow_pickle=False) as archive:
        assert sorted(archive.files) == ["meta", "x", "y"]
        np.testing.assert_array_equal(archive["x"], X)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (classes(y=CODES * 0, class_names=("only",)), "one class only, 'only'"),
        (classes(class_names=tuple(map(str, range(10_001)))), "Is it an identifier?"),
        (regression(np.ones(N, np.float32)), "same in every row"),
        (regression(np.arange(4, dtype=np.float32)), "leave none for validation"),
        (classes(split=np.zeros(N, np.uint8)), "leave none for validation and test"),
        (classes(group=np.zeros(N, np.int64)), "leave none for train and validation"),
    ],
)
def test_data_that_teach_nothing_are_refused(data: DataArrays, message: str) -> None:
    with pytest.raises(DatasetUnreadable, match=message):
        check_content(data)


def test_split_rows_are_those_of_the_default_split() -> None:
    assert split_rows(classes()) == {"train": 30, "validation": 10, "test": 10}
    odd = classes(y=np.array([0] * 7 + [1] * 43))
    assert split_rows(odd) == {"train": 4 + 25, "validation": 1 + 8, "test": 2 + 10}


def test_split_rows_of_groups_keep_groups_whole() -> None:
    group = np.repeat(np.arange(10), 5)
    assert split_rows(classes(group=group)) == {"train": 30, "validation": 10, "test": 10}


def test_offer_tells_what_jobs_need() -> None:
    offer = offer_of(classes(), name="d", sha256="0" * 64)
    assert (offer.rows, offer.input_shape, offer.classes) == (N, (2,), 2)
    assert offer_of(regression(X[:, 0]), name="d", sha256="0" * 64).classes is None
