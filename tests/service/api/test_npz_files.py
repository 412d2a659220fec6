import io
import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dropt.api.arrays import DataArrays
from dropt.api.npz_files import read_npz
from dropt.errors import DatasetUnreadable, TooLarge
from dropt.spec.job import Task

X = np.arange(60, dtype=np.float64).reshape(30, 2)
Y = np.arange(30) % 3


def npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def read(
    content: bytes, *, task: Task | None = None, max_columns: int = 4096, max_bytes: int = 1 << 20
) -> DataArrays:
    return read_npz(io.BytesIO(content), task=task, max_columns=max_columns, max_bytes=max_bytes)


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def npy(header: str, data: bytes = b"") -> bytes:
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def shape(text: str) -> str:
    return f"{{'descr': '<f8', 'fortran_order': False, 'shape': {text}}}"


def test_numbers_become_float32_and_whole_targets_classes() -> None:
    data = read(npz(x=X, y=Y))
    assert (data.task, data.class_names) == ("classification", ("0", "1", "2"))
    assert data.x.dtype == np.float32
    np.testing.assert_array_equal(data.x, X)
    np.testing.assert_array_equal(data.y, Y)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int32", ">f4", "float16", "float64"])
def test_other_kinds_of_numbers_are_read_as_float32(dtype: str) -> None:
    images = (np.arange(30 * 12) % 2).reshape(30, 3, 4).astype(dtype)
    data = read(npz(x=images, y=Y))
    assert data.x.dtype == np.float32
    assert data.x.shape == (30, 3, 4)
    np.testing.assert_array_equal(data.x, images.astype(np.float32))


def test_int64_rows_stay_token_ids() -> None:
    tokens = np.arange(30 * 5).reshape(30, 5)
    assert read(npz(x=tokens, y=Y)).x.dtype == np.int64


@pytest.mark.parametrize(
    ("y", "task", "names", "codes"),
    [
        (np.array(["b", "a", "b"] * 10), "classification", ("a", "b"), [1, 0, 1] * 10),
        (np.array([b"b", b"a"] * 15), "classification", ("a", "b"), [1, 0] * 15),
        (np.array([7, 3, 7] * 10), "classification", ("3", "7"), [1, 0, 1] * 10),
        (np.array([True, False] * 15), "classification", ("0", "1"), [1, 0] * 15),
        (np.arange(30), "regression", (), list(range(30))),
        (np.arange(30) / 2, "regression", (), [i / 2 for i in range(30)]),
    ],
)
def test_task_follows_from_the_targets(
    y: Any, task: Task, names: tuple[str, ...], codes: list[float]
) -> None:
    data = read(npz(x=X, y=y))
    assert (data.task, data.class_names) == (task, names)
    assert data.y.tolist() == codes


def test_task_can_be_said() -> None:
    assert read(npz(x=X, y=Y), task="regression").y.dtype == np.float32
    assert len(read(npz(x=X, y=np.arange(30.0)), task="classification").class_names) == 30


def test_next_tokens_are_ids_in_inputs_and_targets() -> None:
    ids = np.arange(30 * 5).reshape(30, 5) % 7
    data = read(npz(x=ids[:, :-1], y=ids[:, 1:].astype(np.int32)), task="next_token")
    assert (data.task, data.class_names) == ("next_token", tuple("0123456"))
    assert {data.x.dtype, data.y.dtype} == {np.dtype(np.int64)}
    np.testing.assert_array_equal(data.y, ids[:, 1:])
    names = json.dumps({"task": "next_token", "class_names": list("abcdefghij")})
    assert read(npz(x=ids, y=ids, meta=names)).class_names == tuple("abcdefghij")


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (X, X, "give int64 token ids"),
        (np.ones((30, 2), np.int64), np.ones((30, 3), np.int64), "give int64 token ids"),
        (np.ones((30, 2), np.int64), -np.ones((30, 2), np.int64), "below 0"),
        (np.ones((30, 2), np.int64), np.full((30, 2), 10_000), "largest token id is 10,000"),
        (np.ones((30, 2), np.int64), np.zeros((30, 2), np.float32), "give int64 token ids"),
    ],
)
def test_next_tokens_that_are_no_ids_are_told_with_a_remedy(x: Any, y: Any, message: str) -> None:
    with pytest.raises(DatasetUnreadable, match=message):
        read(npz(x=x, y=y), task="next_token")


def test_regression_may_have_several_targets() -> None:
    assert read(npz(x=X, y=X)).y.shape == (30, 2)


def test_split_and_groups_are_kept() -> None:
    data = read(npz(x=X, y=Y, split=Y, group=np.arange(30) // 2))
    assert data.split is not None
    assert data.group is not None
    assert data.split.dtype == np.uint8
    assert data.group.dtype == np.int64


HOLES = np.where(X == 7, np.nan, X)
UNREADABLE: list[tuple[str, bytes, str]] = [
    ("no zip", b"PK\x03\x04 and then nothing", "no npz file"),
    ("cut off", npz(x=X, y=Y)[:-30], "no npz file"),
    ("flipped", npz(x=X, y=Y).replace(b"\x00\x00\x40\x40", b"\x00\x00\x41\x41"), "no npz file"),
    ("objects", npz(x=X, y=np.array([1, "a", None] * 10, dtype=object)), "pickles"),
    ("records", npz(x=np.zeros(30, [("a", "f4")]), y=Y), "holds"),
    ("complex", npz(x=X.astype(complex), y=Y), "holds complex128"),
    ("dates", npz(x=X.astype("M8[s]"), y=Y), "holds datetime64"),
    ("no y", npz(x=X), "'y' is missing"),
    ("no x", npz(y=Y, inputs=X), "Unknown array"),
    ("typo", npz(x=X, y=Y, splt=Y), "Did you mean 'split'?"),
    ("a spreadsheet", zipped({"xl/workbook.xml": b"<a/>"}), "not one of numpy arrays"),
    ("no members", zipped({}), "'x' is missing"),
    ("ragged", npz(x=X, y=Y[:-1]), "different numbers of rows: x 30, y 29"),
    ("no rows", npz(x=X[:0], y=Y[:0]), "no rows"),
    ("flat x", npz(x=X[:, 0], y=Y), "x[:, None]"),
    ("x without features", npz(x=X[:, :0], y=Y), "no features"),
    ("nan", npz(x=HOLES, y=Y), "not finite (or beyond float32) at index 3"),
    ("inf", npz(x=np.where(X == 7, np.inf, X), y=Y), "at index 3"),
    ("beyond float32", npz(x=np.where(X == 7, 1e39, X), y=Y), "at index 3"),
    ("nan in y", npz(x=X, y=HOLES[:, 1]), "'y' is not finite"),
    ("negative tokens", npz(x=X.astype(np.int64) - 1, y=Y), "token ids"),
    ("split of 3", npz(x=X, y=Y, split=Y + 1), "something else than 0, 1 and 2"),
    ("split of two columns", npz(x=X, y=Y, split=np.zeros((30, 2), int)), "something else"),
    ("group of two columns", npz(x=X, y=Y, group=np.zeros((30, 2), int)), "int64 per row"),
    ("encoded meta", npz(x=X, y=Y, meta=np.array("{")), "'meta' is none of dropt's"),
    ("meta of another kind", npz(x=X, y=Y, meta=np.array('{"task": 5}')), "'meta' is none"),
    ("scalar y", npz(x=X, y=np.array(1)), "different numbers of rows"),
    ("17 arrays", npz(x=X, y=Y, **{f"a{i}": Y for i in range(15)}), "More than 16 arrays"),
    ("unusual compression", zipped({"x.npy": b"", "y.npy": b""}, zipfile.ZIP_BZIP2), "unusual"),
    (
        "a header of 8 TiB",
        zipped({"x.npy": npy(shape("(1099511627776,)")),
                "y.npy": npy(shape("()"))}),
        "damaged: its header tells",
    ),
    (
        "a negative shape",
        zipped({"x.npy": npy(shape("(-1, -1)"), bytes(8)),
                "y.npy": b""}),
        "damaged",
    ),
    ("a header of nonsense", zipped({"x.npy": npy("((((" * 20), "y.npy": b""}), "damaged"),
    ("a future version", zipped({"x.npy": b"\x93NUMPY\x09\x00", "y.npy": b""}), "damaged"),
    ("two of one name", b"", "Two arrays"),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:Duplicate name")  # zipfile says so while the test writes it
@pytest.mark.parametrize(
    ("content", "message"), [row[1:] for row in UNREADABLE], ids=[row[0] for row in UNREADABLE]
)
def test_unreadable_file_is_told_with_a_remedy(content: bytes, message: str) -> None:
    if not content:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            for name in ("x.npy", "x.npy", "y.npy"):
                archive.writestr(name, b"")
        content = file.getvalue()
    with pytest.raises(DatasetUnreadable) as caught:
        read(content)
    assert message in caught.value.detail
    assert caught.value.errors[0].pointer == "/file"


def test_pickle_is_never_loaded(tmp_path: Path) -> None:
    canary = tmp_path / "canary"

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (canary,))

    with pytest.raises(DatasetUnreadable, match="pickles"):
        read(npz(x=X, y=np.array([Evil()] * 30, dtype=object)))
    assert not canary.exists()


def test_bomb_is_refused_by_its_directory() -> None:
    bomb = zipped({"x.npy": bytes(100 << 20), "y.npy": b""}, zipfile.ZIP_DEFLATED)
    assert len(bomb) < 200_000
    with pytest.raises(TooLarge, match="unpack to 104,857,600 bytes"):
        read(bomb, max_bytes=64 << 20)
    with pytest.raises(TooLarge, match="times their size"):
        read(bomb, max_bytes=1 << 30)


def test_directory_of_a_million_entries_is_refused_before_it_is_read() -> None:
    good = npz(x=X, y=Y)
    at = good.rindex(b"PK\x05\x06")
    end = bytearray(good[at:])
    struct.pack_into("<L", end, 12, 100 << 20)  # the size of the directory
    with pytest.raises(DatasetUnreadable, match="More than 16 arrays"):
        read(good[:at] + end)


def test_too_many_columns_are_refused() -> None:
    with pytest.raises(DatasetUnreadable, match="2 columns, at most 1"):
        read(npz(x=X, y=Y), max_columns=1)


@pytest.mark.parametrize(
    ("y", "task", "message"),
    [
        (np.array(["a"] * 30), "regression", "holds text"),
        (X, "classification", r"\(30, 2\)"),
        (X[:, 0] + 0.5, "classification", "fractions"),
        (X[:, 0] * 1e30, "classification", "fractions"),
    ],
)
def test_task_that_does_not_fit_the_targets_is_told(y: Any, task: Task, message: str) -> None:
    with pytest.raises(DatasetUnreadable, match=message):
        read(npz(x=X, y=y), task=task)
