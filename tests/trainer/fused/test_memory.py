"""Out of memory: a model that raises what CUDA raises, above a number of rows."""

import logging
from collections.abc import Callable

import pytest
import torch
from tests.trainer.fused.test_pack import CNN_BN, MLP, PENALISED, Case
from torch import Tensor, nn

from dropt_trainer.fused.memory import Chunked, InParts
from dropt_trainer.fused.pack import Pack
from dropt_trainer.fused.rows import Rows, Window
from dropt_trainer.models import build

SLOTS = 8


def small_memory(function: InParts, room: int) -> None:
    """Let the part run out of memory above so many rows, after it has changed the buffers."""
    compute = function._function

    def run(window: Window, x: Tensor, y: Tensor) -> object:
        results = compute(window, x, y)
        if len(y) > room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB\nmore")
        return results

    function._function = run  # type: ignore[assignment]


def filled(case: Case) -> Pack:
    pack = case.pack(SLOTS)
    for slot in range(SLOTS):
        pack.load(slot, case.trial(slot, PENALISED))
    return pack


def batch(n_rows: int, step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(n_rows, 8, 6, 6, generator=generator, dtype=torch.float64)
    return x, torch.randint(0, 3, (n_rows, 8), generator=generator)


@pytest.mark.parametrize("case", [MLP, CNN_BN])
@pytest.mark.parametrize(("room", "width"), [(7, 4), (3, 2), (1, 1)])
def test_a_pack_without_memory_goes_on_in_halves_as_if_nothing_had_happened(
    case: Case, room: int, width: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    plain, pack = filled(case), filled(case)
    small_memory(pack._parts, room)
    for step in range(4):
        x, y = batch(SLOTS, step)
        torch.testing.assert_close(pack.step(x, y), plain.step(x, y), rtol=1e-12, atol=0.0)
    for slot in range(SLOTS):
        ours, theirs = pack.state(slot), plain.state(slot)
        torch.testing.assert_close(ours.model, theirs.model, rtol=1e-10, atol=1e-12)
        assert ours.step == theirs.step == 4
    assert pack.width == width
    told = [r for r in caplog.records if r.message == "pack.out_of_memory"]
    assert len(told) == {4: 1, 2: 2, 1: 3}[width]
    assert told[0].__dict__["why"] == "CUDA out of memory. Tried to allocate 2.00 GiB"


def test_a_pack_that_has_shrunk_and_runs_out_of_memory_takes_half_of_what_is_left() -> None:
    pack = filled(MLP)
    for slot in (0, 1, 2):
        pack.clear(slot)
    small_memory(pack._parts, 4)
    losses = pack.step(*batch(5, 0))
    assert losses.shape == (5,)
    assert pack.width == 2


def test_one_row_that_does_not_fit_is_an_error() -> None:
    pack = filled(MLP)
    small_memory(pack._parts, 0)
    with pytest.raises(torch.OutOfMemoryError):
        pack.step(*batch(SLOTS, 0))
    assert pack.width == 1


def test_batch_norm_is_as_before_when_the_memory_of_a_step_runs_out() -> None:
    model = build("cnn", CNN_BN.args, input_shape=(6, 6), n_outputs=3, seed=0)
    rows = Rows(model, n_slots=2, n_columns=0)
    for row in range(2):
        rows.write(row, model)
    before = {name: buffer.clone() for name, buffer in rows.buffers.items()}

    def function(window: Window, x: object, y: Tensor) -> list[Tensor]:
        for buffer in window.buffers.values():
            buffer.add_(1)
        raise torch.OutOfMemoryError("no room")

    with pytest.raises(torch.OutOfMemoryError):
        InParts(function, 2)(rows.window(2), torch.zeros(2, 4), torch.zeros(2, 4))
    for name, buffer in rows.buffers.items():
        assert torch.equal(buffer, before[name])


def examples_up_to(room: int, sizes: list[int]) -> Callable[[Tensor], Tensor]:
    """Doubles [B] to [2, B], if there are not too many."""

    def function(x: Tensor) -> Tensor:
        sizes.append(len(x))
        if len(x) > room:
            raise torch.OutOfMemoryError("no room")
        return torch.stack([x, 2 * x])

    return function


def test_examples_are_evaluated_in_chunks_that_fit_from_there_on() -> None:
    chunked, sizes, x = Chunked(), list[int](), torch.arange(10.0)
    function = examples_up_to(3, sizes)
    for _ in range(2):
        output = chunked.run(function, x)  # type: ignore[arg-type]
        assert torch.equal(output, torch.stack([x, 2 * x]))
    assert sizes == [10, 5, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2]
    assert chunked.most == 2


def test_one_example_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        Chunked().run(examples_up_to(0, []), torch.arange(3.0))  # type: ignore[arg-type]


class Wide(nn.Module):
    """Raises in evaluation what CUDA raises, above a number of examples."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        if not self.training and len(x) > 4:
            raise torch.OutOfMemoryError("no room")
        y: Tensor = self.model(x)
        return y


def test_predictions_in_chunks_are_those_of_all_examples_at_once() -> None:
    def factory(seed: int) -> nn.Module:
        return Wide(MLP.factory(seed))

    pack = Pack(factory, [], slots=2, optimizer="sgd", loss="cross_entropy", precision="float64")
    plain = Pack(
        MLP.factory, [], slots=2, optimizer="sgd", loss="cross_entropy", precision="float64"
    )
    for each in (pack, plain):
        for slot in range(2):
            each.load(slot, Case("", {}, {}).trial(slot))
    x = batch(1, 0)[0][0]
    ours, theirs = (each.predict(each.window(), x) for each in (pack, plain))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
