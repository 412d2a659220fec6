"""Kinds of dropout: which parts of a tensor fall together, all of them on top of the one op.

Every kind keeps the mean of a tensor (`alpha`: mean and variance of a standardised one) and is the
identity, bit for bit, at rate 0. Shapes are those of one trial; where no `batch_dim` says
otherwise, its B examples come first.
"""

import torch
from torch import Tensor

from dropt_trainer.dropout.masks import drop

KINDS = ("element", "channel", "locked", "path", "token", "alpha")
SELU_FLOOR = -1.7580993408473766  # -lambda * alpha: what SELU tends to (Klambauer et al. 2017)
MIN_DIMENSIONS = {"channel": 2, "locked": 2, "path": 1, "token": 3}


def apply_kind(
    x: Tensor,
    kind: str,
    rate: Tensor,
    seed: Tensor,
    step: Tensor,
    *,
    site: int,
    call: int = 0,
    batch_dim: int = 0,
    time_dim: int | None = None,
) -> Tensor:
    """Dropout of one kind on one trial's tensor; the other arguments are those of `drop`.

    Args:
        x: [B, ...].
        kind: one of KINDS. `element` drops each unit by itself; `channel` whole maps, [B, C, 1..]
            (Tompson et al. 2015); `locked` the same units at every time step (Gal and Ghahramani
            2016); `path` an example's whole tensor (Huang et al. 2016); `token` all features of a
            position, [B, T, 1], features last; `alpha` each unit, to SELU's floor instead of 0,
            with an affine correction (Klambauer et al. 2017).
        rate: one float32 in [0, 1).
        seed: one int64.
        step: one int32.
        site: see `site_key`.
        call: how often the site has run in this forward.
        batch_dim: dimension of examples, for `path` and `channel`; maps lie in the one behind it.
        time_dim: dimension of time steps; needed by `locked` alone.

    Raises:
        ValueError: an unknown kind, too few dimensions for it, `locked` without `time_dim`.
    """
    if kind == "element":
        return drop(x, rate, seed, step, site=site, call=call)
    if kind == "alpha":
        kept = drop(torch.ones_like(x), rate, seed, step, site=site, call=call) > 0
        return _correct_alpha(x, kept, rate)
    ones = _ones(x, *mask_shape(x, kind, batch_dim=batch_dim, time_dim=time_dim))
    return (x * drop(ones, rate, seed, step, site=site, call=call)).to(x.dtype)


def apply_kind_to_packed(
    x: Tensor,
    batch_sizes: Tensor,
    kind: str,
    rate: Tensor,
    seed: Tensor,
    step: Tensor,
    *,
    site: int,
    call: int = 0,
) -> Tensor:
    """`apply_kind` on the data of a PackedSequence, whose examples are told apart by their place.

    x is [N, D]: the time steps one below the other, each with the examples that last so long;
    batch_sizes is [T], how many these are, on the CPU. `channel` is no kind here: one mask for all
    steps of an example is `locked`.

    Raises:
        ValueError: an unknown kind, or `channel`.
    """
    if kind == "token":  # each row is a position
        kind = "path"
    elif kind in ("locked", "path"):
        sizes: list[int] = batch_sizes.tolist()
        ones = _ones(x, sizes[0], x.shape[1] if kind == "locked" else 1)
        mask = drop(ones, rate, seed, step, site=site, call=call)
        return (x * torch.cat([mask[:size] for size in sizes])).to(x.dtype)
    elif kind == "channel":
        raise ValueError("Kind 'channel' does not fit a PackedSequence; take 'locked'.")
    return apply_kind(x, kind, rate, seed, step, site=site, call=call)


def mask_shape(
    x: Tensor, kind: str, *, batch_dim: int = 0, time_dim: int | None = None
) -> tuple[int, ...]:
    """Shape of the mask of a kind that drops several units together; raises as `apply_kind`."""
    if kind not in MIN_DIMENSIONS:
        raise ValueError(f"Unknown kind {kind!r}; the kinds are {', '.join(KINDS)}.")
    if x.ndim < MIN_DIMENSIONS[kind]:
        least = MIN_DIMENSIONS[kind]
        raise ValueError(f"Kind {kind!r} needs at least {least} dimensions, not {tuple(x.shape)}.")
    if kind == "token":
        return (*x.shape[:-1], 1)
    if kind == "locked":
        if time_dim is None:
            raise ValueError("Kind 'locked' needs the dimension of time steps, time_dim.")
        return tuple(1 if dim == time_dim % x.ndim else n for dim, n in enumerate(x.shape))
    own = {batch_dim % x.ndim}
    if kind == "channel":
        own.add((batch_dim + 1) % x.ndim)
    return tuple(n if dim in own else 1 for dim, n in enumerate(x.shape))


def _ones(x: Tensor, *shape: int) -> Tensor:
    """Ones for a mask: of float32 for half types, whose 1/(1 - rate) may be 0.4 % off."""
    return x.new_ones(shape, dtype=torch.promote_types(x.dtype, torch.float32))


def _correct_alpha(x: Tensor, kept: Tensor, rate: Tensor) -> Tensor:
    """The affine a * (x where kept, else the floor) + b, which keeps mean 0 and variance 1.

    a = (q + floor^2 * q * (1 - q))^(-1/2) with q = 1 - rate, b = -a * (1 - q) * floor.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    rate = rate.to(wide)
    keep = 1.0 - rate
    a = 1.0 / (keep + SELU_FLOOR**2 * keep * rate).sqrt()  # rsqrt need not be exact at 1
    b = -SELU_FLOOR * a * rate
    b = torch.where(rate > 0, b, -0.0)  # x + -0.0 is x for every x; +0.0 would turn -0.0 around
    return (torch.where(kept, x.to(wide), SELU_FLOOR) * a + b).to(x.dtype)
