"""A slot whose trial diverges: its mates, and who comes after it, do not notice.

Compared is what is computed in the same order: a pack whose other trial is calm, and leaves after
the same epoch. A pack without that trial has rows of another number, which a library for matrices
may round in another way; so it is compared in float64 and not by the bit.
"""

from dataclasses import replace

import pytest
import torch
from tests.trainer.fused.cases import CASES, Case, Precision, trial
from torch import Tensor

from dropt_trainer.fused.driver import Driver, EpochEnd
from dropt_trainer.fused.step import Lane

CALM, WILD = 0.01, 1e30  # learning rates of the trial in slot 1
MATES = (0, 2)


def begin(case: Case, lane: Lane, precision: Precision, *, lr: float | None) -> Driver:
    """Three slots; None leaves slot 1 empty. It is loaded last: who comes next gets its row."""
    one = case.driver(3, lane, precision)
    for slot in (*MATES, 1):
        asked = trial(slot, 9, one.pack.ports)
        if slot in MATES:
            one.load(slot, asked)
        elif lr is not None:
            one.load(slot, replace(asked, params=replace(asked.params, lr=lr)))
    return one


def go_on(one: Driver) -> tuple[list[EpochEnd], dict[int, dict[str, Tensor]]]:
    """An epoch with two trials, two with a new third; what they gave, and their weights."""
    ends = one.run_epoch()
    one.load(1, trial(7, 9, one.pack.ports))
    for _ in range(2):
        ends += one.run_epoch()
    return ends, {slot: one.pack.state_dict(slot) for slot in range(3)}


@pytest.mark.slow
@pytest.mark.parametrize("lane", ["fused", "solo"])
@pytest.mark.parametrize("name", CASES)
def test_mates_and_successor_of_a_diverged_trial_are_bitwise_those_of_a_calm_one(
    name: str, lane: Lane
) -> None:
    """In float32, with the kernels that users run."""
    calm, wild = (begin(CASES[name], lane, "float32", lr=lr) for lr in (CALM, WILD))
    left, right = ({end.slot: end for end in one.run_epoch()} for one in (calm, wild))
    assert right[1].state == "diverged"
    assert left[1].state == "running"
    assert wild.pack.free == {1}
    calm.clear(1)
    for slot in MATES:
        assert left[slot] == right[slot]
    (ends, weights), (wild_ends, wild_weights) = go_on(calm), go_on(wild)
    assert ends == wild_ends
    for slot, state in weights.items():
        for key, tensor in state.items():
            assert torch.equal(tensor, wild_weights[slot][key]), (slot, key)


@pytest.mark.parametrize("name", ["mlp", "cnn-bn"])
def test_mates_of_a_diverged_trial_are_those_of_a_run_without_it(name: str) -> None:
    without, wild = (begin(CASES[name], "fused", "float64", lr=lr) for lr in (None, 1e300))
    for _ in range(3):
        left, right = ({end.slot: end for end in one.run_epoch()} for one in (without, wild))
        for slot in MATES:
            assert left[slot].train_loss == pytest.approx(right[slot].train_loss, rel=1e-12)
    assert wild.pack.free == without.pack.free == {1}
