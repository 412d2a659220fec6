"""The drawn classes still do what the second run said: none got worse, and no figure is edited."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.zoo.drawn import DRAWN, N_DRAWN, outcomes

# These draw by code of their own (LayerDrop, attention made anew): any check may hit it.
RANDOM = {
    "NllbMoeForConditionalGeneration", "BigBirdForCausalLM", "SEWDForSequenceClassification",
}  # fmt: skip
READ = {"discovery", "output layer", "sites"}
HERE = Path(__file__).parent


def read(name: str) -> dict[str, Any]:
    said: dict[str, Any] = json.loads((HERE / name).read_text())
    return said


@pytest.mark.parametrize("name", ["first_run.json", "second_run.json"])
def test_figure_is_the_count_of_classes_without_a_fault(name: str) -> None:
    said = read(name)
    assert said["classes"].keys() == DRAWN.keys()
    assert said["passed"] == sum(faults == "ok" for faults in said["classes"].values())
    assert said["of"] == len(DRAWN) == N_DRAWN


@pytest.mark.zoo
@pytest.mark.filterwarnings("ignore")  # of the library's own code
@pytest.mark.parametrize("name", DRAWN)
def test_no_check_fails_that_passed_before(name: str) -> None:
    torch.set_num_threads(1)
    known = read("second_run.json")["classes"][name]
    failed = {check for check, said in outcomes(name).items() if said != "ok"}
    if name in RANDOM:
        failed &= READ
    assert failed <= (set() if known == "ok" else known.keys())
