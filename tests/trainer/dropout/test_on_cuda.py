"""The Triton kernel: run as it can be here, and compiled for a GPU that need not be here."""

import json
import os
import subprocess
import sys

import pytest
import torch
from tests.trainer.dropout.definition import bits, normal, slot
from torch import Tensor

from dropt_trainer.dropout.masks import TRITON, bind_drop, drop, site_key
from dropt_trainer.dropout.reference import Numbers, Slots, drop_in_torch
from dropt_trainer.native import load_triton

pytest.importorskip("triton", reason="Triton is not installed")
from dropt_trainer.dropout import on_cuda

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # the latter: see tests/trainer/conftest

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
LAYOUTS = ((1, 4, 2000), (3, 4, 300), (5, 4, 1), (1, 4, 1))  # O, K, I
SLOTS = Slots(
    torch.tensor([[0.0, 9], [2.0**-24, 9], [0.3, 9], [0.999, 9]])[:, 0],  # a column: stride 2
    torch.tensor([1, 99, -7, 2**45 + 3]),
    torch.tensor([0, 5, 9, 2**31 - 1], dtype=torch.int32),
)
SITE, CALL = site_key("layers.1:out"), 2**16 + 1


def inputs() -> list[tuple[Tensor, Numbers]]:
    """Every type in every layout, with numbers that are none or have no sign to lose."""
    special = torch.tensor([-0.0, float("inf"), float("nan"), 1e-7])
    made = []
    for dtype in DTYPES:
        for o, k, i in LAYOUTS:
            x = torch.cat([special, normal(o * k * i)])[: o * k * i]
            made.append((x.to(dtype), Numbers(SITE, CALL, o, k, i)))
    return made


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")  # it shall wrap
@pytest.mark.parametrize("max_narrow", [2**31 - 1024, 0], ids=["32 bits", "64 bits"])
def test_the_kernel_has_the_bits_of_torch(
    max_narrow: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU where there is one, else in Triton's interpreter; with indices of either width."""
    monkeypatch.setattr(on_cuda, "MAX_NARROW", max_narrow)
    slots = Slots(*(t.to(DEVICE) for t in SLOTS))
    for x, numbers in inputs():
        result = on_cuda.drop_in_triton(x.to(DEVICE), slots, numbers).cpu()
        expected = drop_in_torch(x, SLOTS, numbers)
        both_nan = result.isnan() & expected.isnan()
        assert bool(((bits(result) == bits(expected)) | both_nan).all())


COMPILED = """
import json, re, sys
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from dropt_trainer.dropout import on_cuda
kernel, found = on_cuda._drop, {}
for name, flag in {"fp32": "", "fp64": "is_double", "bf16": "is_bfloat16", "fp16": ""}.items():
    types = dict.fromkeys(kernel.arg_names, "i32")
    types |= {"x": f"*{name}", "y": f"*{name}", "rate": "*fp32", "seed": "*i64", "step": "*i32"}
    fixed = {which: which == flag for which in ("is_wide", "is_double", "is_bfloat16")}
    fixed["block"] = on_cuda.BLOCK
    types |= dict.fromkeys(fixed, "constexpr")
    source = ASTSource(kernel, types, constexprs=fixed)
    code = compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"]
    pattern = r"(?:add|sub|mul|fma|div|rcp|ex2)[.][a-z.]*f(?:16|32|64)"
    found[name] = sorted(set(re.findall(pattern, code)))
json.dump(found, sys.stdout)
"""


@pytest.mark.slow
def test_compiled_for_a_gpu_every_operation_on_floats_is_exactly_rounded() -> None:
    """The code of an H100, compiled without one: IEEE division, no fused or approximate
    operation, and none that flushes small numbers to zero."""
    environment = {name: v for name, v in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", COMPILED]
    run = subprocess.run(command, check=True, env=environment, capture_output=True)
    narrow = ["div.rn.f32", "mul.f32", "sub.f32"]
    assert json.loads(run.stdout) == {
        "fp32": narrow,
        "bf16": narrow,
        "fp16": narrow,
        "fp64": ["div.rn.f64", "mul.f32", "mul.f64", "sub.f64"],  # mul.f32: rate * 2^24
    }


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_gpu_has_the_masks_of_the_cpu_forward_and_backward(dtype: torch.dtype) -> None:
    assert load_triton(TRITON, torch.device("cuda")) is not None
    x, gradient = normal(64, 129).to(dtype), normal(64, 129, seed=1).to(dtype)
    found = []
    for device in ("cpu", "cuda"):
        leaf = x.to(device).requires_grad_()
        y = drop(leaf, *(t.to(device) for t in slot(0.3, 2**40 + 5, 3)), site=SITE, call=1)
        found.append((y, torch.autograd.grad(y, leaf, gradient.to(device))[0]))
    for on_cpu, on_gpu in zip(*found, strict=True):
        assert torch.equal(bits(on_cpu), bits(on_gpu.cpu()))


@pytest.mark.gpu
def test_a_graph_of_the_gpu_follows_the_step() -> None:
    """The bound kernel reads rate, seed and step at each replay."""
    x = normal(3, 4, 50).cuda()
    y, slots = torch.empty_like(x), Slots(*(t.cuda() for t in SLOTS))
    numbers = Numbers(SITE, 0, 3, 4, 50)
    bound = bind_drop(y, x, *slots, *numbers)
    assert bound is not None
    bound()
    graph = torch.cuda.CUDAGraph()
    slots.step.zero_()
    with torch.cuda.graph(graph):
        bound()
    for step in range(3):
        slots.step.fill_(step)
        graph.replay()
        expected = drop_in_torch(x.cpu(), Slots(*(t.cpu() for t in slots)), numbers)
        assert torch.equal(y.cpu(), expected)
