"""Recurrent layers: cells in tensor operations and layer by layer, against torch itself."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from dropt_trainer.sites.recurrent import (
    RecurrentCall,
    read_call,
    run_cell,
    run_cells,
    run_natively,
)

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "lstm": torch.lstm,
    "gru": torch.gru,
    "rnn_tanh": torch.rnn_tanh,
    "rnn_relu": torch.rnn_relu,
}
N_EXAMPLES, N_STEPS, WIDTH, HIDDEN = 3, 4, 5, 6


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64) * 0.5


def module_of(name: str, **options: Any) -> nn.RNNBase:
    classes: dict[str, Any] = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn_tanh": nn.RNN}
    extra = {"nonlinearity": "relu"} if name == "rnn_relu" else {}
    module = classes.get(name, nn.RNN)(WIDTH, HIDDEN, **extra, **options).double()
    assert isinstance(module, nn.RNNBase)
    with torch.no_grad():
        for number, parameter in enumerate(module.parameters()):
            parameter.copy_(normal(*parameter.shape, seed=number))
    return module


def call_of(name: str, module: nn.RNNBase, x: Tensor | PackedSequence) -> RecurrentCall:
    shape = (module.num_layers * (2 if module.bidirectional else 1), N_EXAMPLES)
    hidden = normal(*shape, module.proj_size or HIDDEN, seed=90)
    states = (hidden, normal(*shape, HIDDEN, seed=91)) if name == "lstm" else hidden
    weights, n_layers = list(module.parameters()), module.num_layers
    common = (states, weights, module.bias, n_layers, 0.0, True, module.bidirectional)
    if isinstance(x, PackedSequence):
        return read_call(FUNCTIONS[name], (x.data, x.batch_sizes, *common), {})
    return read_call(FUNCTIONS[name], (x, *common, module.batch_first), {})


def assert_same(call: RecurrentCall, mine: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> None:
    """Outputs and gradients, to rounding in float64."""
    assert len(mine) == len(theirs)
    weights = list(call.weights)
    totals = [
        torch.cat([part.flatten() for part in parts]).square().sum() for parts in (mine, theirs)
    ]
    gradients = [torch.autograd.grad(total, weights, retain_graph=True) for total in totals]
    for own, expected in zip((*mine, *gradients[0]), (*theirs, *gradients[1]), strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-11, atol=1e-12)


COMBINATIONS = list(itertools.product([False, True], repeat=3))


@pytest.mark.parametrize(("bidirectional", "batch_first", "bias"), COMBINATIONS)
@pytest.mark.parametrize("n_layers", [1, 3])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_cells_equal_the_native_function(
    name: str, n_layers: int, bidirectional: bool, batch_first: bool, bias: bool
) -> None:
    module = module_of(
        name, num_layers=n_layers, bidirectional=bidirectional, batch_first=batch_first, bias=bias
    )
    x = normal(*((N_EXAMPLES, N_STEPS) if batch_first else (N_STEPS, N_EXAMPLES)), WIDTH, seed=80)
    call = call_of(name, module, x)
    whole = run_natively(call, None)
    assert_same(call, run_cells(call, None), whole)
    assert_same(call, run_natively(call, lambda x: x), whole)


@pytest.mark.parametrize("bias", [False, True])
def test_cells_of_an_lstm_with_projection_equal_the_native_function(bias: bool) -> None:
    module = module_of("lstm", num_layers=2, bidirectional=True, proj_size=2, bias=bias)
    call = call_of("lstm", module, normal(N_STEPS, N_EXAMPLES, WIDTH, seed=80))
    whole = run_natively(call, None)
    assert_same(call, run_cells(call, None), whole)
    assert_same(call, run_natively(call, lambda x: x), whole)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_layers_of_a_packed_sequence_run_one_by_one(name: str) -> None:
    module = module_of(name, num_layers=3, bidirectional=True)
    x = normal(N_STEPS, N_EXAMPLES, WIDTH, seed=80)
    call = call_of(name, module, pack_padded_sequence(x, torch.tensor([4, 2, 1])))
    assert_same(call, run_natively(call, lambda x: x), run_natively(call, None))


@pytest.mark.parametrize("run", [run_natively, run_cells])
def test_what_stands_between_acts_between_the_layers_alone(run: Any) -> None:
    """Against two modules of one layer each; neither the input nor the last output is touched."""
    module = module_of("gru", num_layers=2)
    x = normal(N_STEPS, N_EXAMPLES, WIDTH, seed=80)
    call = call_of("gru", module, x)
    result = run(call, lambda x: x * x)
    lower, upper = nn.GRU(WIDTH, HIDDEN).double(), nn.GRU(HIDDEN, HIDDEN).double()
    with torch.no_grad():
        parameters = [*lower.parameters(), *upper.parameters()]
        for parameter, weight in zip(parameters, call.weights, strict=True):
            parameter.copy_(weight)
    middle, _ = lower(x, call.states[0][:1])
    expected, end = upper(middle * middle, call.states[0][1:])
    torch.testing.assert_close(result[0], expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(result[1][1:], end, rtol=1e-12, atol=1e-12)


def test_a_call_is_read_by_place_and_by_name() -> None:
    module, x = module_of("gru"), normal(N_STEPS, N_EXAMPLES, WIDTH)
    by_place = call_of("gru", module, x)
    weights = list(module.parameters())
    by_name = read_call(
        torch.gru,
        (x,),
        {
            "hx": by_place.states[0],
            "params": weights,
            "has_biases": True,
            "num_layers": 1,
            "dropout": 0.0,
            "train": True,
            "bidirectional": False,
            "batch_first": False,
        },
    )
    assert torch.equal(run_natively(by_name, None)[0], run_natively(by_place, None)[0])
    packed = pack_padded_sequence(x, torch.tensor([4, 2, 1]))
    assert call_of("gru", module, packed).batch_sizes is packed.batch_sizes


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("lstm", torch.lstm_cell),
        ("gru", torch.gru_cell),
        ("rnn_tanh", torch.rnn_tanh_cell),
        ("rnn_relu", torch.rnn_relu_cell),
    ],
)
def test_one_step_equals_the_native_cell(name: str, function: Any, bias: bool) -> None:
    weights = list(module_of(name, bias=bias).parameters())
    x, hidden = normal(N_EXAMPLES, WIDTH, seed=80), normal(N_EXAMPLES, HIDDEN, seed=81)
    state = (hidden, normal(N_EXAMPLES, HIDDEN, seed=82)) if name == "lstm" else hidden
    mine, theirs = run_cell(name, x, state, *weights), function(x, state, *weights)
    torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)
