"""The dropout op against the text of its definition, written here a second time in numpy."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.trainer.dropout.definition import (
    bits,
    normal,
    numpy_drop,
    numpy_hash,
    numpy_kept,
    slot,
)
from torch import Tensor

from dropt_trainer.dropout.masks import C_TYPES, backend, bind_drop, drop, mask_seed, site_key
from dropt_trainer.dropout.reference import CHUNK, Numbers, Slots, drop_in_torch
from dropt_trainer.fused.calls import Recorder
from dropt_trainer.native import load_library

GOLDEN_FILE = Path(__file__).parent / "golden_masks.json"
SITE = site_key("layers.1:out")


def by_reference(x: Tensor, rate: float, seed: int, step: int, site: int, call: int) -> Tensor:
    slots = Slots(*(t.reshape(1) for t in slot(rate, seed, step)))
    return drop_in_torch(x, slots, Numbers(site, call, 1, 1, x.numel()))


def test_keys_are_read_from_sha256_little_endian_and_signed() -> None:
    digest = hashlib.sha256(b"encoder.layers.0.linear1:out").digest()
    expected = np.frombuffer(digest[:4], dtype="<i4")[0]
    assert site_key("encoder.layers.0.linear1:out") == expected
    digest = hashlib.sha256(b"masks:911").digest()
    assert mask_seed(911) == np.frombuffer(digest[:8], dtype="<i8")[0]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    shape=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    rate=st.sampled_from([0.0, 2.0**-24, 2.0**-25, 0.05, 0.1, 0.3, 0.5, 0.7, 0.999]),
    seed=st.integers(-(2**63), 2**63 - 1),
    step=st.integers(0, 2**31 - 1),
    name=st.text(max_size=8),
    call=st.integers(0, 2**17),
)
def test_all_backends_agree_bitwise(
    shape: list[int], rate: float, seed: int, step: int, name: str, call: int
) -> None:
    x, site = normal(*shape), site_key(name)
    expected = numpy_drop(x.numpy(), rate, seed, step, site, call)
    for result in (
        drop(x, *slot(rate, seed, step), site=site, call=call),
        by_reference(x, rate, seed, step, site, call),
    ):
        assert torch.equal(bits(result), bits(torch.from_numpy(expected)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_unit_is_kept_when_its_number_equals_the_threshold(dtype: torch.dtype) -> None:
    u = int(numpy_hash(1, 7, 3, SITE, 0)[0])
    one = torch.ones(1, dtype=dtype)
    assert float(drop(one, *slot(u / 2**24, 7, 3), site=SITE)) > 0
    assert float(drop(one, *slot((u + 1) / 2**24, 7, 3), site=SITE)) == 0


@pytest.mark.parametrize("size", [CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 17])
def test_chunked_tensors_equal_the_definition(size: int) -> None:
    x = normal(size)
    expected = torch.from_numpy(numpy_drop(x.numpy(), 0.3, 2**40 + 5, 3, SITE, 0))
    assert torch.equal(drop(x, *slot(0.3, 2**40 + 5, 3), site=SITE), expected)
    assert torch.equal(by_reference(x, 0.3, 2**40 + 5, 3, SITE, 0), expected)


def test_float64_and_half_types_have_the_masks_of_float32() -> None:
    x = normal(64, 33, dtype=torch.float64)
    expected = numpy_drop(x.numpy(), 0.3, 7, 2, SITE, 1)
    result = drop(x, *slot(0.3, 7, 2), site=SITE, call=1)
    assert torch.equal(result, torch.from_numpy(expected))
    for dtype in (torch.bfloat16, torch.float16):
        narrow = x.to(dtype)
        wide = drop(narrow.float(), *slot(0.3, 7, 2), site=SITE, call=1)
        assert torch.equal(drop(narrow, *slot(0.3, 7, 2), site=SITE, call=1), wide.to(dtype))


@pytest.mark.parametrize("rate", [2.0**-24, 0.1, 0.3, 0.5, 0.7, 0.999])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_half_number_is_scaled_and_rounded_as_torch_does(
    dtype: torch.dtype, rate: float
) -> None:
    """All 65,536 bit patterns. NaN stays NaN; which of its many forms, torch itself varies."""
    x = torch.arange(2**16).to(torch.int16).view(dtype)
    scale = 1 / (1 - torch.tensor(rate))
    kept = torch.from_numpy(numpy_kept(2**16, rate, -5, 3, SITE, 0))
    expected = torch.where(kept, x.float() * scale, 0.0).to(dtype)
    for result in (
        drop(x, *slot(rate, -5, 3), site=SITE),
        by_reference(x, rate, -5, 3, SITE, 0),
    ):
        both_nan = result.isnan() & expected.isnan()
        assert bool(((bits(result) == bits(expected)) | both_nan).all())


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str
)
def test_the_short_way_and_the_op_agree_forward_and_backward(dtype: torch.dtype) -> None:
    """Plain eager code goes around the dispatcher; compilers, vmap and recorders do not."""
    x, gradient = normal(9, 31).to(dtype).requires_grad_(), normal(9, 31, seed=1).to(dtype)
    numbers = (*(t.reshape(1) for t in slot(0.3, 2**40 + 5, 3)), SITE, 1, 1, 1, x.numel())
    short = drop(x, *slot(0.3, 2**40 + 5, 3), site=SITE, call=1)
    op = torch.ops.dropt.drop(x, *numbers)
    assert str(short.grad_fn).startswith("<torch.autograd.function._DropBackward")
    assert torch.equal(bits(short), bits(op))
    ways = [torch.autograd.grad(y, x, gradient)[0] for y in (short, op)]
    expected = by_reference(gradient, 0.3, 2**40 + 5, 3, SITE, 1)
    assert all(torch.equal(bits(way), bits(expected)) for way in ways)


def test_a_recorder_sees_the_op_and_not_the_short_way() -> None:
    x = normal(4, 5).requires_grad_()
    with Recorder() as recorder:
        torch.autograd.grad(drop(x, *slot(0.3, 1, 2), site=SITE).sum(), x)
    functions = [call.function for call in recorder.calls]
    assert functions.count(torch.ops.dropt.drop.default) == 2


def test_a_step_that_moves_between_forward_and_backward_is_refused() -> None:
    x, (rate, seed, step) = normal(4, 5).requires_grad_(), slot(0.3, 1, 2)
    y = drop(x, rate, seed, step, site=SITE)
    step += 1
    with pytest.raises(RuntimeError, match="changed in place"):
        torch.autograd.grad(y.sum(), x)


def test_memory_layout_does_not_move_a_mask() -> None:
    x = normal(4, 3, 5, 6)
    expected = drop(x, *slot(0.4, 5, 1), site=SITE)
    strided = x.to(memory_format=torch.channels_last)
    assert torch.equal(drop(strided, *slot(0.4, 5, 1), site=SITE), expected)
    padded = torch.zeros(4, 3, 5, 9)[..., 2:8].copy_(x)
    assert torch.equal(drop(padded, *slot(0.4, 5, 1), site=SITE), expected)


@pytest.mark.parametrize("n_slots", [1, 2, 5, 16])
@pytest.mark.parametrize("at", [0, 1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_slot_has_the_masks_of_the_trial_alone(
    n_slots: int, at: int, dtype: torch.dtype
) -> None:
    trials = [(0.1 * (k % 5), mask_seed(k), 3 * k) for k in range(n_slots)]
    rates, seeds, steps = (
        torch.stack(column) for column in zip(*(slot(*t) for t in trials), strict=True)
    )
    x = normal(n_slots, 6, 7, dtype=dtype)

    def one(x: Tensor, rate: Tensor, seed: Tensor, step: Tensor) -> Tensor:
        return drop(x, rate, seed, step, site=SITE, call=2)

    batched = torch.vmap(one, in_dims=(at, 0, 0, 0))(x.movedim(0, at), rates, seeds, steps)
    for k, trial in enumerate(trials):
        assert torch.equal(batched[k], one(x[k], *slot(*trial)))


def test_a_tensor_shared_by_all_slots_gets_masks_of_each() -> None:
    x, (rate, _, step) = normal(6, 7), slot(0.5, 0, 1)
    seeds = torch.tensor([4, 2**50])
    batched = torch.vmap(lambda seed: drop(x, rate, seed, step, site=SITE))(seeds)
    assert torch.equal(batched[0], drop(x, *slot(0.5, 4, 1), site=SITE))
    assert torch.equal(batched[1], drop(x, *slot(0.5, 2**50, 1), site=SITE))


def test_nested_vmap_is_refused() -> None:
    x, (rate, seed, step) = normal(2, 3, 4), slot(0.5, 1, 1)
    twice = torch.vmap(torch.vmap(lambda x: drop(x, rate, seed, step, site=SITE)))
    with pytest.raises(NotImplementedError, match="nested vmap"):
        twice(x)


@pytest.mark.parametrize("dtype", list(C_TYPES), ids=str)
def test_rate_zero_is_the_identity_bit_for_bit(dtype: torch.dtype) -> None:
    values = [0.0, -0.0, float("inf"), -float("inf"), float("nan"), 1e-42, 3.0]
    x = torch.tensor(values, dtype=dtype)
    assert torch.equal(bits(drop(x, *slot(0.0, 3, 4), site=SITE)), bits(x))
    batched = torch.vmap(lambda x, r, s, t: drop(x, r, s, t, site=SITE))(
        torch.stack([x, x]),
        torch.tensor([0.0, 0.5]),
        torch.tensor([1, 2]),
        torch.tensor([3, 4], dtype=torch.int32),
    )
    assert torch.equal(bits(batched[0]), bits(x))


def test_dropped_inf_and_nan_are_zero() -> None:
    x = torch.tensor([float("inf"), float("nan")] * 500)
    y = drop(x, *slot(0.5, 3, 4), site=SITE)
    kept = torch.from_numpy(numpy_kept(1000, 0.5, 3, 4, SITE, 0))
    assert torch.equal(y[~kept], torch.zeros(int((~kept).sum())))
    assert not bool(y[kept].isfinite().any())


def test_gradient_is_the_mask_and_matches_finite_differences() -> None:
    x = normal(3, 5, dtype=torch.float64).requires_grad_()
    rate, seed, step = slot(0.4, 9, 2)
    assert torch.autograd.gradcheck(lambda x: drop(x, rate, seed, step, site=SITE), (x,))
    assert torch.autograd.gradgradcheck(lambda x: drop(x, rate, seed, step, site=SITE) ** 2, (x,))


def test_gradient_through_vmap_is_that_of_the_trial_alone() -> None:
    seeds, (rate, _, step) = torch.arange(4), slot(0.4, 0, 2)

    def loss(x: Tensor, seed: Tensor) -> Tensor:
        return (drop(x, rate, seed, step, site=SITE) ** 2).sum()

    x = normal(4, 8, 3).requires_grad_()
    (batched,) = torch.autograd.grad(torch.vmap(loss)(x, seeds).sum(), x)
    for k in range(4):
        alone = x[k].detach().requires_grad_()
        (expected,) = torch.autograd.grad(loss(alone, seeds[k]), alone)
        assert torch.equal(batched[k], expected)


@pytest.mark.slow
def test_the_op_keeps_the_promises_torch_checks() -> None:
    x = normal(4, 5).requires_grad_()
    args = (x, *(t.reshape(1) for t in slot(0.4, 3, 1)), SITE, 0, 1, 1, 20)
    checks = torch.library.opcheck(torch.ops.dropt.drop.default, args)
    assert set(checks.values()) == {"SUCCESS"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("rate", "step", "message"),
    [(0.2, -1, "negative"), (1.0, 0, "rate"), (-0.1, 0, "rate"), (float("nan"), 0, "rate")],
)
def test_bad_steps_and_rates_are_refused(
    dtype: torch.dtype, rate: float, step: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        drop(normal(4, dtype=dtype), *slot(rate, 1, step), site=SITE)


def test_wrong_types_are_refused_before_a_kernel_reads_them() -> None:
    x, (rate, seed, step) = normal(4), (t.reshape(1) for t in slot(0.5, 1, 1))
    for wrong in (
        (rate.double(), seed, step),
        (rate, seed.int(), step),
        (rate, seed, step.long()),
    ):
        with pytest.raises(ValueError, match="float32, int64, int32"):
            torch.ops.dropt.drop(x, *wrong, SITE, 0, 1, 1, 4)
    with pytest.raises(ValueError, match="float32, int64, int32"):
        torch.ops.dropt.drop(x, rate.repeat(2), seed, step, SITE, 0, 1, 1, 4)


def test_more_elements_than_can_be_numbered_are_refused() -> None:
    x = torch.empty(1).expand(2**16, 2**17)
    with pytest.raises(ValueError, match=r"2\^32"):
        drop(x, *slot(0.5, 1, 1), site=SITE)


def test_golden_masks_have_not_moved() -> None:
    """A change of the algorithm would silently change every recorded trial."""
    for case in json.loads(GOLDEN_FILE.read_text()):
        arguments = slot(case["rate"], case["seed"], case["step"])
        key = site_key(case["site"])
        y = drop(torch.ones(case["n"]), *arguments, site=key, call=case["call"])
        assert np.packbits((y > 0).numpy()).tobytes().hex() == case["kept"]


def test_backend_names_what_runs() -> None:
    assert backend() == ("torch" if load_library() is None else "c")


@pytest.mark.skipif(backend() != "c", reason="no compiler here: nothing to bind")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_bound_kernel_gives_the_masks_of_the_op_at_each_call(dtype: torch.dtype) -> None:
    x, y = normal(3, 2, 5).to(dtype), torch.empty(3, 2, 5, dtype=dtype)
    rates, seed = torch.tensor([[0.5, 0.1], [0.2, 0.9]]), torch.tensor([3, -4])
    step = torch.zeros(2, dtype=torch.int32)
    numbers = (SITE, 0, 3, 2, 5)
    bound = bind_drop(y, x, rates[:, 1], seed, step, *numbers)  # one column of several: a stride
    assert bound is not None
    for _ in range(3):
        step += 1
        bound()
        assert torch.equal(y, torch.ops.dropt.drop(x, rates[:, 1], seed, step, *numbers))
    step.fill_(-1)
    with pytest.raises(ValueError, match="step of a mask is negative"):
        bound()


def test_what_the_kernel_cannot_read_is_not_bound() -> None:
    rate, seed = torch.tensor([0.5]), torch.tensor([3])
    step = torch.zeros(1, dtype=torch.int32)
    numbers = (SITE, 0, 1, 1, 6)
    for x in (torch.ones(2, 3, dtype=torch.int32), torch.ones(3, 2).t()):
        assert bind_drop(torch.empty_like(x), x, rate, seed, step, *numbers) is None
