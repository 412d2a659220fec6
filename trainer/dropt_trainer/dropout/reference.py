"""The dropout op in torch's integers: runs anywhere, and says what the other backends must equal.

Definition (unsigned 32-bit, wrapping; `mix` is the murmur3 finalizer, G the golden ratio):

    lo, hi = low and high half of the seed
    a = mix(mix(mix(lo ^ site*G) + step*G) + call*G)               per slot, once
    b = mix(mix(hi + site) ^ a)
    h(i) = mix(mix((i*G) ^ a) + b);  u(i) = h(i) >> 8              per element, 24 bits
    y(i) = u(i) >= trunc(float32(rate) * 2^24) ? x(i) * (1/(1 - rate)) : 0
    rate == 0: y = x, copied

The choice is a select, not a product: a dropped inf or NaN is 0. The scale is computed in float32
(float64 for float64 tensors) and the product rounded to the tensor's type.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

GOLDEN = 0x9E3779B9
MIX_1 = 0x85EBCA6B
MIX_2 = 0xC2B2AE35
CHUNK = 2**14  # elements hashed at once on a CPU: the scratch stays in its caches


class Slots(NamedTuple):
    """What differs between slots, [K] each: float32 rates, int64 seeds, int32 steps."""

    rate: Tensor
    seed: Tensor
    step: Tensor


class Numbers(NamedTuple):
    """What all slots of a call share: the site's key, the call, and the layout [O, K, I].

    O and I are the products of the dimensions before and behind the slots.
    """

    site: int
    call: int
    n_outer: int
    n_slots: int
    n_inner: int


def drop_in_torch(x: Tensor, slots: Slots, numbers: Numbers) -> Tensor:
    """The op on a tensor of O*K*I elements; element (o, i) of a slot is its number o*I + i."""
    layout = numbers[2:]
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    source, target = x.reshape(layout), y.view(layout)
    a, b = _slot_keys(slots, numbers)
    threshold = (slots.rate * 2.0**24).to(torch.int32).view(1, -1, 1)
    is_off = (slots.rate == 0).view(1, -1, 1)
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    scale = (1.0 / (1.0 - slots.rate.to(wide))).view(1, -1, 1)
    for o, i in _blocks(numbers, whole=x.device.type != "cpu"):
        kept = _hash(o, i, numbers.n_inner, a, b) >= threshold
        block = source[o, :, i]
        dropped = torch.where(kept, block * scale, 0.0).to(x.dtype)
        target[o, :, i] = torch.where(is_off, block, dropped)
    return y


def _slot_keys(slots: Slots, numbers: Numbers) -> tuple[Tensor, Tensor]:
    """`a` and `b` of the definition, int32 [1, K, 1] each."""
    low, high = slots.seed.to(torch.int32), (slots.seed >> 32).to(torch.int32)
    site, step = numbers.site, slots.step * _signed(GOLDEN)
    a = _mix(_mix(_mix(low ^ _signed(site * GOLDEN)) + step) + _signed(numbers.call * GOLDEN))
    b = _mix(_mix(high + _signed(site)) ^ a)
    return a.view(1, -1, 1), b.view(1, -1, 1)


def _blocks(numbers: Numbers, *, whole: bool) -> Iterator[tuple[slice, slice]]:
    """Slices of O and I that cover a tensor in blocks of about CHUNK elements, or in one."""
    n_outer, n_slots, n_inner = numbers[2:]
    inner = n_inner if whole else max(1, min(n_inner, CHUNK // n_slots))
    outer = n_outer if whole else max(1, CHUNK // (n_slots * max(1, inner)))
    for o in range(0, n_outer, max(1, outer)):
        for i in range(0, n_inner, max(1, inner)):
            yield slice(o, min(o + outer, n_outer)), slice(i, min(i + inner, n_inner))


def _hash(outer: slice, inner: slice, n_inner: int, a: Tensor, b: Tensor) -> Tensor:
    """u(i) of a block, int32 [o, K, i] in [0, 2^24)."""
    rows = torch.arange(outer.start, outer.stop, device=a.device) * n_inner
    numbers = rows.view(-1, 1, 1) + torch.arange(inner.start, inner.stop, device=a.device)
    h = numbers.to(torch.int32).mul_(_signed(GOLDEN)) ^ a
    return _shift(_mix(_mix(h).add_(b)), 8)


def _mix(h: Tensor) -> Tensor:
    """The murmur3 finalizer (Appleby, 2011) on int32, whose products wrap like unsigned ones."""
    h = (h ^ _shift(h, 16)).mul_(_signed(MIX_1))
    h = h.bitwise_xor_(_shift(h, 13)).mul_(_signed(MIX_2))
    return h.bitwise_xor_(_shift(h, 16))


def _shift(h: Tensor, bits: int) -> Tensor:
    """Right shift that brings in zeros; torch's own copies the sign."""
    return (h >> bits).bitwise_and_((1 << (32 - bits)) - 1)


def _signed(value: int) -> int:
    """The int32 with the low 32 bits of a number."""
    value &= 0xFFFFFFFF
    return value - 2**32 if value >= 2**31 else value
