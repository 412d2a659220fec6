import io
from collections.abc import Sequence

import numpy as np
import pytest

from dropt.api.arrays import DataArrays
from dropt.api.csv_files import read_csv
from dropt.errors import DatasetUnreadable, TooLarge
from dropt.spec.job import Task

ROWS = [f"{i},{i / 2},{'yes' if i % 3 else 'no'}" for i in range(30)]
GOOD = "\n".join(["age,height,ill", *ROWS]) + "\n"


def read(
    text: str | bytes,
    target: str | None = "ill",
    *,
    task: Task | None = None,
    max_columns: int = 4096,
    max_bytes: int = 1 << 20,
) -> DataArrays:
    content = text.encode() if isinstance(text, str) else text
    return read_csv(
        io.BytesIO(content), target=target, task=task, max_columns=max_columns, max_bytes=max_bytes
    )


def with_target(values: Sequence[object], *, task: Task | None = None) -> DataArrays:
    lines = [f"{i},{value}" for i, value in enumerate(values)]
    return read("\n".join(["x,y", *lines]), "y", task=task)


def test_text_targets_are_classes_in_the_order_of_their_names() -> None:
    data = read(GOOD)
    assert (data.task, data.class_names, data.features) == (
        "classification", ("no", "yes"), ("age", "height")
    )  # fmt: skip
    assert data.target == "ill"
    assert data.x.dtype == np.float32
    assert data.x.tolist() == [[i, i / 2] for i in range(30)]
    assert data.y.tolist() == [int(i % 3 != 0) for i in range(30)]


def test_target_may_stand_anywhere() -> None:
    data = read("y,a,b\n1,2,3\n0,5,6\n", "y")
    assert data.x.tolist() == [[2, 3], [5, 6]]
    assert data.y.tolist() == [1, 0]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_common_dialects_give_the_same_data(delimiter: str, newline: str, mark: str) -> None:
    text = mark + GOOD.replace(",", delimiter).replace("\n", newline)
    assert read(text).x.tolist() == read(GOOD).x.tolist()


def test_quotes_blank_lines_and_spaces_are_understood() -> None:
    data = read('"a, b", y \n\n 1 ,"x ""q"""\n2.5e-1,z\n', "y")
    assert data.features == ("a, b",)
    assert data.class_names == ('x "q"', "z")
    assert data.x.tolist() == [[1.0], [0.25]]


@pytest.mark.parametrize(
    ("values", "task", "names"),
    [
        ([3, 10, 3, 2], "classification", ("2", "3", "10")),
        ([1.0, 0.0, 1.0], "classification", ("0", "1")),
        ([-1, 1, -1], "classification", ("-1", "1")),
        (list(range(20)), "classification", tuple(str(i) for i in range(20))),
        (list(range(21)), "regression", ()),
        ([0.5, 1.5, 0.5], "regression", ()),
        (["1", "01", "+1", "2"], "classification", ("1", "2")),
        (["1", "b", "2"], "classification", ("1", "2", "b")),
    ],
)
def test_task_follows_from_the_values_of_the_target(
    values: list[object], task: Task, names: tuple[str, ...]
) -> None:
    data = with_target(values)
    assert (data.task, data.class_names) == (task, names)


def test_task_can_be_said() -> None:
    assert with_target([1, 2, 3], task="regression").y.tolist() == [1.0, 2.0, 3.0]
    assert len(with_target(list(range(40)), task="classification").class_names) == 40
    assert with_target([0.5, 1.5], task="classification").class_names == ("0.5", "1.5")


NUMBERS = [f"{i}.5" for i in range(30)]
AT_A = {"row": 3, "column": "a"}
UNREADABLE: list[tuple[str, str | bytes, str | None, dict[str, object], str]] = [
    ("empty file", "", "y", {}, "The file is empty"),
    ("empty lines", "\n\n", "y", {}, "The file is empty"),
    ("header alone", "a,y\n", "y", {}, "no rows below its header"),
    ("text in a feature", "a,y\n1,0\nred,1\n", "y", AT_A, "'red' is no number"),
    ("missing value", "a,y\n1,0\n,1\n", "y", AT_A, "value is missing"),
    ("NA", "a,y\n1,0\nNA,1\n", "y", AT_A, "value is missing"),
    ("nan", "a,y\n1,0\nnan,1\n", "y", AT_A, "value is missing"),
    ("missing target", "a,y\n1,0\n2,\n", "y", {"row": 3, "column": "y"}, "value is missing"),
    ("inf", "a,y\n1,0\ninf,1\n", "y", AT_A, "not finite"),
    ("1e400", "a,y\n1,0\n1e400,1\n", "y", AT_A, "not finite"),
    ("beyond float32", "a,y\n1,0\n1e39,1\n", "y", AT_A, "too large for float32"),
    ("underscore", "a,y\n1,0\n1_000,1\n", "y", AT_A, "is no number"),
    ("other digits", "a,y\n1,0\n\uff11,1\n", "y", AT_A, "is no number"),
    ("hex", "a,y\n1,0\n0x10,1\n", "y", AT_A, "is no number"),
    ("short row", "a,b,y\n1,2,0\n1,0\n", "y", {"row": 3}, "2 cells, the header has 3"),
    ("long row", "a,y\n1,0\n1,0,5\n", "y", {"row": 3}, "3 cells, the header has 2"),
    ("row after a blank line", "a,y\n1,0\n\nred,1\n", "y", {"row": 4, "column": "a"}, "'red'"),
    ("NUL", "a,y\n1,0\n1\x00,1\n", "y", {"row": 3}, "NUL"),
    ("NUL in the header", "a\x00,y\n1,0\n", "y", {"row": 1}, "NUL"),
    ("not UTF-8", b"a,y\n1,\xff\xfe\n", "y", {}, "not UTF-8"),
    ("UTF-16", "a,y\n1,0\n".encode("utf-16"), "y", {}, "not UTF-8"),
    ("open quote", 'a,y\n"1,0\n', "y", {}, "no CSV"),
    ("text after a quote", 'a,y\n"1"x,0\n', "y", {}, "no CSV"),
    ("unnamed column", ",y\n1,0\n", "y", {"row": 1}, "Column 1 has no name"),
    ("two of one name", "a,a,y\n1,2,0\n", "y", {"row": 1, "column": "a"}, "Two columns"),
    ("target alone", "y\n1\n2\n", "y", {"row": 1}, "no column but the target"),
    ("no target named", "a,y\n1,0\n", None, {}, "The column to predict is not named"),
    ("unknown target", "age,ill\n1,0\n", "il", {}, "Did you mean 'ill'?"),
    (
        "text in a quantity",
        "\n".join(["a,y", *(f"1,{n}" for n in NUMBERS), "1,red"]),
        "y",
        {"row": 32, "column": "y"},
        "'red' is no number",
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "target", "members", "message"),
    [row[1:] for row in UNREADABLE],
    ids=[row[0] for row in UNREADABLE],
)
def test_unreadable_file_is_told_with_row_column_and_remedy(
    text: str | bytes, target: str | None, members: dict[str, object], message: str
) -> None:
    with pytest.raises(DatasetUnreadable) as caught:
        read(text, target)
    assert message in caught.value.detail
    assert caught.value.members == members
    assert caught.value.detail.count(". ") >= 1, "a remedy follows"


def test_unknown_target_lists_the_columns() -> None:
    with pytest.raises(DatasetUnreadable) as caught:
        read(GOOD, "weight")
    (field,) = caught.value.errors
    assert (field.pointer, field.received) == ("/target", "weight")
    assert field.allowed == ("age", "height", "ill")


def test_too_many_columns_are_refused_at_the_header() -> None:
    with pytest.raises(DatasetUnreadable, match="3 columns, at most 2"):
        read(GOOD, max_columns=2)


def test_rows_beyond_the_memory_limit_are_refused() -> None:
    with pytest.raises(TooLarge):
        read(GOOD, max_bytes=30 * 2 * 4 - 1)
    assert len(read(GOOD, max_bytes=30 * 2 * 4).x) == 30


def test_line_without_end_is_refused_before_it_is_read() -> None:
    class Endless(io.BytesIO):
        n_read = 0

        def read1(self, size: int | None = -1, /) -> bytes:
            assert size is not None
            self.n_read += size
            return b"1" * size

        read = read1

    endless = Endless()
    with pytest.raises(DatasetUnreadable, match="longer than"):
        read_csv(endless, target="y", task=None, max_columns=10, max_bytes=100)
    assert endless.n_read < 8 << 20


def test_text_in_a_regression_that_was_asked_for_is_told() -> None:
    with pytest.raises(DatasetUnreadable) as caught:
        with_target([1, 2, "many"], task="regression")
    assert caught.value.members == {"row": 4, "column": "y"}
