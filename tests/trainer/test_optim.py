import pytest
import torch
from torch import Tensor

from dropt_trainer import optim
from dropt_trainer.optim import Family, Optimizer, Params

SHAPES = ((7, 5), (7,), (3, 7), (3,))
N_PARAMETERS = sum(torch.Size(shape).numel() for shape in SHAPES)
PENALISED = torch.cat([torch.full((torch.Size(s).numel(),), len(s) >= 2) for s in SHAPES])
# One trial per row, in one optimizer: they must not see each other.
TRIALS = (
    Params(lr=0.01),
    Params(lr=0.003, weight_decay=0.1),
    Params(lr=0.02, l1=0.01, l2=0.03),
    Params(lr=0.005, weight_decay=0.02, l1=0.002, l2=0.001, clip=1.5),
    Params(lr=0.01, clip=0.1),
)


def rows(family: Family, dtype: torch.dtype) -> Optimizer:
    """An optimizer over the trials, all with the same initial weights."""
    n = len(TRIALS)
    optimizer = Optimizer(
        family,
        weight=initial_weight().to(dtype).repeat(n, 1),
        gradient=torch.zeros(n, N_PARAMETERS, dtype=dtype),
        age=torch.zeros(n, dtype=torch.int32),
        penalised=PENALISED,
    )
    for row, params in enumerate(TRIALS):
        optimizer.start(row, params)
    return optimizer


def initial_weight() -> Tensor:
    return noise(-1)


def noise(number: int) -> Tensor:
    generator = torch.Generator().manual_seed(number)
    return torch.randn(N_PARAMETERS, generator=generator, dtype=torch.float64)


def run(optimizer: Optimizer, n_steps: int) -> Tensor:
    """The weights after some steps on the gradients of `gradient_of`."""
    for step in range(n_steps):
        optimizer.age += 1
        optimizer.gradient.copy_(gradient_of(optimizer.weight, step))
        optimizer.step(len(TRIALS))
    return optimizer.weight


def gradient_of(weight: Tensor, step: int) -> Tensor:
    """Of a bowl with noise: a function of weight and step."""
    return weight + noise(step).to(weight.dtype)


def alone(family: Family, params: Params, n_steps: int) -> Tensor:
    """The same with torch.optim: penalty in the loss, clipping by the norm, then the step."""
    flat = torch.split(initial_weight(), [torch.Size(shape).numel() for shape in SHAPES])
    weights = [w.clone().view(s).requires_grad_() for w, s in zip(flat, SHAPES, strict=True)]
    coupled: torch.optim.Optimizer
    if family == "adamw":
        coupled = torch.optim.AdamW(weights, lr=params.lr, weight_decay=params.weight_decay)
    else:
        coupled = torch.optim.SGD(weights, lr=params.lr, momentum=0.9, nesterov=True)
    for step in range(n_steps):
        now = torch.cat([w.detach().reshape(-1) for w in weights])
        parts = torch.split(gradient_of(now, step), [w.numel() for w in weights])
        loss = sum(
            (w * part.view_as(w)).sum()
            + (params.l1 * w.abs().sum() + params.l2 * w.square().sum()) * (w.ndim >= 2)
            for w, part in zip(weights, parts, strict=True)
        )
        coupled.zero_grad()
        torch.autograd.backward([torch.as_tensor(loss)])
        clip_and_decay(weights, params, decay=family == "sgd")
        coupled.step()
    return torch.cat([w.detach().reshape(-1) for w in weights])


def clip_and_decay(weights: list[Tensor], params: Params, *, decay: bool) -> None:
    gradients = [w.grad for w in weights if w.grad is not None]
    norm = torch.cat([g.reshape(-1) for g in gradients]).norm()
    if params.clip is not None:
        for gradient in gradients:
            gradient.mul_(min(1.0, params.clip / float(norm)))
    if decay:
        with torch.no_grad():
            for weight in weights:
                weight.mul_(1 - params.lr * params.weight_decay)


@pytest.mark.parametrize("family", ["adamw", "sgd"])
def test_each_row_trains_as_torch_optim_alone(family: Family) -> None:
    weights = run(rows(family, torch.float64), 30)
    for row, params in enumerate(TRIALS):
        torch.testing.assert_close(weights[row], alone(family, params, 30), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("family", ["adamw", "sgd"])
def test_c_and_torch_agree_in_float32(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    fast = run(rows(family, torch.float32), 30)
    monkeypatch.setattr(optim, "load_library", no_library)
    slow = run(rows(family, torch.float32), 30)
    exact = run(rows(family, torch.float64), 30)
    # Thirty steps of rounding; Adam divides by a root, so near zero the error is absolute.
    torch.testing.assert_close(fast.double(), exact, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(slow.double(), exact, rtol=1e-5, atol=1e-5)


def no_library() -> None:
    """A machine without a compiler."""


@pytest.mark.parametrize("backend", ["c", "torch"])
@pytest.mark.parametrize("family", ["adamw", "sgd"])
def test_rows_behind_the_filled_ones_are_left_alone(
    family: Family, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if backend == "torch":
        monkeypatch.setattr(optim, "load_library", no_library)
    optimizer = rows(family, torch.float32)
    before = optimizer.weight.clone()
    optimizer.gradient.fill_(1.0)
    optimizer.age += 1
    optimizer.step(2)
    assert not torch.equal(optimizer.weight[:2], before[:2])
    assert torch.equal(optimizer.weight[2:], before[2:])
    assert not any(bool(moment[2:].any()) for moment in optimizer.moments)


@pytest.mark.parametrize("family", ["adamw", "sgd"])
def test_a_row_that_diverges_leaves_the_others_bitwise_alone(family: Family) -> None:
    calm, wild = rows(family, torch.float32), rows(family, torch.float32)
    wild.start(1, Params(lr=1e30))
    wild.weight[1].fill_(float("nan"))
    a, b = run(calm, 5), run(wild, 5)
    assert not bool(b[1].isfinite().any())
    others = [0, 2, 3, 4]
    assert torch.equal(a[others], b[others])


def test_a_row_starts_without_the_moments_of_the_trial_before() -> None:
    optimizer = rows("adamw", torch.float64)
    run(optimizer, 3)
    optimizer.start(2, TRIALS[2])
    assert not any(bool(moment[2].any()) for moment in optimizer.moments)
    assert all(bool(moment[1].all()) for moment in optimizer.moments)
