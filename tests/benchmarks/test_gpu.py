"""The GPU benchmark: on a GPU its checks, elsewhere all of it that needs none, at tiny sizes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.benchmarks import gpu
from tests.benchmarks.gpu_cases import CASES, Case
from tests.benchmarks.gpu_checks import FOR_EACH_CASE, ONCE
from tests.benchmarks.gpu_search import Search

SMALL: dict[str, tuple[dict[str, object], tuple[int, ...]]] = {
    "mlp": ({"hidden": [8, 6]}, (12,)),
    "cnn": ({"channels": [2, 3], "hidden": 8}, (8, 8)),
    "lstm": ({"hidden": 6}, (5, 4)),
    "transformer": ({"width": 8, "heads": 2, "depth": 2, "feedforward": 8}, (5,)),
}
TINY = [
    replace(case, args=SMALL[case.model][0], input_shape=SMALL[case.model][1], n_rows=40,
            batch_size=8)
    for case in CASES
]  # fmt: skip


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_and_ends_well(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.argv", ["gpu", "--json", str(tmp_path / "gpu.json")])
    gpu.main()
    said = capsys.readouterr().out
    assert said == "No CUDA device here: no GPU check was run and nothing was measured.\n"
    assert not (tmp_path / "gpu.json").exists()


@pytest.mark.slow
def test_everything_that_needs_no_gpu_runs_at_tiny_sizes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    search = Search(trials=3, epochs=1, n_rows=40, n_validation=10, batch_size=8, slots=2)
    results = gpu.run(
        TINY[:1], torch.device("cpu"), repeats=1, steps=2, slots=(2, 3), search=search,
        seconds_shared=0.1, processes=1,
    )  # fmt: skip
    assert gpu.failures(results) == []
    rates = results["cases"][TINY[0].name]
    assert set(rates) == {
        "eager", "K=2 without graphs", "K=2", "K=3", "K=3 bfloat16", "1 processes",
    }  # fmt: skip
    assert all(rate > 0 for values in rates.values() for rate in values)
    assert "trial-steps/s" in capsys.readouterr().out
    json.dumps(results)


@pytest.mark.slow
@pytest.mark.parametrize("case", TINY[1:], ids=lambda case: case.model)
def test_every_model_passes_the_checks_that_need_no_gpu(case: Case) -> None:
    found = {name: check(case, torch.device("cpu")) for name, check in FOR_EACH_CASE.items()}
    assert {name: each for name, each in found.items() if each.passed is False} == {}


@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.model)
@pytest.mark.parametrize("name", [*ONCE, *FOR_EACH_CASE])
def test_check_holds_on_the_gpu(name: str, case: Case) -> None:
    found = {**ONCE, **FOR_EACH_CASE}[name](case, torch.device("cuda"))
    assert found.passed, found.detail
