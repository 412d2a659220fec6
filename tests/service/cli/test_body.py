import io
from pathlib import Path

import pytest

from dropt.cli.body import name_in, read_body, require_subject, set_name, set_options
from dropt.cli.problems import Refused


def test_job_is_read_from_a_file_and_from_standard_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "job.json"
    file.write_text('{"model": "mlp"}', "utf-8")
    monkeypatch.setattr("sys.stdin", io.StringIO('{"model": "cnn"}'))
    assert read_body(str(file)) == {"model": "mlp"}
    assert read_body("-") == {"model": "cnn"}
    assert read_body(None) == {}


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe"])
def test_file_that_is_no_job_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "job.json"
    file.write_bytes(content)
    with pytest.raises(Refused, match=r"job\.json"):
        read_body(str(file))


def test_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(Refused, match="cannot be read"):
            read_body(str(path))


def test_options_win_over_the_file_and_leave_the_rest() -> None:
    body = {"model": "mlp", "budget": {"trials": 8, "seconds": 5}}
    changed = set_options(body, {"budget.trials": 16, "search.seed": 3, "dataset": None})
    assert changed == {
        "model": "mlp", "budget": {"trials": 16, "seconds": 5}, "search": {"seed": 3}
    }  # fmt: skip
    assert body["budget"] == {"trials": 8, "seconds": 5}


def test_option_into_something_else_than_an_object_is_refused() -> None:
    with pytest.raises(Refused, match="'evidence'"):
        set_options({"evidence": False}, {"evidence.effort": "quick"})


def test_names_are_found_and_set_in_both_forms() -> None:
    assert name_in({"dataset": "digits"}, "dataset") == "digits"
    full = {"dataset": {"name": "my.csv", "split": None}}
    assert name_in(full, "dataset") == "my.csv"
    assert set_name(full, "dataset", "my-1") == {"dataset": {"name": "my-1", "split": None}}
    assert set_name({"dataset": "x"}, "dataset", "y") == {"dataset": "y"}


def test_model_and_data_set_must_be_named() -> None:
    require_subject({"model": "mlp", "dataset": "digits"})
    with pytest.raises(Refused, match="--dataset missing"):
        require_subject({"model": "mlp"})
