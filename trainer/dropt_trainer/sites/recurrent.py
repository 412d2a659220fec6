"""Recurrent layers with a site between them: one native call per layer, or cells under vmap.

torch's recurrent functions draw the masks between their layers themselves and have no batching
rule. Shapes: T steps, B examples, D features, H hidden units; [T, B, D], or [B, T, D] if
`batch_first`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor

Between = Callable[[Tensor], Tensor]
State = tuple[Tensor, ...]  # hidden units [B, H], of an LSTM also cells
# One step: projected input [B, gates * H], state, weight and bias of the state -> state.
Cell = Callable[[Tensor, State, Tensor, Tensor | None], State]
_COMMON = ("hx", "params", "has_biases", "num_layers", "dropout", "train", "bidirectional")
PADDED_ARGUMENTS = ("input", *_COMMON, "batch_first")
PACKED_ARGUMENTS = ("data", "batch_sizes", *_COMMON)


@dataclass(frozen=True)
class RecurrentCall:
    """The arguments of `torch.lstm`, `gru`, `rnn_tanh` or `rnn_relu`.

    Attributes:
        function: which of them.
        x: [T, B, D] or [B, T, D], or [N, D] of a PackedSequence.
        batch_sizes: [T], of a PackedSequence.
        states: each [layers * directions, B, H]; two for an LSTM.
        weights: of all layers and directions, one after the other.
        rate: of dropout between layers; may be a tag.
    """

    function: Callable[..., Any]
    x: Tensor
    batch_sizes: Tensor | None
    states: State
    weights: Sequence[Tensor]
    has_biases: bool
    n_layers: int
    rate: float
    training: bool
    bidirectional: bool
    batch_first: bool

    @property
    def n_directions(self) -> int:
        """1 or 2."""
        return 2 if self.bidirectional else 1


def read_call(
    function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> RecurrentCall:
    """The call of a recurrent function, in either of its two forms."""
    is_packed = "batch_sizes" in kwargs or (len(args) > 3 and not isinstance(args[3], bool))
    names = PACKED_ARGUMENTS if is_packed else PADDED_ARGUMENTS
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    hidden = given["hx"]
    return RecurrentCall(
        function=function,
        x=given[names[0]],
        batch_sizes=given.get("batch_sizes"),
        states=(hidden,) if isinstance(hidden, Tensor) else tuple(hidden),
        weights=given["params"],
        has_biases=given["has_biases"],
        n_layers=given["num_layers"],
        rate=given["dropout"],
        training=given["train"],
        bidirectional=given["bidirectional"],
        batch_first=given.get("batch_first", False),
    )


def run_natively(call: RecurrentCall, between: Between | None) -> tuple[Tensor, ...]:
    """The function of torch: once if nothing acts between the layers, else once per layer."""
    if between is None:
        return _call_natively(call, call.x, call.states, call.weights, call.n_layers)
    x, ends = call.x, []
    for layer in range(call.n_layers):
        x, *end = _call_natively(call, x, *_part_of(call, layer), 1)
        ends.append(end)
        if layer < call.n_layers - 1:
            x = between(x)
    return (x, *(torch.cat(parts) for parts in zip(*ends, strict=True)))


def run_cells(call: RecurrentCall, between: Between | None) -> tuple[Tensor, ...]:
    """The same in tensor operations, each of which has a batching rule.

    Returns:
        As torch's function: the output, and each state at its end.
    """
    x, ends = call.x, []
    for layer in range(call.n_layers):
        x, end = _run_layer(call, x, layer)
        ends += end
        if between is not None and layer < call.n_layers - 1:
            x = between(x)
    return (x, *(torch.stack(parts) for parts in zip(*ends, strict=True)))


def run_cell(
    kind: str,
    x: Tensor,
    state: Tensor | Sequence[Tensor],
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> Tensor | State:
    """One step of `torch.lstm_cell` and its like; a single tensor, or an LSTM's pair."""
    projected = F.linear(x, w_ih, b_ih)
    if isinstance(state, Tensor):
        return CELLS[kind](projected, (state,), w_hh, b_hh)[0]
    return CELLS[kind](projected, tuple(state), w_hh, b_hh)


def _call_natively(
    call: RecurrentCall, x: Tensor, states: State, weights: Sequence[Tensor], n_layers: int
) -> tuple[Tensor, ...]:
    hidden = states if len(states) > 1 else states[0]
    rest = (hidden, weights, call.has_biases, n_layers, 0.0, call.training, call.bidirectional)
    if call.batch_sizes is not None:
        result: tuple[Tensor, ...] = call.function(x, call.batch_sizes, *rest)
    else:
        result = call.function(x, *rest, call.batch_first)
    return result


def _part_of(call: RecurrentCall, layer: int) -> tuple[State, Sequence[Tensor]]:
    """States and weights of a layer."""
    first, last = layer * call.n_directions, (layer + 1) * call.n_directions
    n_weights = len(call.weights) // call.n_layers
    weights = call.weights[layer * n_weights : (layer + 1) * n_weights]
    return tuple(state[first:last] for state in call.states), weights


def _run_layer(call: RecurrentCall, x: Tensor, layer: int) -> tuple[Tensor, list[State]]:
    """Output of one layer, in the layout of its input, and the state at the end by direction."""
    states, weights = _part_of(call, layer)
    time_dim = 1 if call.batch_first else 0
    n_weights = len(weights) // call.n_directions
    outputs, ends = [], []
    for direction in range(call.n_directions):
        own = weights[direction * n_weights : (direction + 1) * n_weights]
        state = tuple(each[direction] for each in states)
        output, end = _run_direction(
            call, x, state, own, time_dim=time_dim, is_reversed=direction == 1
        )
        outputs.append(output)
        ends.append(end)
    return (torch.cat(outputs, -1) if len(outputs) > 1 else outputs[0]), ends


def _run_direction(
    call: RecurrentCall,
    x: Tensor,
    state: State,
    weights: Sequence[Tensor],
    *,
    time_dim: int,
    is_reversed: bool,
) -> tuple[Tensor, State]:
    """All steps in one direction: outputs [T, B, H] or [B, T, H], and the state at the end."""
    w_ih, w_hh, *others = weights
    b_ih, b_hh = others[:2] if call.has_biases else (None, None)
    projection = others[2:] if call.has_biases else others  # of an LSTM with `proj_size`
    cell = CELLS[call.function.__name__]
    outputs = []
    steps = F.linear(x, w_ih, b_ih).unbind(time_dim)
    for step in reversed(steps) if is_reversed else steps:
        state = cell(step, state, w_hh, b_hh)
        if projection:
            state = (F.linear(state[0], projection[0]), *state[1:])
        outputs.append(state[0])
    return torch.stack(outputs[::-1] if is_reversed else outputs, time_dim), state


def _lstm(x: Tensor, state: State, w_hh: Tensor, b_hh: Tensor | None) -> State:
    """Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000."""
    hidden, cells = state
    enter, forget, new, leave = (x + F.linear(hidden, w_hh, b_hh)).chunk(4, -1)
    cells = forget.sigmoid() * cells + enter.sigmoid() * new.tanh()
    return leave.sigmoid() * cells.tanh(), cells


def _gru(x: Tensor, state: State, w_hh: Tensor, b_hh: Tensor | None) -> State:
    """Cho et al. 2014; the reset gate acts behind the product, as in torch and cuDNN."""
    (hidden,) = state
    x_reset, x_keep, x_new = x.chunk(3, -1)
    reset, keep, new = F.linear(hidden, w_hh, b_hh).chunk(3, -1)
    new = (x_new + (x_reset + reset).sigmoid() * new).tanh()
    return (new + (x_keep + keep).sigmoid() * (hidden - new),)


def _rnn_tanh(x: Tensor, state: State, w_hh: Tensor, b_hh: Tensor | None) -> State:
    return ((x + F.linear(state[0], w_hh, b_hh)).tanh(),)


def _rnn_relu(x: Tensor, state: State, w_hh: Tensor, b_hh: Tensor | None) -> State:
    return ((x + F.linear(state[0], w_hh, b_hh)).relu(),)


CELLS: Mapping[str, Cell] = {
    "lstm": _lstm, "gru": _gru, "rnn_tanh": _rnn_tanh, "rnn_relu": _rnn_relu,
}  # fmt: skip
