"""Lines of plain PyTorch; that they do what `apply` does is tested with the trainer."""

import ast
from typing import Any

import pytest

from dropt.spec.snippet import WIDTH, plain_pytorch
from dropt.spec.space import Placement


def text_of(site: str, rate: float = 0.25, kind: str = "element", **fields: Any) -> str:
    placement = Placement.model_validate(
        {"fingerprint": "", "sites": {site: {"rate": rate, "kind": kind}}, **fields}
    )
    text = plain_pytorch(placement, own_kinds={})
    ast.parse(text)
    return text


def unwrapped(text: str) -> str:
    """The last call of a snippet on one line."""
    return text.replace("(\n    ", "(").replace("\n)", ")").rstrip()


def test_long_lines_are_wrapped() -> None:
    assert max(len(line) for line in text_of("a" * 30 + ":in").splitlines()) <= WIDTH


@pytest.mark.parametrize(
    ("site", "line"),
    [
        ("cls.2:p", 'model.get_submodule("cls.2").p = 0.25'),
        ("encoder.attention:dropout", "model.encoder.attention.dropout = 0.25"),
        (":drop_rate", "model.drop_rate = 0.25"),
        ("a.class:p", 'model.get_submodule("a.class").p = 0.25'),
        ("a:import", 'setattr(model.a, "import", 0.25)'),
        ('a"); import os; ("b:p', 'model.get_submodule("a\\"); import os; (\\"b").p = 0.25'),
        ("a\nb:x\ny", 'setattr(model.get_submodule("a\\nb"), "x\\ny", 0.25)'),
    ],
)
def test_rate_of_the_model_itself_is_one_assignment(site: str, line: str) -> None:
    head, *lines = text_of(site).splitlines()
    assert head.startswith("# ")
    assert lines == [line]


@pytest.mark.parametrize(
    ("kind", "call"),
    [
        ("element", "F.dropout(x, 0.25, on)"),
        ("channel", "F.dropout2d(x, 0.25, on)"),
        ("locked", "locked_dropout(x, 0.25, on, 1)"),
        ("path", "drop_path(x, 0.25, on, 0)"),
        ("token", "token_dropout(x, 0.25, on)"),
        ("alpha", "F.alpha_dropout(x, 0.25, on)"),
    ],
)
def test_new_site_is_a_hook_with_the_function_of_its_kind(kind: str, call: str) -> None:
    out = unwrapped(text_of("a:out", kind=kind))
    assert out.endswith(f"model.a.register_forward_hook(output_hook(lambda x, on: {call}))")
    into = unwrapped(text_of("a:in", kind=kind))
    hook = f"input_hook(lambda x, on: {call}), with_kwargs=True"
    assert into.endswith(f"model.a.register_forward_pre_hook({hook})")


def test_no_more_functions_stand_there_than_are_used() -> None:
    text = text_of("a:out")
    assert "def output_hook" in text
    assert text.count("def ") == 2
    assert "import torch.nn.functional as F" in text
    assert "import" not in text_of("a:p")


def test_layout_is_written_into_the_call() -> None:
    layouts = {"a:out": {"batch_dim": 1, "time_dim": 0}}
    assert "locked_dropout(x, 0.25, on, 0)" in text_of("a:out", kind="locked", layouts=layouts)
    assert "channel_dropout(x, 0.25, on, 1)" in text_of("a:out", kind="channel", layouts=layouts)


def test_rate_0_turns_the_models_own_dropout_off_and_needs_no_hook() -> None:
    assert text_of("a:p", rate=0.0).splitlines()[1:] == ["model.a.p = 0.0"]
    assert text_of("a:out", rate=0.0) == "# No dropout: nothing is to be changed.\n"


def test_other_kind_than_the_modules_own_is_a_hook_in_its_place() -> None:
    lines = text_of("a:p", kind="locked").splitlines()
    assert lines[-2:] == [
        "model.a.p = 0.0",
        "model.a.register_forward_hook(output_hook(lambda x, on: locked_dropout(x, 0.25, on, 1)))",
    ]
    assert "# The search dropped by kind 'locked' here" in text_of("rnn:dropout", kind="locked")
