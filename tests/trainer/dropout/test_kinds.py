"""Kinds of dropout: which units fall together, the mean kept, the identity at rate 0."""

import pytest
import torch
from tests.trainer.dropout.definition import bits, normal
from torch import Tensor

from dropt_trainer.dropout.kinds import KINDS, apply_kind, apply_kind_to_packed, mask_shape
from dropt_trainer.dropout.masks import mask_seed, site_key

SITE = site_key("layers.1:out")
TOGETHER = {
    "channel": (2, 3, 1, 1),
    "locked": (2, 1, 5, 6),
    "path": (2, 1, 1, 1),
    "token": (2, 3, 5, 1),
}  # mask of a [2, 3, 5, 6] tensor whose time dimension is 1


def slot(rate: float, seed: int = 1, step: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    return (
        torch.tensor(rate, dtype=torch.float32),
        torch.tensor(mask_seed(seed), dtype=torch.int64),
        torch.tensor(step, dtype=torch.int32),
    )


@pytest.mark.parametrize("kind", TOGETHER)
def test_units_of_one_mask_entry_fall_together(kind: str) -> None:
    ones = torch.ones(2, 3, 5, 6)
    assert mask_shape(ones, kind, time_dim=1) == TOGETHER[kind]
    dropped = 0
    for seed in range(20):
        y = apply_kind(ones, kind, *slot(0.5, seed), site=SITE, time_dim=1)
        first = y[tuple(slice(0, n) for n in TOGETHER[kind])]
        assert torch.equal(y, first.expand_as(y))
        dropped += int((first == 0).sum())
    n = 20 * torch.Size(TOGETHER[kind]).numel()
    assert abs(dropped / n - 0.5) < 4 * (0.25 / n) ** 0.5


LAYOUTS: dict[str, tuple[tuple[int, ...], int, int]] = {
    "[B, T, D]": ((16, 5, 12), 0, 1),
    "[T, B, D]": ((5, 16, 12), 1, 0),
    "[B, T, H, W]": ((16, 3, 4, 5), 0, 1),
    "[C, H, B]": ((3, 20, 16), -1, 0),
}  # shape, batch_dim, time_dim


@pytest.mark.parametrize("rate", [0.1, 0.7])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_keeps_the_mean_in_every_layout(kind: str, layout: str, rate: float) -> None:
    """Sample mean over 200 steps of 960 values; 4 standard errors, estimated over the steps.

    48 cases: the chance of a false alarm would be 0.3 %, were the seeds not fixed.
    """
    shape, batch_dim, time_dim = LAYOUTS[layout]
    x = normal(*shape)
    x = (x - x.mean()) / x.std() if kind == "alpha" else x + 1.0
    rates, seed, _ = slot(rate)
    means = torch.stack(
        [
            apply_kind(
                x,
                kind,
                rates,
                seed,
                torch.tensor(t, dtype=torch.int32),
                site=SITE,
                batch_dim=batch_dim,
                time_dim=time_dim,
            ).mean()
            for t in range(200)
        ]
    )
    assert abs(float(means.mean() - x.mean())) < 4 * float(means.std()) / 200**0.5


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ("channel", (1, 3, 4)),
        ("locked", (1, 3, 4)),
        ("path", (1, 3, 1)),
        ("token", (5, 3, 1)),
    ],
)
def test_masks_follow_the_dimension_of_examples(kind: str, shape: tuple[int, ...]) -> None:
    """[T, B, D], as recurrent layers and transformers have it by default."""
    x = torch.ones(5, 3, 4)
    assert mask_shape(x, kind, batch_dim=1, time_dim=0) == shape
    assert mask_shape(x, kind, batch_dim=-2, time_dim=-3) == shape


@pytest.mark.parametrize("kind", ["locked", "path"])
def test_one_mask_for_all_steps_is_the_same_in_either_layout(kind: str) -> None:
    ones = torch.ones(3, 7, 4)
    first = apply_kind(ones, kind, *slot(0.5), site=SITE, batch_dim=0, time_dim=1)
    turned = ones.transpose(0, 1)
    second = apply_kind(turned, kind, *slot(0.5), site=SITE, batch_dim=1, time_dim=0)
    assert torch.equal(first, second.transpose(0, 1))


@pytest.mark.parametrize("kind", ["locked", "path"])
def test_packed_data_have_the_masks_of_the_padded_tensor(kind: str) -> None:
    """Examples in falling order of their length."""
    sizes = torch.tensor([3, 3, 2, 1])
    padded = normal(4, 3, 5)
    expected = apply_kind(padded, kind, *slot(0.5), site=SITE, batch_dim=1, time_dim=0)
    data = torch.cat([padded[t, :n] for t, n in enumerate(sizes.tolist())])
    packed = apply_kind_to_packed(data, sizes, kind, *slot(0.5), site=SITE)
    rows = [expected[t, :n] for t, n in enumerate(sizes.tolist())]
    assert torch.equal(packed, torch.cat(rows))


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_alpha_keeps_mean_and_variance_of_a_standardised_tensor(rate: float) -> None:
    """400,000 values; 4 standard errors, the variance's from the sample's fourth moment."""
    x = normal(400_000, dtype=torch.float64)
    x = ((x - x.mean()) / x.std())[None]
    y = apply_kind(x, "alpha", *slot(rate), site=SITE)
    n = y.numel()
    fourth = ((y - y.mean()) ** 4).mean()
    assert abs(float(y.mean())) < 4 * n**-0.5
    assert abs(float(y.var()) - 1) < 4 * float((fourth - y.var() ** 2) / n) ** 0.5


def test_alpha_sends_dropped_units_to_one_value() -> None:
    x = normal(1, 5000)
    y = apply_kind(x, "alpha", *slot(0.3), site=SITE)
    kept = apply_kind(torch.ones_like(x), "element", *slot(0.3), site=SITE) > 0
    assert bool((y[~kept] == y[~kept][0]).all())
    a = (y[kept][1] - y[kept][0]) / (x[kept][1] - x[kept][0])
    b = y[kept][0] - a * x[kept][0]
    torch.testing.assert_close(y[kept], a * x[kept] + b, rtol=1e-4, atol=1e-4)
    # Klambauer et al. 2017: a = (q + alpha'^2 q (1 - q))^(-1/2), alpha' = -1.7581, q = 0.7
    assert float(a) == pytest.approx((0.7 + 1.7580993**2 * 0.7 * 0.3) ** -0.5, rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_half_types_are_computed_in_float32_and_rounded_once(
    kind: str, dtype: torch.dtype
) -> None:
    """A scale of 1 / 0.9 in bfloat16 would be 0.16 % off, in every unit of every step."""
    x, gradient = normal(4, 3, 5).to(dtype), normal(4, 3, 5, seed=1).to(dtype)
    found = []
    for number in (x, x.float()):
        leaf = number.requires_grad_()
        y = apply_kind(leaf, kind, *slot(0.1), site=SITE, time_dim=1)
        found.append((y, torch.autograd.grad(y, leaf, gradient.to(y.dtype))[0]))
    for half, wide in zip(*found, strict=True):
        assert half.dtype == dtype
        assert torch.equal(bits(half), bits(wide.to(dtype)))


@pytest.mark.parametrize("kind", ["locked", "path"])
def test_packed_half_types_are_computed_in_float32_and_rounded_once(kind: str) -> None:
    x, sizes = normal(9, 5).bfloat16(), torch.tensor([3, 3, 2, 1])
    half, wide = (
        apply_kind_to_packed(t, sizes, kind, *slot(0.1), site=SITE) for t in (x, x.float())
    )
    assert torch.equal(half, wide.bfloat16())


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str
)
@pytest.mark.parametrize("kind", KINDS)
def test_rate_zero_is_the_identity_bit_for_bit(kind: str, dtype: torch.dtype) -> None:
    x = normal(4, 3, 5, dtype=dtype)
    x[0, 0, :3] = torch.tensor([0.0, -0.0, 1e-42])
    x.requires_grad_()
    y = apply_kind(x, kind, *slot(0.0), site=SITE, time_dim=1)
    assert torch.equal(bits(y), bits(x))
    gradient = normal(4, 3, 5, dtype=dtype).neg()
    (result,) = torch.autograd.grad(y, x, gradient)
    assert torch.equal(bits(result), bits(gradient))


@pytest.mark.parametrize("kind", KINDS)
def test_a_slot_equals_the_trial_alone(kind: str) -> None:
    x, steps = normal(5, 4, 3, 6), torch.arange(5, dtype=torch.int32)
    rates, seeds = torch.tensor([0.0, 0.2, 0.5, 0.7, 0.9]), torch.arange(5) + 2**40

    def one(x: Tensor, rate: Tensor, seed: Tensor, step: Tensor) -> Tensor:
        return apply_kind(x, kind, rate, seed, step, site=SITE, call=1, time_dim=1)

    batched = torch.vmap(one)(x, rates, seeds, steps)
    for k in range(5):
        assert torch.equal(batched[k], one(x[k], rates[k], seeds[k], steps[k]))


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_match_finite_differences(kind: str) -> None:
    x = normal(3, 2, 4, dtype=torch.float64).requires_grad_()
    rate, seed, step = slot(0.4)
    assert torch.autograd.gradcheck(
        lambda x: apply_kind(x, kind, rate, seed, step, site=SITE, time_dim=1), (x,)
    )


def test_calls_of_one_forward_have_masks_of_their_own() -> None:
    ones = torch.ones(8, 64)
    first, second = (apply_kind(ones, "element", *slot(0.5), site=SITE, call=c) for c in (0, 1))
    assert not torch.equal(first, second)


@pytest.mark.parametrize(
    ("kind", "shape", "message"),
    [
        ("row", (2, 3), "Unknown kind 'row'; the kinds are element, channel"),
        ("channel", (4,), "'channel' needs at least 2 dimensions"),
        ("token", (4, 3), "'token' needs at least 3 dimensions"),
        ("locked", (4, 3, 2), "time_dim"),
    ],
)
def test_a_kind_that_does_not_fit_is_refused(
    kind: str, shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        apply_kind(torch.ones(shape), kind, *slot(0.5), site=SITE)
