"""What is trained in the GPU benchmark: the same trials by hand and as packs.

Rows are random numbers of the shapes of real data, on the device: what is measured is speed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from dropt_trainer.fused.pack import Pack
from dropt_trainer.fused.slots import SlotTrial, data_order
from dropt_trainer.fused.step import Lane
from dropt_trainer.models import build
from dropt_trainer.optim import Params
from dropt_trainer.sites.instrument import SitePort

RATE, LR, WEIGHT_DECAY = 0.2, 1e-3, 1e-2
N_CLASSES, N_TOKENS = 10, 1000
WARM_UPS = 3  # steps before a capture, as PyTorch's notes on CUDA graphs ask for

Steps = Callable[[int], Tensor]  # trains so many steps, gives the last losses


@dataclass(frozen=True)
class Case:
    """A model with dropout behind these layers; `goal` is against eager, as issue 4 states it."""

    name: str
    model: str
    args: Mapping[str, object]
    sites: tuple[str, ...]
    input_shape: tuple[int, ...]
    goal: float
    batch_size: int = 64
    n_rows: int = 8192
    tokens: bool = False

    def build(self, seed: int) -> nn.Module:
        return build(
            self.model, self.args, input_shape=self.input_shape, n_outputs=N_CLASSES, seed=seed,
            n_tokens=N_TOKENS if self.tokens else None,
        )  # fmt: skip

    def rows(self, device: torch.device) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(0)
        shape = (self.n_rows, *self.input_shape)
        if self.tokens:
            x = torch.randint(0, N_TOKENS, shape, generator=generator)
        else:
            x = torch.randn(shape, generator=generator)
        y = torch.randint(0, N_CLASSES, (self.n_rows,), generator=generator)
        return x.to(device), y.to(device)


CASES = (
    Case(
        "MLP 784-256-256-10", "mlp", {"hidden": [256, 256]}, ("layers.1", "layers.3"), (784,), 50
    ),
    Case("CNN 16-32", "cnn", {"channels": [16, 32], "hidden": 64}, ("head.1",), (28, 28), 15),
    Case("LSTM 28x28 to 64", "lstm", {"hidden": 64}, ("rnn",), (28, 28), 20),
    Case(
        "transformer 2 x 128, 64 tokens (tiny BERT)", "transformer",
        {"width": 128, "heads": 2, "depth": 2, "feedforward": 512},
        ("blocks.0.feedforward.1", "blocks.1.feedforward.1"), (64,), 10, tokens=True,
    ),
)  # fmt: skip


def eager(case: Case, device: torch.device, *, rate: float = RATE) -> Steps:
    """What an expert writes: tensors on the device, AdamW(fused=True)."""
    step, batches = _by_hand(case, device, rate=rate, capturable=False)
    x, y = case.rows(device)

    def steps(n: int) -> Tensor:
        for number in range(n):
            index = batches[number % len(batches)]
            loss = step(x[index], y[index])
        return loss

    return steps


def one_graph(case: Case, device: torch.device) -> Steps:
    """The same with the whole step in a CUDA graph."""
    step, batches = _by_hand(case, device, rate=RATE, capturable=True)
    x, y = case.rows(device)
    held_x, held_y = x[batches[0]].clone(), y[batches[0]].clone()
    side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch's own
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        for _ in range(WARM_UPS):
            step(held_x, held_y)
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step(held_x, held_y)

    def steps(n: int) -> Tensor:
        for number in range(n):
            index = batches[number % len(batches)]
            torch.index_select(x, 0, index, out=held_x)
            torch.index_select(y, 0, index, out=held_y)
            graph.replay()
        return loss

    return steps


def _by_hand(
    case: Case, device: torch.device, *, rate: float, capturable: bool
) -> tuple[Callable[[Tensor, Tensor], Tensor], list[Tensor]]:
    model = case.build(0).to(device)
    for path in case.sites:
        model.get_submodule(path).register_forward_hook(partial(_drop, rate=rate))
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LR, weight_decay=WEIGHT_DECAY, fused=True, capturable=capturable
    )

    def step(x: Tensor, y: Tensor) -> Tensor:
        loss = functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        torch.autograd.backward([loss])
        optimizer.step()
        return loss.detach()

    order = data_order(0, 1, case.n_rows).to(device)
    return step, list(torch.split(order, case.batch_size))[:-1]


def _drop(module: nn.Module, args: object, output: object, *, rate: float) -> object:
    """nn.Dropout on an output, or on the first of several."""
    if isinstance(output, tuple):
        return (functional.dropout(output[0], rate), *output[1:])
    assert isinstance(output, Tensor)
    return functional.dropout(output, rate)


def pack_of(
    case: Case, device: torch.device, n_slots: int, *, lane: Lane = "fused",
    precision: str = "float32", rate: float = RATE,
) -> Pack:  # fmt: skip
    """So many trials, with seeds from 0."""
    pack = Pack(
        case.build, [SitePort(f"{path}:out", "element") for path in case.sites], slots=n_slots,
        optimizer="adamw", loss="cross_entropy", lane=lane, device=device, precision=precision,
    )  # fmt: skip
    for slot in range(n_slots):
        pack.load(slot, trial(pack, slot, rate=rate))
    return pack


def trial(pack: Pack, seed: int, *, epochs: int = 1, rate: float = RATE) -> SlotTrial:
    rates = {port.site: rate for port in pack.ports}
    return SlotTrial(seed, epochs, Params(LR, WEIGHT_DECAY), rates=rates)


def packed(case: Case, pack: Pack) -> Steps:
    """The trials of a pack, each with its own order of the rows."""
    x, y = case.rows(pack.device)
    orders = [data_order(slot, 1, case.n_rows) for slot in range(pack.n_slots)]
    order = torch.stack(orders).to(pack.device)
    batches = list(torch.split(order, case.batch_size, dim=1))[:-1]

    def steps(n: int) -> Tensor:
        for number in range(n):
            index = batches[number % len(batches)]
            losses = pack.step(x[index], y[index])
        return losses

    return steps
