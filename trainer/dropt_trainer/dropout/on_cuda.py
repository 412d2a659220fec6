"""The dropout op as a Triton kernel, for CUDA tensors: one launch, no scratch, the bits of C.

Triton is an optional package, which PyTorch brings along where it is built for CUDA; so
`masks` imports this module at the first mask on a GPU. With TRITON_INTERPRET=1
in the environment Triton runs the kernel in numpy, on any machine.
"""
# Kernels are written in Triton's own language, whose values have no Python types.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# mypy: disallow-untyped-decorators=False, check-untyped-defs=False, warn-return-any=False

import contextlib
import subprocess

import torch
import triton  # type: ignore[import-untyped, import-not-found, unused-ignore]
import triton.language as tl  # type: ignore[import-untyped, import-not-found, unused-ignore]
from torch import Tensor
from triton.errors import (  # type: ignore[import-untyped, import-not-found, unused-ignore]
    TritonError,
)

from dropt_trainer.dropout.reference import Numbers, Slots
from dropt_trainer.native import KernelUnavailable

GOLDEN = tl.constexpr(0x9E3779B9)
BLOCK = 1024  # elements of one program: 8 for each of 128 threads
MAX_NARROW = 2**31 - BLOCK  # elements whose numbers fit 32 bits, in which a GPU divides faster


def probe(device: torch.device) -> None:
    """Compile the kernel and run it once; no argument of a later call can make it fail.

    Raises:
        KernelUnavailable: no compiler, no driver that Triton knows, a GPU too old for it.
    """
    one = torch.ones(1, device=device)
    slots = Slots(one / 2, one.to(torch.int64), one.to(torch.int32))
    try:
        drop_into(torch.empty_like(one), one, slots, Numbers(0, 0, 1, 1, 1))
    except (OSError, RuntimeError, subprocess.SubprocessError, TritonError) as error:
        raise KernelUnavailable(" ".join(str(error).split())[:300]) from error


def drop_in_triton(x: Tensor, slots: Slots, numbers: Numbers) -> Tensor:
    """The op on a tensor of O*K*I elements, see `reference.drop_in_torch`."""
    x, slots = x.contiguous(), Slots(slots.rate, slots.seed.contiguous(), slots.step.contiguous())
    y = torch.empty_like(x)
    drop_into(y, x, slots, numbers)
    return y


def drop_into(y: Tensor, x: Tensor, slots: Slots, numbers: Numbers) -> None:
    """The same, into a tensor that is there; all but the rates are contiguous."""
    n, (rate, seed, step) = x.numel(), slots
    if n == 0:
        return
    stride = rate.stride(0) if rate.ndim else 0
    with torch.cuda.device_of(x) if x.is_cuda else contextlib.nullcontext():
        _drop[(triton.cdiv(n, BLOCK),)](
            x, y, rate, seed, step, stride, numbers.site, numbers.call, numbers.n_slots,
            numbers.n_inner, n,
            is_wide=n > MAX_NARROW, is_double=x.dtype == torch.float64,
            is_bfloat16=x.dtype == torch.bfloat16, block=BLOCK,
        )  # fmt: skip


@triton.jit
def _mix(h):
    """The murmur3 finalizer (Appleby, 2011) on uint32."""
    h = (h ^ (h >> 16)) * 0x85EBCA6B
    h = (h ^ (h >> 13)) * 0xC2B2AE35
    return h ^ (h >> 16)


@triton.jit
def _to_bfloat16(wide):
    """To the nearest, ties to even, in integers: Triton's interpreter cuts the bits off."""
    bits = wide.to(tl.uint32, bitcast=True)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    quiet = (bits >> 16) | 0x40  # rounding could carry a NaN into another number
    bits = tl.where((bits & 0x7FFFFFFF) > 0x7F800000, quiet, rounded)
    return bits.to(tl.uint16).to(tl.bfloat16, bitcast=True)


@triton.jit(do_not_specialize=["site", "call"])
def _drop(
    x, y, rate, seed, step, stride, site, call, n_slots, n_inner, n,
    is_wide: tl.constexpr, is_double: tl.constexpr, is_bfloat16: tl.constexpr,
    block: tl.constexpr,
):  # fmt: skip
    """One block of y, as `reference.py` defines it; no sum follows a product of floats."""
    program = tl.program_id(0)
    if is_wide:
        program = program.to(tl.int64)
    at = program * block + tl.arange(0, block)
    inside = at < n
    slot = (at // n_inner) % n_slots
    number = (at // n_inner // n_slots * n_inner + at % n_inner).to(tl.uint32)

    p = tl.load(rate + slot * stride, mask=inside, other=0.0)
    key = tl.load(seed + slot, mask=inside, other=0)
    time = tl.load(step + slot, mask=inside, other=0).to(tl.uint32)
    site = site.to(tl.uint32)
    a = _mix(_mix(key.to(tl.uint32) ^ (site * GOLDEN)) + time * GOLDEN)
    a = _mix(a + call.to(tl.uint32) * GOLDEN)
    b = _mix(_mix((key >> 32).to(tl.uint32) + site) ^ a)
    u = _mix(_mix((number * GOLDEN) ^ a) + b) >> 8
    kept = u.to(tl.int32) >= (p * 16777216.0).to(tl.int32)

    value = tl.load(x + at, mask=inside, other=0.0)
    if is_double:
        dropped = tl.where(kept, value * (1.0 / (1.0 - p.to(tl.float64))), 0.0)
    else:  # a plain division of float32 may be off by two units
        dropped = tl.where(kept, value.to(tl.float32) * tl.div_rn(1.0, 1.0 - p), 0.0)
        dropped = _to_bfloat16(dropped) if is_bfloat16 else dropped.to(value.dtype)
    tl.store(y + at, tl.where(p == 0.0, value, dropped), mask=inside)
