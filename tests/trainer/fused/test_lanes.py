from collections.abc import Callable
from dataclasses import replace
from itertools import count

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dropt_trainer.fused import lanes
from dropt_trainer.fused.lanes import Subject, best_slots, probe
from dropt_trainer.fused.pack import Pack
from dropt_trainer.models import build
from dropt_trainer.sites.instrument import SitePort

BATCH, WIDTH, N_CLASSES = 8, 6, 3


def mlp(seed: int) -> nn.Module:
    return build("mlp", {"hidden": [8]}, input_shape=(WIDTH,), n_outputs=N_CLASSES, seed=seed)


class Branching(nn.Module):
    """A model that looks at its data: vmap cannot."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, N_CLASSES)
        for p in self.parameters():
            nn.init.normal_(p, generator=torch.Generator().manual_seed(seed))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x if bool(x.sum() > 0) else -x)
        return out


class Deceptive(Branching):
    """A model whose pack is wrong without an error, by one part in a million."""

    def forward(self, x: Tensor) -> Tensor:
        batched = torch._C._functorch.is_batchedtensor(x)
        out: Tensor = self.layer(x * (1 + 1e-6 * batched))
        return out


class Checkpointed(Branching):
    """A model that computes its layer again on the way back."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = checkpoint(self.layer, x, use_reentrant=False)
        return out


class SinglePrecision(Branching):
    """A model with an operation that float64 lacks."""

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == torch.float64:
            raise RuntimeError("not implemented for 'Double'")
        out: Tensor = self.layer(x)
        return out


class Broken(Branching):
    """A model that does not run at all."""

    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("no such thing")


def subject(
    factory: Callable[[int], nn.Module] = mlp, site: str | None = "layers.1:out"
) -> Subject:
    generator = torch.Generator().manual_seed(0)
    ports = [] if site is None else [SitePort(site, "element")]
    x = torch.randn(BATCH, WIDTH, generator=generator)
    y = torch.randint(0, N_CLASSES, (BATCH,), generator=generator)
    return Subject(factory, ports, x, y, optimizer="adamw", loss="cross_entropy")


def ticks(step_seconds: float = 0.001) -> Callable[[], float]:
    """A clock on which every step takes the same time, whatever the number of slots."""
    counter = count()
    return lambda: next(counter) * step_seconds


def test_a_model_that_batches_well_is_fused_with_the_most_slots_that_pay() -> None:
    found = probe(subject(), max_slots=16, clock=ticks())
    assert (found.lane, found.slots) == ("fused", 16)
    assert dict(found.trial_steps_per_second) == pytest.approx({1: 1e3, 4: 4e3, 16: 16e3})
    assert "16 slots" in found.why


def test_a_model_that_is_fastest_alone_trains_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow_pack(subject: Subject, pack: Pack, clock: object) -> float:
        return {1: 100.0, 4: 50.0}[pack.n_slots]  # 16 and 64 are not tried any more

    monkeypatch.setattr(lanes, "_trial_steps_per_second", slow_pack)
    found = probe(subject(), max_slots=64, clock=ticks())
    assert (found.lane, found.slots) == ("solo", 1)
    assert found.why.startswith("alone is fastest: 100 trial-steps/s, 50 as a pack")
    assert set(found.trial_steps_per_second) == {1, 4}


class Crowded(Branching):
    """A model of which four at once do not fit: their outputs are batched, [4, B, C] in all."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        whole = out
        while torch._C._functorch.is_batchedtensor(whole):
            whole = torch._C._functorch.get_unwrapped(whole)
        if whole.numel() > 3 * BATCH * N_CLASSES:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return out


def test_memory_that_runs_out_in_a_step_is_told_with_the_choice() -> None:
    found = probe(subject(Crowded, "layer:out"), max_slots=4, clock=ticks())
    assert (found.lane, found.slots) == ("fused", 4)
    assert found.why.endswith("; out of memory, computed 2 at once")


def test_more_slots_than_memory_holds_the_state_of_are_not_chosen() -> None:
    class Few(Subject):
        def pack(self, n_slots: int, *args: str) -> Pack:  # type: ignore[override]
            if n_slots > 4:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return super().pack(n_slots, *args)  # type: ignore[arg-type]

    plain = subject()
    few = Few(mlp, plain.ports, plain.x, plain.y, optimizer="adamw", loss="cross_entropy")
    found = probe(few, max_slots=64, clock=ticks())
    assert set(found.trial_steps_per_second) == {1, 4}


class SinglesOnly(Branching):
    """A model with an operation that half types lack."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        if torch.is_autocast_enabled("cpu") and torch._C._functorch.is_batchedtensor(x):
            raise RuntimeError("not implemented for 'BFloat16'")
        return out


@pytest.mark.parametrize(
    ("factory", "site", "lane", "why"),
    [
        (mlp, "layers.1:out", "fused", "trial-steps/s with 4 slots"),
        (SinglesOnly, None, "solo", "cannot be batched in bfloat16: not implemented"),
    ],
)
def test_mixed_precision_is_tried_as_it_will_be_trained(
    factory: Callable[[int], nn.Module], site: str | None, lane: str, why: str
) -> None:
    asked = replace(subject(factory, site), precision="bfloat16")
    found = probe(asked, max_slots=4, clock=ticks())
    assert found.lane == lane
    assert why in found.why


@pytest.mark.parametrize(
    ("factory", "why"),
    [
        (Branching, "cannot be batched"),
        (Deceptive, "a pack differs from trials alone: relative"),
    ],
)
def test_a_model_that_cannot_be_fused_says_why(
    factory: Callable[[int], nn.Module], why: str
) -> None:
    found = probe(subject(factory, None), max_slots=16, clock=ticks())
    assert (found.lane, found.slots) == ("solo", 1)
    assert found.why.startswith(why)
    assert "\n" not in found.why
    assert set(found.trial_steps_per_second) == {1}


def test_a_model_that_does_not_run_alone_either_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="no such thing"):
        probe(subject(Broken, None), max_slots=16, clock=ticks())


def test_memory_bounds_the_slots() -> None:
    needed = probe(subject(), max_slots=2, clock=ticks()).bytes_per_trial
    found = probe(subject(), max_slots=64, clock=ticks(), memory_bytes=6 * needed)
    assert (found.lane, found.slots) == ("fused", 4)
    alone = probe(subject(), max_slots=64, clock=ticks(), memory_bytes=needed)
    assert (alone.lane, alone.slots, alone.why[:7]) == ("solo", 1, "no room")


def test_bytes_per_trial_hold_state_and_activations() -> None:
    n_parameters = WIDTH * 8 + 8 + 8 * N_CLASSES + N_CLASSES
    found = probe(subject(), max_slots=2, clock=ticks())
    # Weight, what was kept of it, two moments, gradient, transient gradient; then activations.
    assert 6 * 4 * n_parameters < found.bytes_per_trial < 6 * 4 * n_parameters + 4 * BATCH * 200


def test_of_numbers_that_are_about_as_fast_the_fewest_slots_are_taken() -> None:
    assert best_slots({1: 100.0, 4: 300.0, 16: 310.0}) == 4
    assert best_slots({1: 100.0, 4: 300.0, 16: 330.0}) == 16
    assert best_slots({1: 100.0, 4: 90.0}) == 1


@pytest.mark.parametrize("kinds", [("element", "channel"), ("channel", "element")])
def test_a_site_in_two_kinds_is_probed_in_the_first(kinds: tuple[str, str]) -> None:
    two = Subject(
        mlp, [SitePort("layers.1:out", kind) for kind in kinds], subject().x, subject().y,
        optimizer="sgd", loss="cross_entropy",
    )  # fmt: skip
    assert probe(two, max_slots=1, clock=ticks()).lane == "solo"
    pack = two.pack(1, "fused")
    assert [rate > 0 for rate in pack.rows.rates[0].tolist()] == [True, False]


def test_model_that_computes_its_activations_again_is_refused() -> None:
    with pytest.raises(ValueError, match=r"runs modules again.*checkpointing is not supported"):
        probe(subject(Checkpointed, None), max_slots=4, clock=ticks())


def test_model_without_float64_trains_alone_and_says_why() -> None:
    found = probe(subject(SinglePrecision, None), max_slots=4, clock=ticks())
    assert found.lane == "solo"
    assert found.why.startswith("cannot be compared in float64: not implemented for 'Double'")
