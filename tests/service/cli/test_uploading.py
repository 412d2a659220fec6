from pathlib import Path

import pytest

from dropt.cli.problems import Refused
from dropt.cli.uploading import FileDataset, as_file


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    path = tmp_path / "My data.csv"
    path.write_text("a,y\n1,0\n", "utf-8")
    return path


def test_name_of_an_upload_changes_with_content_target_and_task(csv: Path) -> None:
    first = FileDataset(csv, "y").name()
    assert first.startswith("My-data-")
    assert first == FileDataset(csv, "y").name()
    csv_names = {first, FileDataset(csv, "a").name(), FileDataset(csv, "y", "regression").name()}
    csv.write_text("a,y\n2,0\n", "utf-8")
    assert len({*csv_names, FileDataset(csv, "y").name()}) == 4


def test_name_of_a_data_set_stays_a_name() -> None:
    assert as_file("digits", None, None) is None


def test_csv_needs_its_target_and_an_npz_does_not(csv: Path, tmp_path: Path) -> None:
    npz = tmp_path / "x.npz"
    npz.touch()
    assert as_file(str(csv), "y", None) == FileDataset(csv, "y")
    assert as_file(str(npz), None, None) == FileDataset(npz)
    with pytest.raises(Refused, match="--target"):
        as_file(str(csv), None, None)


@pytest.mark.parametrize(
    ("text", "message"), [("none.csv", "no file none.csv"), (".", "folder"),
                          ("pyproject.toml", "no data set")],
)  # fmt: skip
def test_what_is_no_data_file_is_refused_in_words(text: str, message: str) -> None:
    with pytest.raises(Refused, match=message):
        as_file(text, None, None)


def test_options_of_files_do_not_fit_a_name() -> None:
    with pytest.raises(Refused, match="'digits' is a name"):
        as_file("digits", "y", None)
