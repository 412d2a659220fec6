"""Recorded operations against the function itself, run again on other numbers."""

import sys
from collections.abc import Callable
from subprocess import run

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from dropt_trainer.dropout.masks import drop
from dropt_trainer.fused.replay import Recording

Function = Callable[[Tensor, Tensor], Tensor]


def numbers(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Ran:
    """A function of x and a weight, recorded with its gradient."""

    def __init__(self, function: Function) -> None:
        self.x, self.weight = numbers(0, 6, 4), numbers(1, 5, 4).requires_grad_()
        self.function = function
        self.recording = Recording(self._compute, [self.x, self.weight])

    def _compute(self) -> list[Tensor]:
        value = self.function(self.x, self.weight)
        (gradient,) = torch.autograd.grad(value.square().sum(), self.weight)
        return [value.detach(), gradient]

    def agrees_on_new_numbers(self) -> bool:
        """Whether the recording and the function give the same bits."""
        with torch.no_grad():
            self.x.copy_(numbers(2, 6, 4))
            self.weight.copy_(numbers(3, 5, 4))
        self.recording.run()
        return all(map(torch.equal, self.recording.results, self._compute()))


def in_place(x: Tensor, weight: Tensor) -> Tensor:
    return x.matmul(weight.t()).add_(1.0).mul_(2.0).relu_()


def with_constants(x: Tensor, weight: Tensor) -> Tensor:
    filled = torch.zeros(6, 5)
    filled[1:3] += x.matmul(weight.t())[1:3]
    return filled + torch.arange(5.0)


def with_several_results(x: Tensor, weight: Tensor) -> Tensor:
    values, places = x.matmul(weight.t()).max(dim=1)
    return torch.cat(
        [values, x.matmul(weight.t()).sort(dim=1)[0].gather(1, places[:, None])[:, 0]]
    )


def with_layers(x: Tensor, weight: Tensor) -> Tensor:
    wide = functional.layer_norm(functional.linear(x, weight), (5,))
    return functional.conv1d(wide[:, None], weight[:1, None, :3]).softmax(-1)


def with_split_views(x: Tensor, weight: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=0)
    return torch.stack([first, second]).transpose(0, 1).reshape(6, 4) @ weight.t()


def with_scalars(x: Tensor, weight: Tensor) -> Tensor:
    product = torch.ops.aten.mul.Scalar(x.matmul(weight.t()), 0.3)
    out: Tensor = torch.ops.aten.div.Scalar(product, 3)
    return out.square().mean(1)


def with_masks(x: Tensor, weight: Tensor) -> Tensor:
    y = functional.linear(x, weight)
    return drop(y, torch.tensor(0.5), torch.tensor(7), torch.tensor(3, dtype=torch.int32), site=1)


@pytest.mark.parametrize(
    "function",
    [
        in_place,
        with_constants,
        with_several_results,
        with_layers,
        with_split_views,
        with_scalars,
        with_masks,
    ],
)
def test_a_recording_gives_the_same_bits_on_new_numbers(function: Function) -> None:
    assert Ran(function).agrees_on_new_numbers()


@pytest.mark.parametrize(
    "function",
    [
        lambda x, w: x.matmul(w.t()) * (2.0 if x.sum() > 0 else 1.0),
        lambda x, w: x.matmul(w.t()) * float(x.detach().abs().max()),
        lambda x, w: x[x[:, 0] > 0] @ w.t(),
    ],
    ids=["a branch", "a number read", "a shape"],
)
def test_a_function_that_looks_at_numbers_is_refused(function: Function) -> None:
    assert Ran(function).recording.refusal


def test_masks_follow_rate_seed_and_step_of_the_moment() -> None:
    x, y = torch.ones(400), torch.empty(400)
    rate, seed = torch.tensor(0.5), torch.tensor(1)
    step = torch.tensor(0, dtype=torch.int32)

    def mask() -> list[Tensor]:
        return [y.copy_(drop(x, rate, seed, step, site=1))]

    recording = Recording(mask, [x, y, rate, seed, step])
    for now_rate, now_seed, now_step in ((0.5, 1, 1), (0.5, 2, 1), (0.25, 2, 1), (0.0, 2, 1)):
        rate.fill_(now_rate)
        seed.fill_(now_seed)
        step.fill_(now_step)
        recording.run()
        assert torch.equal(y, drop(x, rate, seed, step, site=1))


def test_random_numbers_are_drawn_again_in_each_run() -> None:
    y = torch.zeros(8)

    def draw() -> list[Tensor]:
        return [y.copy_(torch.rand(8))]

    recording = Recording(draw, [y])
    seen = set()
    for _ in range(3):
        recording.run()
        seen.add(tuple(y.tolist()))
    assert len(seen) == 3


def test_what_depends_on_constants_alone_is_not_run_again() -> None:
    constant, y = numbers(0, 50, 50), torch.zeros(50, 50)

    def add() -> list[Tensor]:
        return [y.add_(constant @ constant @ constant)]

    recording = Recording(add, [y])
    assert len(recording._bound) == 1


def test_what_looks_at_the_form_of_a_tensor_alone_is_not_run_again() -> None:
    x, y = numbers(0, 6), torch.zeros(6)

    def add() -> list[Tensor]:
        return [y.add_(torch.ones_like(x) * 2.0)]

    recording = Recording(add, [x, y])
    assert len(recording._bound) == 1


def test_numbers_put_into_a_new_tensor_are_put_there_in_each_run() -> None:
    x, y = numbers(0, 6), torch.zeros(6)

    def add() -> list[Tensor]:
        filled = torch.ones_like(x)
        filled += x
        return [y.copy_(filled)]

    recording = Recording(add, [x, y])
    for _ in range(3):
        x.add_(1.0)
        recording.run()
        assert torch.equal(y, x + 1.0)


def test_what_nobody_reads_is_not_run_again() -> None:
    x, y = numbers(0, 6), torch.zeros(6)

    def copy() -> list[Tensor]:
        (x * 2.0).sum()
        return [y.copy_(x)]

    assert len(Recording(copy, [x, y])._bound) == 1


def test_matrices_that_lie_turned_are_copied_number_by_number_the_same() -> None:
    for rows, columns in ((1, 1), (3, 5), (4, 8), (7, 4), (33, 18)):
        source = numbers(0, 2, columns, rows)
        flat, plain = torch.zeros(2, rows * columns + 3), torch.zeros(2, 3)
        target = flat[:, 3:].view(2, rows, columns)

        def copy(
            target: Tensor = target, source: Tensor = source, plain: Tensor = plain
        ) -> list[Tensor]:
            torch._foreach_copy_([target, plain], [source.mT, source[:, 0, :1].expand(2, 3)])
            return [target, plain]

        recording = Recording(copy, [source, target, plain])
        source.neg_()
        flat.zero_()
        recording.run()
        assert torch.equal(target, source.mT)
        assert torch.equal(plain, source[:, 0, :1].expand(2, 3))
        assert not flat[:, :3].any()


@pytest.mark.slow
def test_recording_does_not_import_the_compiler() -> None:
    code = (
        "import sys, torch; from dropt_trainer.fused.replay import Recording; x = torch.ones(3);"
        "Recording(lambda: [x.add_(1)], [x]); assert 'torch._dynamo' not in sys.modules"
    )
    run([sys.executable, "-c", code], check=True)
