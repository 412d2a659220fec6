"""`FILE.py:NAME` on the command line: what it names, where it may run, and when it has changed."""

from pathlib import Path
from typing import Any

import pytest

from dropt.cli.own_code import (
    OwnCode,
    keep,
    kept,
    look,
    own_code,
    parse_arguments,
    refuse_at_server,
    set_arguments,
    with_names,
)
from dropt.cli.problems import Refused

LOSS = "def loss(output, target):\n    return output\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "net.py"
    path.write_text(LOSS)
    return path


def test_python_files_of_a_body_are_found_with_absolute_paths(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(file.parent)
    body = {
        "model": {"name": "net.py:Net", "args": {}}, "dataset": "digits",
        "training": {"loss": "net.py:loss"},
    }  # fmt: skip
    own = own_code(body)
    assert own.specs == {"model": f"{file}:Net", "loss": f"{file}:loss"}
    assert own.arguments() == ["--model", f"{file}:Net", "--loss", f"{file}:loss"]


@pytest.mark.parametrize("model", ["mlp", "my.csv", "a:b", None, "net.pyc:Net"])
def test_other_names_are_no_code(model: str | None) -> None:
    assert own_code({"model": model, "dataset": "digits"}) == OwnCode()


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("net.py", r"Say what in net.py is meant: net\.py:NAME"),
        ("net.py:", r"net\.py:NAME"),
        ("absent.py:Net", "There is no file absent.py"),
    ],
)
def test_file_without_a_name_or_without_a_file_is_refused(
    file: Path, monkeypatch: pytest.MonkeyPatch, model: str, said: str
) -> None:
    monkeypatch.chdir(file.parent)
    with pytest.raises(Refused, match=said):
        own_code({"model": model})


def test_code_is_not_sent_to_a_server() -> None:
    own = OwnCode({"loss": "/x/net.py:loss"})
    with pytest.raises(
        Refused, match=r"runs no code that is sent to it.*entry point in dropt\.loss"
    ):
        refuse_at_server(own, "http://gpu:8000")
    refuse_at_server(own, None)
    refuse_at_server(OwnCode(), "http://gpu:8000")


def test_names_take_the_place_of_files_and_the_rest_stays() -> None:
    body: dict[str, Any] = {
        "model": {"name": "net.py:Net", "args": {"width": 3}}, "dataset": "net.py:data",
        "training": {"epochs": 3},
    }  # fmt: skip
    names = {"model": "Net-1", "dataset": "data-2", "loss": "loss-3"}
    assert with_names(body, names) == {
        "model": {"name": "Net-1", "args": {"width": 3}}, "dataset": "data-2",
        "training": {"epochs": 3, "loss": "loss-3"},
    }  # fmt: skip


def test_arguments_are_json_where_they_can_be() -> None:
    texts = ["hidden=[8, 4]", "rate=0.5", "deep=true", "activation=relu", "text=a=b"]
    assert parse_arguments(texts) == {
        "hidden": [8, 4], "rate": 0.5, "deep": True, "activation": "relu", "text": "a=b",
    }  # fmt: skip
    assert set_arguments({"model": "mlp"}, {"a": 1})["model"] == {"name": "mlp", "args": {"a": 1}}
    both = set_arguments({"model": {"name": "mlp", "args": {"b": 2}}}, {"a": 1})
    assert both["model"]["args"] == {"a": 1, "b": 2}


@pytest.mark.parametrize("text", ["hidden", "=3", ""])
def test_argument_without_name_or_value_is_refused(text: str) -> None:
    with pytest.raises(Refused, match="--arg is NAME=VALUE"):
        parse_arguments([text])


@pytest.mark.slow
def test_job_goes_on_with_the_code_that_it_began_with_and_no_other(
    file: Path, tmp_path: Path
) -> None:
    own = OwnCode({"loss": f"{file}:loss"})
    keep(tmp_path, "job_1", own, look(own))
    assert kept(tmp_path, "job_1") == own
    assert kept(tmp_path, "job_2") == OwnCode()
    file.write_text(LOSS + "# changed\n")
    with pytest.raises(Refused, match="has changed since job_1 began"):
        kept(tmp_path, "job_1")


@pytest.mark.slow
def test_look_says_what_is_wrong_and_what_ends_the_process(file: Path) -> None:
    with pytest.raises(Refused, match="defines no 'Nett'; it has loss"):
        look(OwnCode({"model": f"{file}:Nett"}))
    file.write_text("import os\nos._exit(3)\n")
    with pytest.raises(Refused, match="Your code ended the process"):
        look(OwnCode({"model": f"{file}:Net"}))
