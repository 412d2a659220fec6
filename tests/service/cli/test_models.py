import pytest
from rich.console import Console
from tests import factories

from dropt.cli.models import models_table, print_sites, sites_table
from dropt.spec.catalogue import ModelRead
from dropt.spec.inspection import Finding


def shown(*printed: object) -> str:
    console = Console(width=160, highlight=False)
    with console.capture() as capture:
        for each in printed:
            console.print(each)
    return capture.get()


def test_models_are_listed_with_their_arguments() -> None:
    schema: dict[str, object] = {
        "properties": {"hidden": {"default": [64, 32]}, "activation": {"type": "string"}}
    }
    model = ModelRead(name="m\x1b[31m", tasks=("regression",), args_schema=schema, workers=2)
    head, row = shown(models_table([model])).splitlines()
    assert head.split() == ["model", "tasks", "arguments", "workers"]
    assert row.split() == ["m", "[31m", "regression", "hidden=[64,", "32],", "activation", "2"]


def test_sites_have_their_range_where_a_job_would_search_them() -> None:
    on = factories.site("a:out").model_copy(update={"existing_rate": 0.5})
    off = factories.site("b:out", recommended=False).model_copy(
        update={"reason": "behind a norm", "calls": 2}
    )
    _, first, second = shown(sites_table([on, off], {"a:out": (0.05, 0.7)})).splitlines()
    assert first.split() == [
        "a:out", "Linear(8,", "8)", "hidden", "element", "on", "5", "%", "-", "70", "%", "50", "%",
    ]  # fmt: skip
    assert second.split()[5:] == ["off", "behind", "a", "norm;", "called", "2", "times"]


def test_refused_places_and_findings_follow(capsys: pytest.CaptureFixture[str]) -> None:
    finding = Finding(code="dead-dropout", site="d:p", message="It is dead.", remedy="Bury it.")
    found = factories.inspection().model_copy(update={"findings": (finding,)})
    print_sites(Console(width=100), "mlp on digits", found, {})
    text = capsys.readouterr().out
    assert "mlp on digits · 1,000 parameters · output layer: layers.4\n" in text
    assert "layers.4:out  output layer" in text
    assert "dead-dropout at d:p: It is dead.\n  Bury it.\n" in text
    assert "Trains 8 trials at once in the fused lane: faster" in text


def test_model_without_sites_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    found = factories.inspection().model_copy(update={"sites": (), "output_layers": ()})
    print_sites(Console(width=100), "mlp on digits", found, {})
    text = capsys.readouterr().out
    assert "none (headless)" in text
    assert "There is no place where dropout can act" in text
