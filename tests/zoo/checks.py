"""What must hold for every model of the zoo, each against an independent computation."""

import copy
import io
from collections.abc import Callable, Sequence
from typing import Any

import torch
from tests.zoo.case import Case, square_mean
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch.func import functional_call

from dropt.spec.inspection import Site
from dropt_trainer.fused.step import forward_of
from dropt_trainer.sites.calling import arguments_of, primary_output
from dropt_trainer.sites.discover import Discovery, discover
from dropt_trainer.sites.instrument import SitePort, instrument, set_rates, site_mode, strip
from dropt_trainer.sites.ports import RATES, SEED, STEP
from dropt_trainer.sites.trace import Inputs

RATE = 0.3
N_PACKED = 3
TOLERANCE = 1e-9  # relative, float64: the order of sums differs under vmap


def look(case: Case) -> Discovery:
    n = len(next(iter(case.inputs.values())) if isinstance(case.inputs, dict) else case.inputs)
    return discover(case.model(), case.inputs, torch.zeros(n), square_mean)


def ports_of(sites: Sequence[Site]) -> list[SitePort]:
    """One column per site, of its default kind."""
    return [port_of(site, site.kinds[0]) for site in sites]


def port_of(site: Site, kind: str) -> SitePort:
    return SitePort(site.site, kind, site.calls, time_dim=site.time_dim, batch_dim=site.batch_dim)


def run(model: nn.Module, inputs: Inputs) -> Tensor:
    args, kwargs = arguments_of(model, inputs)
    return primary_output(model(*args, **kwargs))


def without_dropout(case: Case, sites: Sequence[Site]) -> nn.Module:
    """The model with its own dropout at 0, which is what rate 0 everywhere must be."""
    model = case.model()
    for site in sites:
        if site.existing_rate is not None:
            path, _, name = site.site.rpartition(":")
            setattr(model.get_submodule(path), name, 0.0)
    return model


def instrumented(
    case: Case, sites: Sequence[Site], *, seed: int = 0, rate: float = 0.0
) -> nn.Module:
    model = case.model(seed)
    instrument(model, ports_of(sites))
    set_rates(model, {site.site: rate for site in sites})
    return model


def train_forward(model: nn.Module, inputs: Inputs) -> tuple[Tensor, dict[str, Tensor]]:
    """Output and gradients of one step."""
    with site_mode(model, vmapped=False):
        output = run(model, inputs)
    torch.autograd.backward(square_mean(output, torch.zeros(1, dtype=output.dtype)))
    return output.detach(), gradients_of(model)


def gradients_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def check_expected(case: Case, found: Discovery) -> None:
    """Output layers and sites are those that the reader of the model wrote down."""
    assert found.output_layers == case.output_layers
    expected = {site: (role, kind) for site, role, kind, _ in case.sites}
    assert {site.site: (site.role, site.kinds[0]) for site in found.sites} == expected


def check_rate_zero(case: Case, found: Discovery) -> None:
    """All rates 0: output, gradients and buffers bitwise those without dropout."""
    bare, model = without_dropout(case, found.sites), instrumented(case, found.sites)
    output = run(bare, case.inputs)
    torch.autograd.backward(square_mean(output, torch.zeros(1)))
    same, gradients = train_forward(model, case.inputs)
    assert torch.equal(same, output)
    expected = gradients_of(bare)
    assert gradients.keys() == expected.keys()
    assert all(torch.equal(gradients[name], expected[name]) for name in expected)
    state = model.state_dict()
    assert all(torch.equal(state[key], value) for key, value in bare.state_dict().items())


def check_evaluation(case: Case, found: Discovery) -> None:
    """In evaluation bitwise the bare model, at any rate.

    Gradients are on: without them `nn.TransformerEncoderLayer` alone takes a fused path of other
    rounding, and only where nothing is instrumented. Then the two are equal to rounding.
    """
    bare, model = case.model().eval(), instrumented(case, found.sites, rate=RATE).eval()
    with site_mode(model, vmapped=False):
        output = run(model, case.inputs)
        with torch.no_grad():
            rounded = run(model, case.inputs)
    assert torch.equal(output, run(bare, case.inputs))
    with torch.no_grad():
        torch.testing.assert_close(rounded, run(bare, case.inputs), rtol=1e-4, atol=1e-5)


def check_each_site_acts(case: Case, found: Discovery) -> None:
    """Every site alone, with every kind it allows, changes the output of training."""
    model = case.model()
    columns = [port_of(site, kind) for site in found.sites for kind in site.kinds]
    instrument(model, columns)
    rates, none = model.get_buffer(RATES), _train_output(model, case.inputs)
    for index, port in enumerate(columns):
        rates.zero_()[index] = 0.5
        output = _train_output(model, case.inputs)
        assert not torch.equal(output, none), f"{port.site} as {port.kind} does nothing"


@torch.no_grad()
def _train_output(model: nn.Module, inputs: Inputs) -> Tensor:
    with site_mode(model, vmapped=False):
        return run(model, inputs)


def check_state(case: Case, found: Discovery) -> None:
    """Keys of the state are the same, it loads strictly, and `strip` leaves nothing behind."""
    bare, model = case.model(1), instrumented(case, found.sites, rate=RATE)
    assert list(model.state_dict()) == list(bare.state_dict())
    model.load_state_dict(bare.state_dict(), strict=True)
    strip(model)
    assert vars(model).keys() == vars(bare).keys()
    assert [name for name, _ in model.named_buffers()] == [n for n, _ in bare.named_buffers()]
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())


def check_gradients(case: Case, found: Discovery) -> None:
    """With dropout everywhere output and gradients are finite."""
    output, gradients = train_forward(instrumented(case, found.sites, rate=RATE), case.inputs)
    assert output.isfinite().all()
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients.values())


def check_deepcopy(case: Case, found: Discovery) -> None:
    """A copy has the same masks, and rates of its own."""
    model = instrumented(case, found.sites, rate=RATE)
    twin = copy.deepcopy(model)
    _compare_twin(model, twin, case.inputs)


def check_pickle(case: Case, found: Discovery) -> None:
    """A model that was saved and loaded has the same masks, and rates of its own."""
    model, file = instrumented(case, found.sites, rate=RATE), io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    _compare_twin(model, torch.load(file, weights_only=False), case.inputs)


def _compare_twin(model: nn.Module, twin: nn.Module, inputs: Inputs) -> None:
    output, _ = train_forward(model, inputs)
    assert torch.equal(train_forward(twin, inputs)[0], output)
    model.get_buffer(RATES).zero_()
    assert torch.equal(train_forward(twin, inputs)[0].isnan(), output.isnan())
    assert twin.get_buffer(RATES).gt(0).all()


def check_pack(case: Case, found: Discovery) -> None:
    """Three trials as one: outputs and gradients those of each trained alone, in float64."""
    alone = [_trial(case, found, slot) for slot in range(N_PACKED)]
    inputs = _double(case.inputs)
    expected = [train_forward(copy.deepcopy(model), inputs) for model in alone]
    parameters = _stacked([dict(model.named_parameters()) for model in alone])
    buffers = _stacked([dict(model.named_buffers()) for model in alone])
    for parameter in parameters.values():
        parameter.requires_grad_()
    output = forward_of(alone[0], "fused")(parameters, buffers, _repeated(inputs))
    torch.autograd.backward([square_mean(o, torch.zeros(1, dtype=o.dtype)) for o in output])
    for slot, (own, gradients) in enumerate(expected):
        torch.testing.assert_close(output[slot].detach(), own, rtol=TOLERANCE, atol=1e-12)
        for name, gradient in gradients.items():
            fused = parameters[name].grad
            assert fused is not None, name
            is_close = torch.allclose(fused[slot], gradient, rtol=TOLERANCE, atol=1e-12)
            assert is_close, f"gradient of {name} in slot {slot}"


def _trial(case: Case, found: Discovery, slot: int) -> nn.Module:
    """A trial with weights, rates, seed and step of its own; its first site is off in one."""
    model = instrumented(case, found.sites, seed=slot).double()
    rates = torch.linspace(0.1, 0.5, len(found.sites)).roll(slot)
    rates[0] *= slot > 0
    model.get_buffer(RATES).data = rates.float()
    model.get_buffer(SEED).fill_(100 + slot)
    model.get_buffer(STEP).fill_(slot)
    return model


def _stacked(named: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([n[name].detach() for n in named]) for name in named[0]}


def _double(inputs: Inputs) -> Inputs:
    if isinstance(inputs, dict):
        return {name: _double_tensor(tensor) for name, tensor in inputs.items()}
    return _double_tensor(inputs)


def _double_tensor(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def _repeated(inputs: Inputs) -> Inputs:
    if isinstance(inputs, dict):
        return {name: torch.stack([tensor] * N_PACKED) for name, tensor in inputs.items()}
    return torch.stack([inputs] * N_PACKED)


def check_compile(case: Case, found: Discovery) -> None:
    """One graph without a break serves four rates, and gives what eager gives."""
    model = instrumented(case, found.sites)
    graphs: list[object] = []

    def count(graph: torch.fx.GraphModule, inputs: Sequence[Any]) -> Any:
        graphs.append(graph)
        return aot_autograd(fw_compiler=lambda g, _: g.forward)(graph, inputs)

    def step(parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Inputs) -> Tensor:
        args, kwargs = arguments_of(model, x)
        with site_mode(model, vmapped=False):
            output = functional_call(model, {**parameters, **buffers}, args, kwargs)
        return primary_output(output)

    torch._dynamo.reset()
    compiled: Callable[..., Tensor] = torch.compile(step, fullgraph=True, backend=count)
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())
    for rate in (0.0, 0.1, 0.25, 0.5):
        buffers[RATES] = torch.full((len(found.sites),), rate)
        own = {name: buffer.clone() for name, buffer in buffers.items()}
        output = compiled(parameters, own, case.inputs)
        set_rates(model, {site.site: rate for site in found.sites})
        eager = copy.deepcopy(model)
        expected, _ = train_forward(eager, case.inputs)
        # To rounding: a graph that serves all rates writes attention out.
        torch.testing.assert_close(output.detach(), expected, rtol=1e-4, atol=1e-5)
    assert len(graphs) == 1


CHECKS: dict[str, Callable[[Case, Discovery], None]] = {
    "expected": check_expected,
    "rate zero": check_rate_zero,
    "evaluation": check_evaluation,
    "each site acts": check_each_site_acts,
    "state": check_state,
    "gradients": check_gradients,
    "deepcopy": check_deepcopy,
    "pickle": check_pickle,
    "pack": check_pack,
    "compile": check_compile,
}
