"""The Triton optimizer against the C one: on a GPU where there is one, else in the interpreter."""

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from dropt_trainer.native import load_library
from dropt_trainer.optim import Family, Optimizer, Params

pytest.importorskip("triton")
from dropt_trainer.optim import kernels

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SIZE = 210  # four blocks of 64, the last one ragged, for two programs
TRIALS = (
    Params(lr=0.01),
    Params(lr=0.003, weight_decay=0.1, l1=0.01, l2=0.03),
    Params(lr=0.005, weight_decay=0.02, l1=0.002, l2=0.001, clip=1.5),
    Params(lr=0.01, clip=1e6),
)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter takes a millisecond for each program."""
    monkeypatch.setattr(kernels, "BLOCK", 64)
    monkeypatch.setattr(kernels, "PARTS", 2)


def rows(family: Family) -> Optimizer:
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(len(TRIALS), SIZE, generator=generator)
    optimizer = Optimizer(
        family, weight=weight, gradient=torch.zeros_like(weight),
        age=torch.zeros(len(TRIALS), dtype=torch.int32),
        penalised=torch.rand(SIZE, generator=generator) > 0.3,
    )  # fmt: skip
    for row, params in enumerate(TRIALS):
        optimizer.start(row, params)
    return optimizer


def step_in_triton(optimizer: Optimizer, n_rows: int) -> None:
    weight, gradient, age = optimizer.weight, optimizer.gradient, optimizer.age
    there = [t.to(DEVICE) for t in (weight, gradient, *optimizer.moments)]
    kernels.step(
        optimizer.family, n_rows, weight=there[0], gradient=there[1], moments=there[2:],
        settings=optimizer._settings.to(DEVICE), age=age.to(DEVICE),
        penalised=optimizer._penalised.to(DEVICE), active=optimizer._active.to(DEVICE),
        sums=kernels.partial_sums(there[0]),
    )  # fmt: skip
    for home, away in zip((weight, gradient, *optimizer.moments), there, strict=True):
        home.copy_(away)


def give_gradients(optimizer: Optimizer, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    optimizer.gradient.copy_(torch.randn(len(TRIALS), SIZE, generator=generator))
    optimizer.age += 1


def state(optimizer: Optimizer) -> Tensor:
    """[K, 2 or 3, P]."""
    return torch.stack([optimizer.weight, *optimizer.moments], dim=1)


@pytest.mark.skipif(load_library() is None, reason="no C compiler to compare with")
@pytest.mark.parametrize("family", ["adamw", "sgd"])
def test_triton_gives_the_bits_of_c(family: Family) -> None:
    in_c, in_triton = rows(family), rows(family)
    for step in range(3):
        for optimizer in (in_c, in_triton):
            give_gradients(optimizer, step)
        in_c.step(len(TRIALS))
        step_in_triton(in_triton, len(TRIALS))
    ours, theirs = state(in_triton), state(in_c)
    assert torch.equal(ours[[0, 1, 3]], theirs[[0, 1, 3]])
    # Clipped: the norm is summed in another order, in float64; the scale may differ by one bit.
    torch.testing.assert_close(ours[2], theirs[2], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("family", ["adamw", "sgd"])
def test_rows_without_a_trial_and_rows_behind_are_left_alone(family: Family) -> None:
    optimizer = rows(family)
    optimizer.stop(1)
    give_gradients(optimizer, 0)
    before = state(optimizer)
    step_in_triton(optimizer, 3)
    assert [torch.equal(a, b) for a, b in zip(state(optimizer), before, strict=True)] == [
        False, True, False, True,
    ]  # fmt: skip


def test_a_clipped_row_without_a_gradient_stays_as_it_is() -> None:
    optimizer = rows("sgd")
    optimizer.start(2, Params(lr=0.1, clip=1.0))
    optimizer.age += 1
    before = state(optimizer)[2]
    step_in_triton(optimizer, len(TRIALS))
    assert torch.equal(state(optimizer)[2], before)


def test_a_row_that_is_not_finite_does_not_touch_its_neighbours() -> None:
    calm, wild = rows("adamw"), rows("adamw")
    for optimizer in (calm, wild):
        give_gradients(optimizer, 0)
    wild.gradient[2, 5] = float("nan")
    for optimizer in (calm, wild):
        step_in_triton(optimizer, len(TRIALS))
    assert bool(wild.weight[2].isnan().all())  # through the norm
    others = [0, 1, 3]
    assert torch.equal(state(wild)[others], state(calm)[others])


def test_the_probe_runs_both_families() -> None:
    kernels.probe(torch.device(DEVICE))


COMPILE = """
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from dropt_trainer.optim import kernels

rows = dict.fromkeys(("weight", "gradient", "settings", "mean", "square"), "*fp32")
rows |= {"penalised": "*u8", "active": "*u8", "sums": "*fp64", "age": "*i32"}
rows |= {"n_slots": "i32", "size": "i32"}
for kernel, own in ((kernels._sum_squares, {}), (kernels._update, {"adamw": True}),
                    (kernels._update, {"adamw": False})):
    constants = {"n_parts": kernels.PARTS, "block": kernels.BLOCK, **own}
    signature = {name: rows.get(name, "constexpr") for name in kernel.arg_names}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
    options = {"enable_fp_fusion": False}
    ptx = compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["ptx"]
    words = [line.split()[0] for line in ptx.splitlines() if line.strip()]
    print(kernel.__name__, sorted({w for w in words if w.startswith(("fma", "div", "sqrt"))}))
"""


@pytest.mark.slow
def test_kernels_compile_for_a_gpu_without_contraction_and_with_ieee_division() -> None:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "_sum_squares []",
        "_update ['div.rn.f32', 'div.rn.f64', 'sqrt.rn.f32', 'sqrt.rn.f64']",
        "_update ['div.rn.f64', 'sqrt.rn.f64']",
    ]
