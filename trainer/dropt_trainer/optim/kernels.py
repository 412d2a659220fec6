"""AdamW and SGD over the rows of a pack as Triton kernels, for float32 rows on a CUDA device.

The formulas and the order of every operation are those of `dropt.c`, with contraction off, IEEE
division and roots, and the same power by squaring. So the bits are the same where a row is not
clipped. The norm for clipping is summed in float64 in another order: there, the scale may be one
unit in the last place of float32 off.

Two launches, whatever the settings hold: a graph of the device that was captured once serves every
learning rate, penalty and refill. Without a GPU they run in Triton's interpreter.
"""
# Kernels are written in Triton's own language, whose values have no Python types.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# mypy: disallow-untyped-decorators=False, check-untyped-defs=False, warn-return-any=False

import contextlib
import subprocess
from collections.abc import Sequence
from typing import Literal

import torch
import triton  # type: ignore[import-untyped, import-not-found, unused-ignore]
import triton.language as tl  # type: ignore[import-untyped, import-not-found, unused-ignore]
from torch import Tensor
from triton.errors import (  # type: ignore[import-untyped, import-not-found, unused-ignore]
    TritonError,
)

from dropt_trainer.native import KernelUnavailable

Family = Literal["adamw", "sgd"]
FAMILIES: tuple[Family, ...] = ("adamw", "sgd")
BLOCK = 1024  # numbers that one program holds at once
PARTS = 64  # programs that share the norm of a row: fixed, so that no sum depends on the pack


def probe(device: torch.device) -> None:
    """Compile the kernels and run each once on rows of zeros.

    Raises:
        KernelUnavailable: no compiler, no driver that Triton knows, a GPU too old for it.
    """
    row, flag = torch.zeros(1, 1, device=device), torch.ones(1, dtype=torch.uint8, device=device)
    try:
        for family in FAMILIES:
            step(
                family, 1, weight=row, gradient=row, moments=(row, row),
                settings=row.new_zeros(5, 1), age=flag.to(torch.int32), penalised=flag,
                active=flag, sums=partial_sums(row),
            )  # fmt: skip
    except (OSError, RuntimeError, subprocess.SubprocessError, TritonError) as error:
        raise KernelUnavailable(" ".join(str(error).split())[:300]) from error


def partial_sums(weight: Tensor) -> Tensor:
    """Room for the partial sums of the norms, for rows [K, P]."""
    return weight.new_zeros(len(weight), PARTS, dtype=torch.float64)


def step(
    family: Family,
    n_rows: int,
    *,
    weight: Tensor,
    gradient: Tensor,
    moments: Sequence[Tensor],
    settings: Tensor,
    age: Tensor,
    penalised: Tensor,
    active: Tensor,
    sums: Tensor,
) -> None:
    """Update the first `n_rows` rows in place.

    Args:
        family: which formulas.
        n_rows: of K.
        weight: [K, P], contiguous, float32.
        gradient: [K, P], likewise; read only.
        moments: [K, P] each, likewise; two for AdamW, one for SGD.
        settings: [5, K], float32: lr, weight decay, l1, l2, clip.
        age: [K], int32, updates with this one counted.
        penalised: [P], uint8, 1 where l1 and l2 act.
        active: [K], uint8; a row with 0 is left.
        sums: see `partial_sums`.
    """
    n_slots, size = weight.shape
    shared = (weight, gradient, penalised, settings, active, sums, n_slots, size)
    options = {"n_parts": PARTS, "block": BLOCK, "enable_fp_fusion": False}
    with torch.cuda.device_of(weight) if weight.is_cuda else contextlib.nullcontext():
        _sum_squares[n_rows, PARTS](*shared, **options)
        _update[n_rows, triton.cdiv(size, BLOCK)](
            *shared, moments[0], moments[-1], age, adamw=family == "adamw", **options
        )


@triton.jit
def _penalised(g, w, decayed, l1, twice_l2):
    """Gradient of loss + l1 * sum|w| + l2 * sum w^2 where these act."""
    sign = (w > 0.0).to(tl.float32) - (w < 0.0).to(tl.float32)
    penalty = l1 * sign + twice_l2 * w
    return tl.where(decayed != 0, g + penalty, g)


@triton.jit
def _sum_squares(
    weight, gradient, penalised, settings, active, sums, n_slots, size,
    n_parts: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Each program adds up every n_parts-th block of a row that is clipped."""
    row, part = tl.program_id(0), tl.program_id(1)
    l1 = tl.load(settings + 2 * n_slots + row)
    twice_l2 = 2.0 * tl.load(settings + 3 * n_slots + row)
    clip = tl.load(settings + 4 * n_slots + row)
    total = tl.zeros((block,), tl.float64)
    if (tl.load(active + row) != 0) & (clip > 0.0) & (clip < float("inf")):
        base = row.to(tl.int64) * size
        for start in range(part * block, size, n_parts * block):
            at = start + tl.arange(0, block)
            inside = at < size
            w = tl.load(weight + base + at, mask=inside, other=0.0)
            g = tl.load(gradient + base + at, mask=inside, other=0.0)
            decayed = tl.load(penalised + at, mask=inside, other=0)
            d = _penalised(g, w, decayed, l1, twice_l2).to(tl.float64)
            total += d * d
    tl.store(sums + row * n_parts + part, tl.sum(total, axis=0))


@triton.jit
def _power(base, n):
    """A float64 to the power of an int32 of at least 0, by squaring."""
    result = tl.full((), 1.0, tl.float64)
    for _ in range(31):
        result = tl.where((n & 1) == 1, result * base, result)
        base = base * base
        n = n >> 1
    return result


@triton.jit
def _clip_scale(sums, row, clip, n_parts: tl.constexpr):
    """min(1, clip / norm) of one row; 1 where clip is not positive or infinite; NaN stays NaN."""
    norm = tl.sqrt(tl.sum(tl.load(sums + row * n_parts + tl.arange(0, n_parts)), axis=0))
    wide = clip.to(tl.float64)
    fits = norm <= wide
    scale = tl.where(fits, 1.0, wide / tl.where(fits, 1.0, norm)).to(tl.float32)
    return tl.where((clip > 0.0) & (clip < float("inf")), scale, 1.0)


@triton.jit
def _update(
    weight, gradient, penalised, settings, active, sums, n_slots, size, mean, square, age,
    adamw: tl.constexpr, n_parts: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Each program updates one block of a row."""
    row = tl.program_id(0)
    if tl.load(active + row) == 0:
        return
    lr, decay = tl.load(settings + row), tl.load(settings + n_slots + row)
    l1 = tl.load(settings + 2 * n_slots + row)
    twice_l2 = 2.0 * tl.load(settings + 3 * n_slots + row)
    scale = _clip_scale(sums, row, tl.load(settings + 4 * n_slots + row), n_parts)
    keep = (1.0 - lr.to(tl.float64) * decay.to(tl.float64)).to(tl.float32)
    at = tl.program_id(1) * block + tl.arange(0, block)
    inside = at < size
    here = row.to(tl.int64) * size + at
    w = tl.load(weight + here, mask=inside, other=0.0)
    g = tl.load(gradient + here, mask=inside, other=0.0)
    m = tl.load(mean + here, mask=inside, other=0.0)
    decayed = tl.load(penalised + at, mask=inside, other=0)
    d = scale * _penalised(g, w, decayed, l1, twice_l2)
    if adamw:
        n = tl.load(age + row)
        correction = 1.0 - _power(tl.full((), 0.9, tl.float64), n)
        step_size = (lr.to(tl.float64) / correction).to(tl.float32)
        root = tl.sqrt(1.0 - _power(tl.full((), 0.999, tl.float64), n)).to(tl.float32)
        v = tl.load(square + here, mask=inside, other=0.0)
        m = m + 0.1 * (d - m)
        v = 0.999 * v + 0.001 * d * d
        direction = tl.div_rn(m, tl.div_rn(tl.sqrt_rn(v), root) + 1e-8)
        tl.store(square + here, v, mask=inside)
    else:
        step_size = lr
        m = 0.9 * m + d
        direction = d + 0.9 * m
    tl.store(mean + here, m, mask=inside)
    tl.store(weight + here, keep * w - step_size * direction, mask=inside)
