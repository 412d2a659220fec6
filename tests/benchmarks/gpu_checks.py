"""What must hold on a GPU before its speed means anything; each check says what it found."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from tests.benchmarks.gpu_cases import Case, eager, pack_of, packed, trial
from torch import Tensor

from dropt_trainer.dropout.masks import drop
from dropt_trainer.optim import Family, Optimizer, Params

N_STEPS = 12
ROUNDING = 1e-4  # relative, after some steps of float32 in another order of sums
HALF_ROUNDING = 0.05  # the same with products in bfloat16
SITE = 12345


@dataclass(frozen=True)
class Check:
    """One finding; `passed` is None where the device cannot tell."""

    passed: bool | None
    detail: str


Checks = Mapping[str, Callable[[Case, torch.device], Check]]


def masks_are_bitwise_those_of_the_cpu(case: Case, device: torch.device) -> Check:
    """C on the CPU against Triton, forward and backward, for every type."""
    generator = torch.Generator().manual_seed(1)
    differing = []
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        for shape in ((32, 64), (3, 1000, 7), (1,)):
            x = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
            here, there = _dropped(x), _dropped(x.to(device))
            if not all(torch.equal(a, b.cpu()) for a, b in zip(here, there, strict=True)):
                differing.append(f"{dtype} {list(shape)}")
    return Check(not differing, ", ".join(differing) or "4 types, 3 shapes, with gradients")


def _dropped(x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    rate, step = torch.tensor(0.3), torch.tensor(5, dtype=torch.int32)
    seed = torch.tensor(-(2**40) + 7)
    y = drop(x, rate.to(x.device), seed.to(x.device), step.to(x.device), site=SITE)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    return y.detach(), gradient


def optimizer_is_bitwise_that_of_the_cpu(case: Case, device: torch.device) -> Check:
    """C on the CPU against Triton; a clipped row may differ by rounding of its scale."""
    worst, equal = 0.0, True
    families: tuple[Family, ...] = ("adamw", "sgd")
    for family in families:
        here, there = (_updated(family, torch.device(d)) for d in ("cpu", device))
        equal &= torch.equal(here[:2], there[:2])
        worst = max(worst, float(((here[2] - there[2]) / here[2]).abs().max()))
    return Check(equal and worst < ROUNDING, f"clipped row: relative {worst:.1e}")


def _updated(family: Family, device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    size = 70_001
    weight, gradient = (torch.randn(3, size, generator=generator).to(device) for _ in range(2))
    age = torch.zeros(3, dtype=torch.int32, device=device)
    penalised = torch.rand(size, generator=generator) > 0.5
    optimizer = Optimizer(
        family, weight=weight, gradient=gradient, age=age, penalised=penalised.to(device)
    )
    optimizer.start(0, Params(1e-3))
    optimizer.start(1, Params(1e-2, 0.1, 0.01, 0.02))
    optimizer.start(2, Params(1e-2, clip=1.0))
    for _ in range(N_STEPS):
        age += 1
        optimizer.step(3)
    return weight.cpu()


def graph_gives_the_losses_of_eager(case: Case, device: torch.device) -> Check:
    """A pack with its graphs against one without, on the same trials and batches."""
    plain, graphed = pack_of(case, device, 4), pack_of(case, device, 4)
    plain.graphs = None
    a, b = packed(case, plain)(N_STEPS), packed(case, graphed)(N_STEPS)
    if graphed.refusal:
        return Check(False, graphed.refusal)
    worst = float(((a - b) / a).abs().max())
    return Check(worst < ROUNDING, f"relative {worst:.1e} after {N_STEPS} steps")


def pack_gives_the_losses_of_the_loop(case: Case, device: torch.device) -> Check:
    """Without dropout, the first trial of a pack against the loop by hand."""
    a = float(eager(case, device, rate=0.0)(N_STEPS))
    b = float(packed(case, pack_of(case, device, 4, rate=0.0))(N_STEPS)[0])
    worst = abs(a - b) / abs(a)
    return Check(worst < 10 * ROUNDING, f"relative {worst:.1e} after {N_STEPS} steps")


def refills_need_no_capture(case: Case, device: torch.device) -> Check:
    """A slot is refilled at every other step; captures are counted."""
    pack = pack_of(case, device, 4)
    steps = packed(case, pack)
    for number in range(N_STEPS):
        steps(2)
        pack.clear(number % 4)
        pack.load(number % 4, trial(pack, 100 + number, rate=0.1 * (number % 5)))
    if pack.graphs is None:
        return Check(None, "no graphs on this device")
    found = f"{pack.graphs.n_captures} captures, {N_STEPS} refills"
    return Check(pack.graphs.n_captures == 1, pack.refusal or found)


def host_never_waits_in_a_step(case: Case, device: torch.device) -> Check:
    """CUDA's own watch over synchronising calls, around steps without graphs."""
    if device.type != "cuda":
        return Check(None, "only CUDA tells")
    pack = pack_of(case, device, 4)
    pack.graphs = None
    steps = packed(case, pack)
    steps(2)
    torch.cuda.set_sync_debug_mode("error")
    try:
        steps(2)
    except RuntimeError as error:
        return Check(False, str(error).partition("\n")[0])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return Check(True, "2 steps")


def mixed_precision_is_close(case: Case, device: torch.device) -> Check:
    """Products in bfloat16 against float32, the same trials."""
    a = packed(case, pack_of(case, device, 2))(N_STEPS)
    b = packed(case, pack_of(case, device, 2, precision="bfloat16"))(N_STEPS)
    worst = float(((a - b) / a).abs().max())
    return Check(worst < HALF_ROUNDING, f"relative {worst:.1e} after {N_STEPS} steps")


ONCE: Checks = {
    "masks: C = Triton": masks_are_bitwise_those_of_the_cpu,
    "optimizer: C = Triton": optimizer_is_bitwise_that_of_the_cpu,
}
FOR_EACH_CASE: Checks = {
    "graph = eager": graph_gives_the_losses_of_eager,
    "pack = loop by hand": pack_gives_the_losses_of_the_loop,
    "no recapture": refills_need_no_capture,
    "host never waits": host_never_waits_in_a_step,
    "bfloat16 is close": mixed_precision_is_close,
}
