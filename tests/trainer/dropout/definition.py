"""The definition of the masks, written a second time in numpy, and what the tests feed to it."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Words = npt.NDArray[np.uint32]
WHOLE_NUMBERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # by their bytes


def numpy_mix(h: Words) -> Words:
    h = h ^ (h >> np.uint32(16))
    h = h * np.uint32(0x85EBCA6B)
    h = h ^ (h >> np.uint32(13))
    h = h * np.uint32(0xC2B2AE35)
    mixed: Words = h ^ (h >> np.uint32(16))
    return mixed


def numpy_hash(n: int, seed: int, step: int, site: int, call: int) -> Words:
    """u(i) of the first n elements, 24 bits each."""

    def u32(value: int) -> Words:
        return np.array([value % 2**32], dtype=np.uint32)

    g = np.uint32(0x9E3779B9)
    lo, hi = u32(seed), u32((seed % 2**64) >> 32)
    a = numpy_mix(numpy_mix(numpy_mix(lo ^ (u32(site) * g)) + u32(step) * g) + u32(call) * g)
    b = numpy_mix(numpy_mix(hi + u32(site)) ^ a)
    i = np.arange(n, dtype=np.uint32)
    u: Words = numpy_mix(numpy_mix((i * g) ^ a) + b) >> np.uint32(8)
    return u


def numpy_kept(
    n: int, rate: float, seed: int, step: int, site: int, call: int
) -> npt.NDArray[np.bool_]:
    """Which of n elements are kept."""
    threshold = np.uint32(int(np.float32(rate) * np.float32(2**24)))
    kept: npt.NDArray[np.bool_] = numpy_hash(n, seed, step, site, call) >= threshold
    return kept


def numpy_drop(
    x: npt.NDArray[Any], rate: float, seed: int, step: int, site: int, call: int
) -> npt.NDArray[Any]:
    """Of float16, float32 or float64; numpy rounds to the nearest, ties to even."""
    if rate == 0:
        return x.copy()
    kind: Any = np.float64 if x.dtype == np.float64 else np.float32  # Any: a type of numpy's
    scale = kind(1) / (kind(1) - kind(np.float32(rate)))
    kept = numpy_kept(x.size, rate, seed, step, site, call).reshape(x.shape)
    dropped: npt.NDArray[Any] = np.where(kept, x.astype(kind) * scale, kind(0)).astype(x.dtype)
    return dropped


def slot(rate: float, seed: int, step: int) -> tuple[Tensor, Tensor, Tensor]:
    return (
        torch.tensor(rate, dtype=torch.float32),
        torch.tensor(seed, dtype=torch.int64),
        torch.tensor(step, dtype=torch.int32),
    )


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def bits(t: Tensor) -> Tensor:
    """The tensor's bits: equal for NaN, different for 0.0 and -0.0."""
    return t.detach().contiguous().view(WHOLE_NUMBERS[t.itemsize])
