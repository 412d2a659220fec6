"""Attention written out, and torch's body of multi-head attention, against torch itself."""

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from dropt_trainer.sites.attention import attend, multi_head_attention_body

N_QUERIES, N_KEYS, WIDTH = 4, 5, 6


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def masks() -> dict[str, Tensor | None]:
    boolean = normal(2, 1, N_QUERIES, N_KEYS, seed=1) > 0
    boolean[..., 0] = True
    blind = boolean.clone()
    blind[0, :, 1] = False
    added = normal(N_QUERIES, N_KEYS, seed=2)
    return {
        "none": None,
        "boolean": boolean,
        "blind query": blind,
        "added": added,
        "added, -inf": added.masked_fill(normal(N_QUERIES, N_KEYS, seed=3) > 1, -torch.inf),
        "added, blind query": torch.zeros(2, 1, 1, N_KEYS, dtype=torch.float64).index_fill(
            0, torch.tensor([1]), -torch.inf
        ),
    }


@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("n_groups", [4, 2, 1])
@pytest.mark.parametrize("mask", [*masks(), "causal"])
def test_attention_written_out_equals_that_of_torch(
    mask: str, n_groups: int, scale: float | None
) -> None:
    """Outputs and gradients of all three inputs; a query that sees no key is among them."""
    query = normal(2, 4, N_QUERIES, WIDTH)
    key, value = (normal(2, n_groups, N_KEYS, WIDTH, seed=s) for s in (4, 5))
    leaves = (query.requires_grad_(), key.requires_grad_(), value.requires_grad_())
    options: dict[str, Any] = {
        "attn_mask": masks().get(mask),
        "is_causal": mask == "causal",
        "scale": scale,
        "enable_gqa": n_groups < 4,
    }
    mine, theirs = attend(*leaves, **options), F.scaled_dot_product_attention(*leaves, **options)
    torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-12)
    weights = normal(*theirs.shape, seed=6)
    pairs = zip(
        torch.autograd.grad((mine * weights).sum(), leaves),
        torch.autograd.grad((theirs * weights).sum(), leaves),
        strict=True,
    )
    for own, expected in pairs:
        assert bool(own.isfinite().all())
        torch.testing.assert_close(own, expected, rtol=1e-11, atol=1e-12)


def test_dropout_acts_on_the_probabilities() -> None:
    query, key, value = (normal(2, 3, n, WIDTH, seed=n) for n in (N_QUERIES, N_KEYS, N_KEYS))
    seen: list[Tensor] = []

    def drop(probabilities: Tensor) -> Tensor:
        seen.append(probabilities)
        return 2 * probabilities

    doubled = attend(query, key, value, drop=drop)
    assert seen[0].shape == (2, 3, N_QUERIES, N_KEYS)
    torch.testing.assert_close(seen[0].sum(-1), torch.ones(2, 3, N_QUERIES, dtype=torch.float64))
    torch.testing.assert_close(doubled, 2 * attend(query, key, value))


def test_a_mask_and_is_causal_together_are_refused() -> None:
    x = normal(1, 1, 3, 2)
    with pytest.raises(ValueError, match="not both"):
        attend(x, x, x, torch.ones(3, 3, dtype=torch.bool), is_causal=True)


def head_arguments(
    *, bias: bool, bias_kv: bool, zero: bool, separate: bool, batched: bool
) -> dict[str, Any]:
    width, key_width = 8, 6 if separate else 8
    batch = (3,) if batched else ()
    return {
        "query": normal(N_QUERIES, *batch, width),
        "key": normal(N_KEYS, *batch, key_width, seed=1),
        "value": normal(N_KEYS, *batch, key_width, seed=2),
        "embed_dim_to_check": width,
        "num_heads": 2,
        "in_proj_weight": None if separate else normal(3 * width, width, seed=3),
        "in_proj_bias": normal(3 * width, seed=4) if bias else None,
        "bias_k": normal(1, 1, width, seed=5) if bias_kv else None,
        "bias_v": normal(1, 1, width, seed=6) if bias_kv else None,
        "add_zero_attn": zero,
        "dropout_p": 0.0,
        "out_proj_weight": normal(width, width, seed=7),
        "out_proj_bias": normal(width, seed=8) if bias else None,
        "use_separate_proj_weight": separate,
        "q_proj_weight": normal(width, width, seed=9) if separate else None,
        "k_proj_weight": normal(width, key_width, seed=10) if separate else None,
        "v_proj_weight": normal(width, key_width, seed=11) if separate else None,
    }


def head_masks(*, batched: bool) -> list[dict[str, Any]]:
    padding = torch.zeros((3, N_KEYS) if batched else (N_KEYS,), dtype=torch.bool)
    padding[..., -1] = True
    two = normal(N_QUERIES, N_KEYS, seed=12)
    three = normal((3 if batched else 1) * 2, N_QUERIES, N_KEYS, seed=13)
    return [
        {},
        {"key_padding_mask": padding},
        {"attn_mask": two},
        {"attn_mask": two > 1},
        {"attn_mask": three},
        {"attn_mask": two, "key_padding_mask": padding.double() * -2.0},
        {"attn_mask": torch.ones(N_QUERIES, N_KEYS).triu(1).bool(), "is_causal": True},
    ]


FLAGS = [dict(zip(("bias", "bias_kv", "zero"), c, strict=True))
         for c in itertools.product([False, True], repeat=3)]  # fmt: skip


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("flags", FLAGS)
def test_body_of_multi_head_attention_equals_that_of_torch(
    flags: dict[str, bool], separate: bool, batched: bool
) -> None:
    """Bit for bit over all masks, weights returned (averaged or not) or left out."""
    arguments = head_arguments(**flags, separate=separate, batched=batched)
    wanted = itertools.product(
        head_masks(batched=batched), [(False, True), (True, True), (True, False)]
    )
    for mask, (need_weights, averaged) in wanted:
        if mask.get("is_causal") and not need_weights and (flags["bias_kv"] or flags["zero"]):
            continue  # torch then attends as if the added keys were later steps; not ours to judge
        options = {**mask, "need_weights": need_weights, "average_attn_weights": averaged}
        mine = multi_head_attention_body(**arguments, **options)
        theirs = F.multi_head_attention_forward(**arguments, **options)
        assert torch.equal(mine[0], theirs[0])
        torch.testing.assert_close(mine[1], theirs[1], rtol=0, atol=0)


def test_body_of_multi_head_attention_calls_what_a_mode_sees() -> None:
    """It depends on one name in torch's function; without it the mode would be asked again."""
    assert "has_torch_function" in F.multi_head_attention_forward.__code__.co_names
    assert not multi_head_attention_body.__globals__["has_torch_function"]()
