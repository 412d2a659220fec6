"""Run an instrumented model as a trial alone and as the slots of a pack."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dropt_trainer.dropout.masks import mask_seed
from dropt_trainer.sites.instrument import SitePort, instrument, site_mode

Named = dict[str, Tensor]


def run(model: nn.Module, *inputs: Tensor) -> Tensor:
    """The output of one trial, or its first."""
    with site_mode(model, vmapped=False):
        return first(model(*inputs))


def first(output: object) -> Tensor:
    """A tensor, or the first of several."""
    while isinstance(output, tuple):
        output = output[0]
    assert isinstance(output, Tensor)
    return output


def stacked(model: nn.Module, n_slots: int) -> tuple[Named, Named]:
    """Parameters and buffers of a pack whose slots all start from one model."""

    def stack(named: Iterator[tuple[str, Tensor]]) -> Named:
        return {key: torch.stack([value.detach()] * n_slots) for key, value in named}

    return stack(model.named_parameters()), stack(model.named_buffers())


def run_pack(model: nn.Module, params: Named, buffers: Named, *inputs: Tensor) -> Tensor:
    """The outputs of all slots; inputs are [K, ...]."""

    def one(params: Named, buffers: Named, *inputs: Tensor) -> Tensor:
        with site_mode(model, vmapped=True):
            return first(functional_call(model, (params, buffers), inputs))

    return torch.vmap(one)(params, buffers, *inputs)


def randomise(model: nn.Module, seed: int = 7) -> nn.Module:
    """The model with all weights drawn, so that no branch is dead."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(drawn * 0.4)
    return model


def trial(
    factory: Callable[[], nn.Module],
    ports: Sequence[SitePort],
    rates: Sequence[float],
    *,
    seed: int = 5,
    step: int = 2,
    dtype: torch.dtype = torch.float64,
) -> nn.Module:
    """One instrumented trial in training; rates by column."""
    model = randomise(factory()).to(dtype).train()
    instrument(model, ports)
    model.get_buffer("_dropt_rates").copy_(torch.tensor(rates))
    model.get_buffer("_dropt_seed").fill_(mask_seed(seed))
    model.get_buffer("_dropt_step").fill_(step)
    return model


def compare_with_pack(
    factory: Callable[[], nn.Module],
    ports: Sequence[SitePort],
    inputs: Sequence[Tensor],
    *,
    training: bool = True,
    tolerance: float = 1e-9,
) -> None:
    """Assert outputs and gradients of three trials: alone and in a pack, relative to the largest.

    float64; the first trial has all rates 0, the others rates, seeds and steps of their own.
    """
    n_slots, generator = 3, torch.Generator().manual_seed(1)
    rates = torch.rand(n_slots, len(ports), generator=generator) * 0.7
    rates[0] = 0.0
    alone = [
        trial(factory, ports, rates[k].tolist(), seed=k, step=3 * k).train(training)
        for k in range(n_slots)
    ]
    params, buffers = stacked(alone[0], n_slots)
    for key in ("_dropt_rates", "_dropt_seed", "_dropt_step"):
        buffers[key] = torch.stack([model.get_buffer(key) for model in alone])
    for value in params.values():
        value.requires_grad_()
    outputs = run_pack(alone[0], params, buffers, *(torch.stack([x] * n_slots) for x in inputs))
    weights = torch.randn(outputs.shape[1:], generator=generator, dtype=outputs.dtype)
    gradients = _gradients((outputs * weights).sum(), list(params.values()))
    for k, model in enumerate(alone):
        output = run(model, *inputs)
        expected = _gradients((output * weights).sum(), list(model.parameters()))
        pairs = [(outputs[k], output), *zip((g[k] for g in gradients), expected, strict=True)]
        for mine, theirs in pairs:
            scale = float(theirs.detach().abs().max()) + 1e-12
            assert float((mine - theirs).detach().abs().max()) <= tolerance * scale


def _gradients(value: Tensor, params: list[Tensor] | list[nn.Parameter]) -> tuple[Tensor, ...]:
    if not params:
        return ()
    return torch.autograd.grad(value, params, allow_unused=True, materialize_grads=True)
