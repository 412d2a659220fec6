"""Recorded steps against PyTorch's own, in packs that shrink, grow and hold odd models."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dropt_trainer.fused import recorded as recordings
from dropt_trainer.fused.pack import Pack
from dropt_trainer.fused.slots import SlotTrial
from dropt_trainer.fused.step import Lane
from dropt_trainer.optim import Params
from dropt_trainer.sites.instrument import SitePort

N_STEPS = 20  # runs 1 and 8 of a recording are checked


class Counting(nn.Module):
    """A model whose output depends on how often Python has run it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.n_calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.n_calls += 1
        out: Tensor = self.layer(x) * (1.0 if self.n_calls < 4 else 2.0)
        return out


class Branching(nn.Module):
    """A model that looks at numbers; it runs in the solo lane alone."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x) if x.mean() > 0 else -self.layer(x)
        return out


def layers() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def pack_of(build: Callable[[], nn.Module], lane: Lane = "fused", *, slots: int = 3) -> Pack:
    def factory(seed: int) -> nn.Module:
        model = build()
        generator = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.3, generator=generator)
        return model

    ports = [SitePort("2:out", "element")] if build is layers else []
    pack = Pack(factory, ports, slots=slots, optimizer="adamw", loss="cross_entropy", lane=lane)
    for slot in range(slots):
        pack.load(slot, trial(slot, pack))
    return pack


def trial(seed: int, pack: Pack) -> SlotTrial:
    return SlotTrial(seed, 1, Params(lr=0.01), rates={port.site: 0.3 for port in pack.ports})


def batch(step: int, n: int, size: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(n, size, 4, generator=generator)
    return x, torch.randint(0, 3, (n, size), generator=generator)


def trained(pack: Pack, sizes: tuple[int, ...] = (6, 6, 4)) -> list[Tensor]:
    """Losses of each step; a slot is cleared and filled again on the way."""
    losses = []
    for step in range(N_STEPS):
        if step == 9:
            pack.clear(0)
        if step == 14:
            pack.load(0, trial(7, pack))
        losses.append(pack.step(*batch(step, len(pack.filled), sizes[step % len(sizes)])))
    return losses


def without_recordings(pack: Pack) -> Pack:
    pack._train._records = False
    return pack


@pytest.mark.parametrize("lane", ["fused", "solo"])
def test_a_pack_trains_to_the_same_bits_with_and_without_recordings(lane: Lane) -> None:
    recorded, plain = pack_of(layers, lane), without_recordings(pack_of(layers, lane))
    assert all(map(torch.equal, trained(recorded), trained(plain)))
    for slot in range(3):
        pairs = zip(
            recorded.state_dict(slot).values(), plain.state_dict(slot).values(), strict=True
        )
        assert all(torch.equal(a, b) for a, b in pairs)
    # A batch of 6 and one of 4 for 3 rows, which serve for 2 rows where all train as one.
    assert len(recorded._train._recorded) == (2 if lane == "fused" else 3)
    assert not plain._train._recorded


def test_few_steps_go_through_python_once_a_shape_is_recorded() -> None:
    calls: list[int] = []

    class Noting(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            calls.append(1)
            return super().forward(input)

    pack = pack_of(lambda: Noting(4, 3))
    for step in range(N_STEPS):
        pack.step(*batch(step, 3))
    assert len(calls) == 2 + 2  # as it comes, recorded, and beside runs 1 and 8


def test_a_model_with_state_in_python_is_found_out(caplog: pytest.LogCaptureFixture) -> None:
    pack = pack_of(Counting)
    for step in range(N_STEPS):
        pack.step(*batch(step, 3))
    assert not pack._train._recorded
    (record,) = (r for r in caplog.records if r.message == "replay.refused")
    why: Any = vars(record)["why"]
    assert why == "run 8 gave other numbers than PyTorch"


def test_a_model_that_looks_at_numbers_is_left_to_pytorch() -> None:
    recorded = pack_of(Branching, "solo", slots=1)
    plain = without_recordings(pack_of(Branching, "solo", slots=1))
    for step in range(N_STEPS):
        assert torch.equal(recorded.step(*batch(step, 1)), plain.step(*batch(step, 1)))
    assert not recorded._train._recorded


def test_the_oldest_recording_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recordings, "MOST_BYTES", 1)
    pack = pack_of(layers)
    trained(pack)
    assert len(pack._train._recorded) == 1


def test_a_wider_recording_serves_until_that_costs_more_than_one_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recordings, "RECORDING_COST", 1.0)
    pack, plain = pack_of(layers), without_recordings(pack_of(layers))
    for step in range(10):
        if step == 3:
            pack.clear(2)
            plain.clear(2)
        a, b = (one.step(*batch(step, len(one.filled))) for one in (pack, plain))
        assert torch.equal(a, b)
        wide, narrow = (
            any(one.n_rows == k for one in pack._train._recorded.values()) for k in (3, 2)
        )
        assert wide == (step >= 1)
        assert narrow == (step >= 6)  # 3 runs of 2 in 3 rows idle a third of each


def test_losses_outlast_the_next_step() -> None:
    pack = pack_of(layers)
    losses = [pack.step(*batch(0, 3)) for _ in range(N_STEPS)]
    assert len({tuple(t.tolist()) for t in losses}) == N_STEPS


def test_a_loss_that_is_not_finite_is_no_difference() -> None:
    pack = pack_of(layers)
    for step in range(N_STEPS):
        x, y = batch(step, 3)
        x[1] = float("nan")
        losses = pack.step(x, y)
    assert losses.isnan().tolist() == [False, True, False]
    assert pack._train._recorded
