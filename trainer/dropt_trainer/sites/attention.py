"""Attention in tensor operations: what the function mode runs where a site acts inside.

torch's fused kernels draw their own masks and have no batching rule.
"""

import types
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor

Drop = Callable[[Tensor], Tensor]


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
    drop: Drop | None = None,
) -> Tensor:
    """`F.scaled_dot_product_attention` with `drop` on the probabilities [..., L, S].

    The arguments are torch's. A query that may see no key gets zeros, as from torch.

    Raises:
        ValueError: both a mask and `is_causal`, which torch refuses as well.
    """
    if enable_gqa:
        n_heads = query.shape[-3]
        key = key.repeat_interleave(n_heads // key.shape[-3], -3)
        value = value.repeat_interleave(n_heads // value.shape[-3], -3)
    if scale is None:
        scale = query.shape[-1] ** -0.5
    scores = (query * scale) @ key.transpose(-2, -1)
    if is_causal:
        if attn_mask is not None:
            raise ValueError("Attention takes a mask or is_causal, not both.")
        seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=query.device).tril()
        probabilities = scores.masked_fill(~seen, -torch.inf).softmax(-1)
    else:
        probabilities = scores.softmax(-1) if attn_mask is None else _masked(scores, attn_mask)
    return (probabilities if drop is None else drop(probabilities)) @ value


def _masked(scores: Tensor, mask: Tensor) -> Tensor:
    """Probabilities under a mask: Boolean, True where a key is seen, or added to the scores."""
    is_boolean = mask.dtype == torch.bool
    scores = scores.masked_fill(~mask, -torch.inf) if is_boolean else scores + mask
    # The softmax of nothing but -inf is NaN, and so is its gradient, whatever is done behind it.
    is_blind = (scores == -torch.inf).all(-1, keepdim=True)
    return scores.masked_fill(is_blind, 0.0).softmax(-1).masked_fill(is_blind, 0.0)


def _body_of(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of torch's without its way out to a function mode.

    Run with the mode entered, its own calls then reach the mode one by one.
    """
    assert isinstance(function, types.FunctionType), "a function written in Python"
    rebound = {**function.__globals__, "has_torch_function": lambda *_: False}
    body = types.FunctionType(
        function.__code__, rebound, function.__name__, function.__defaults__, function.__closure__
    )
    body.__kwdefaults__ = function.__kwdefaults__
    return body


multi_head_attention_body = _body_of(F.multi_head_attention_forward)
