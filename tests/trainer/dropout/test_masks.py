"""The dropout op against the text of its definition, written here a second time in numpy."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dropt_trainer.dropout.masks import backend, bind_drop, drop, mask_seed, site_key
from dropt_trainer.dropout.reference import CHUNK, Numbers, Slots, drop_in_torch
from dropt_trainer.native import load_library

GOLDEN_FILE = Path(__file__).parent / "golden_masks.json"
Words = npt.NDArray[np.uint32]
SITE = site_key("layers.1:out")


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
    if rate == 0:
        return x.copy()
    kind = np.float64 if x.dtype == np.float64 else np.float32
    scale = kind(1) / (kind(1) - kind(np.float32(rate)))
    kept = numpy_kept(x.size, rate, seed, step, site, call).reshape(x.shape)
    return np.where(kept, x * scale, kind(0)).astype(x.dtype)


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
    return (
        t.detach().contiguous().view({4: torch.int32, 8: torch.int64, 2: torch.int16}[t.itemsize])
    )


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
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
        with pytest.raises(ValueError, match="is torch"):
            torch.ops.dropt.drop(x, *wrong, SITE, 0, 1, 1, 4)
    with pytest.raises(ValueError, match="rate is"):
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


STREAMS: dict[str, Callable[[int], tuple[int, int, int, int]]] = {
    "seed": lambda k: (k, 0, 0, 0),
    "high half of the seed": lambda k: (k << 32, 0, 0, 0),
    "step": lambda k: (0, k, 0, 0),
    "site": lambda k: (0, 0, site_key(f"layers.{k}:out"), 0),
    "call": lambda k: (0, 0, 0, k),
}


def stream_bits(name: str, n_streams: int, n_bits: int) -> npt.NDArray[np.float64]:
    """[streams, bits] of +-1, deterministic: the tests below cannot fail by chance."""
    rows = []
    for k in range(n_streams):
        seed, step, site, call = STREAMS[name](k)
        y = drop(torch.ones(n_bits), *slot(0.5, seed, step), site=site, call=call)
        rows.append((y > 0).numpy())
    return np.where(np.stack(rows), 1.0, -1.0)


@pytest.mark.parametrize("name", list(STREAMS))
def test_masks_of_neighbouring_streams_are_balanced_and_uncorrelated(name: str) -> None:
    """z of 64 means, 2,016 pair correlations and 4 x 64 serial ones of 16,384 bits each.

    Under independence the largest of 2,336 normal z exceeds 5.2 once in 2,100 such tests.
    """
    signs = stream_bits(name, 64, 16384)
    n = signs.shape[1]
    means = signs.mean(1) * np.sqrt(n)
    pairs = (signs @ signs.T / np.sqrt(n))[np.triu_indices(64, 1)]
    serial = np.concatenate(
        [(signs[:, :-lag] * signs[:, lag:]).sum(1) / np.sqrt(n - lag) for lag in (1, 2, 8, 64)]
    )
    assert np.abs(np.concatenate([means, pairs, serial])).max() < 5.2
    assert 0.93 < pairs.std() < 1.07  # 2,016 values: one deviation of the deviation is 0.016


@pytest.mark.parametrize("rate", [0.05, 0.2, 0.5, 0.7, 0.95])
def test_share_of_dropped_units_is_the_rate(rate: float) -> None:
    """4 standard errors: one such test in 16,000 would fail for an honest generator."""
    n = 400_000
    y = drop(torch.ones(n), *slot(rate, mask_seed(1), 5), site=SITE)
    dropped = float((y == 0).double().mean())
    assert abs(dropped - rate) < 4 * (rate * (1 - rate) / n) ** 0.5


def test_blocks_of_eight_have_the_variance_of_a_binomial() -> None:
    """50,000 blocks; 4 standard errors of a variance (deviation about var * sqrt(1.75 / n))."""
    y = drop(torch.ones(400_000), *slot(0.3, mask_seed(2), 1), site=SITE)
    counts = (y > 0).double().view(-1, 8).sum(1)
    expected = 8 * 0.3 * 0.7
    assert abs(float(counts.var()) / expected - 1) < 4 * (1.9 / 50_000) ** 0.5


SCRIPT = """
import json, logging, sys, torch
records = []
class Keep(logging.Handler):
    def emit(self, record): records.append(record)
logging.getLogger("dropt_trainer").addHandler(Keep())
logging.getLogger("dropt_trainer").setLevel(logging.INFO)
from dropt_trainer.dropout.masks import backend, drop, site_key
y = [drop(torch.ones(50), torch.tensor(0.4), torch.tensor(5), torch.tensor(t, dtype=torch.int32),
          site=site_key("a:out")).tolist() for t in range(3)]
json.dump({"backend": backend(), "y": y, "events": [r.getMessage() for r in records]}, sys.stdout)
"""


def run_script(environment: dict[str, str]) -> dict[str, Any]:
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, check=True
    )
    answer: dict[str, Any] = json.loads(run.stdout)
    return answer


@pytest.mark.slow
def test_without_kernels_the_torch_backend_gives_the_same_bits_and_one_log_line() -> None:
    answer = run_script({"DROPT_NATIVE": "0"})
    assert answer["backend"] == "torch"
    assert answer["events"] == ["native.unavailable"]
    here = [
        drop(torch.ones(50), *slot(0.4, 5, t), site=site_key("a:out")).tolist() for t in range(3)
    ]
    assert answer["y"] == here


def test_backend_names_what_runs() -> None:
    assert backend() == ("torch" if load_library() is None else "c")


@pytest.mark.skipif(backend() != "c", reason="no compiler here: nothing to bind")
def test_the_bound_kernel_gives_the_masks_of_the_op_at_each_call() -> None:
    x, y = torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(0)), torch.empty(3, 2, 5)
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
    for x in (torch.ones(2, 3, dtype=torch.float64), torch.ones(3, 2).t()):
        assert bind_drop(torch.empty_like(x), x, rate, seed, step, *numbers) is None
