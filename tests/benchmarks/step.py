"""One training step of a pack against plain PyTorch loops, per trial.

Run with `python -m tests.benchmarks.step`; one thread, product and peers in turn. The peers are
what an expert writes, with dropout at the same places:

- loader: a DataLoader and AdamW as they come;
- tensors: rows picked from tensors, AdamW(fused=True);
- compiled: the same with torch.compile; compiling, which may take a minute, is told apart.

Ratios are over the fastest of the three. CPU time is the measure, because other programs disturb
it less; wall time is printed beside it. The lane that the probe chooses is marked.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from dropt_trainer.data.builtin import load
from dropt_trainer.data.dataset import Dataset, take
from dropt_trainer.data.prepare import Prepared, prepare
from dropt_trainer.device import choose, describe, keep_freed_memory
from dropt_trainer.dropout.masks import backend
from dropt_trainer.fused.lanes import Subject, probe
from dropt_trainer.fused.pack import Pack
from dropt_trainer.fused.slots import SlotTrial, data_order
from dropt_trainer.fused.step import Lane
from dropt_trainer.models import build
from dropt_trainer.optim import Params
from dropt_trainer.sites.instrument import SitePort

RATE, LR, WEIGHT_DECAY = 0.2, 1e-3, 1e-2
SLOTS = (4, 16, 64)
PEERS = ("loader", "tensors", "compiled")
N_DRAWN, N_TOKENS = 2048, 64
WARM_STEPS, STEPS = 5, 40  # of a repetition; an epoch of the data sets has at least as many rows


@dataclass(frozen=True)
class Case:
    """A model on a data set, with dropout behind these layers and at these rates of layers.

    Attributes:
        data: a data set by name, or [T] and classes of tokens, or [T, D] and classes of vectors,
            which are drawn: a step takes as long on any.
    """

    data: str | tuple[tuple[int, ...], int]
    model: str
    args: Mapping[str, object]
    behind: tuple[str, ...] = ()
    rates: tuple[str, ...] = ()
    batch_size: int = 32

    @property
    def name(self) -> str:
        sizes = " ".join(f"{key}={value}" for key, value in self.args.items())
        data = self.data if isinstance(self.data, str) else f"{list(self.data[0])}"
        return f"{self.model} {sizes} on {data}, B={self.batch_size}".replace("  ", " ")

    @property
    def ports(self) -> list[SitePort]:
        return [
            *(SitePort(f"{path}:out", "element") for path in self.behind),
            *(SitePort(f"{path}:dropout", "element") for path in self.rates),
        ]

    def load(self) -> Prepared:
        if isinstance(self.data, str):
            dataset = load(self.data)
            assert dataset.split is not None
            return prepare(dataset, dataset.split)
        return drawn(*self.data)

    def build(self, data: Prepared, seed: int) -> nn.Module:
        return build(
            self.model, self.args, input_shape=data.input_shape, n_outputs=data.n_outputs,
            task=data.task, n_tokens=data.n_tokens, seed=seed,
        )  # fmt: skip


def drawn(shape: tuple[int, ...], n_classes: int) -> Prepared:
    """Token ids of a vocabulary of 64 [T], or vectors [T, D], at random."""
    generator = torch.Generator().manual_seed(0)
    size = (N_DRAWN, *shape)
    is_tokens = len(shape) == 1
    x = (torch.randint(0, N_TOKENS, size, generator=generator) if is_tokens
         else torch.randn(size, generator=generator))  # fmt: skip
    dataset = Dataset(
        x=x, y=torch.randint(0, n_classes, (N_DRAWN,), generator=generator),
        task="classification", n_outputs=n_classes, n_tokens=N_TOKENS if is_tokens else None,
    )  # fmt: skip
    return prepare(dataset, (torch.arange(N_DRAWN) % 32 == 0).to(torch.int8))


def mlp(data: str, *hidden: int, batch_size: int = 32) -> Case:
    layers = tuple(f"layers.{2 * i + 1}" for i in range(len(hidden)))
    return Case(data, "mlp", {"hidden": list(hidden)}, layers, batch_size=batch_size)


CASES = (
    mlp("digits", 16, 16),
    mlp("digits", 64, 64),
    mlp("digits", 128, 64),
    mlp("digits", 128, 64, batch_size=64),
    mlp("mnist10k", 128, 64),
    mlp("mnist10k", 256, 256),
    Case("digits", "cnn", {"channels": [16, 32], "hidden": 64}, ("head.1",)),
    Case("digits", "resnet", {}),
    Case(((28, 28), 10), "gru", {"hidden": 64, "layers": 1}, ("rnn",)),
    Case(((28, 28), 10), "gru", {"hidden": 32, "layers": 2}, (), ("rnn",)),
    Case(((28, 28), 10), "lstm", {"hidden": 32, "layers": 2}, (), ("rnn",)),
    Case(((16,), 4), "transformer", {"width": 32, "depth": 1}, ("blocks.0.feedforward.1",),
         ("blocks.0.attention",)),
    Case(((16,), 4), "transformer", {"width": 64, "depth": 2, "feedforward": 128},
         ("blocks.0.feedforward.1", "blocks.1.feedforward.1"),
         ("blocks.0.attention", "blocks.1.attention")),
)  # fmt: skip

Steps = Callable[[int], Tensor]  # trains so many steps, gives the last losses


def plain_model(case: Case, data: Prepared, rate: float) -> nn.Module:
    """The user's model with dropout written by hand."""
    model = case.build(data, seed=0)
    for path in case.behind:
        parent, _, name = path.rpartition(".")
        layers = model.get_submodule(parent)
        setattr(layers, name, Dropping(layers.get_submodule(name), rate))
    for path in case.rates:
        model.get_submodule(path).dropout = rate  # type: ignore[assignment]  # a float
    return model


class Dropping(nn.Module):
    """A module and nn.Dropout behind its output."""

    def __init__(self, module: nn.Module, rate: float) -> None:
        super().__init__()
        self.module, self.dropout = module, nn.Dropout(rate)

    def forward(self, x: Tensor) -> object:
        out = self.module(x)
        return (self.dropout(out[0]), *out[1:]) if isinstance(out, tuple) else self.dropout(out)


def tensors(case: Case, data: Prepared, *, rate: float = RATE, compiled: bool = False) -> Steps:
    """A loop over rows of tensors."""
    model = plain_model(case, data, rate)
    call = torch.compile(model) if compiled else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=WEIGHT_DECAY, fused=True)
    train, x = data.parts["train"], _held(data)
    batches = list(torch.split(data_order(0, 1, len(train)), case.batch_size))[:-1]

    def steps(n: int) -> Tensor:
        for step in range(n):
            index = batches[step % len(batches)]
            loss = functional.cross_entropy(call(take(x, index)), train.y[index])
            optimizer.zero_grad()
            torch.autograd.backward([loss])
            optimizer.step()
        return loss.detach()

    return steps


def loader(case: Case, data: Prepared) -> Steps:
    """A loop over a DataLoader."""
    model = plain_model(case, data, RATE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=WEIGHT_DECAY)
    train = TensorDataset(_held(data), data.parts["train"].y)
    batches = DataLoader(train, batch_size=case.batch_size, shuffle=True, drop_last=True)

    def endless() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield from batches

    rows = endless()

    def steps(n: int) -> Tensor:
        for _ in range(n):
            x, y = next(rows)
            loss = functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            torch.autograd.backward([loss])
            optimizer.step()
        return loss.detach()

    return steps


def _held(data: Prepared) -> Tensor:
    """The training inputs, which are on the device."""
    x = data.parts["train"].x
    assert isinstance(x, Tensor)
    return x


def packed(case: Case, data: Prepared, n_slots: int, lane: Lane, *, rate: float = RATE) -> Steps:
    """The same trials, with seeds from 0, as a pack."""
    pack = Pack(
        lambda seed: case.build(data, seed), case.ports, slots=n_slots, optimizer="adamw",
        loss="cross_entropy", lane=lane,
    )  # fmt: skip
    for slot in range(n_slots):
        rates = {port.site: rate for port in pack.ports}
        pack.load(slot, SlotTrial(slot, 1, Params(LR, WEIGHT_DECAY), rates=rates))
    train, x = data.parts["train"], _held(data)
    order = torch.stack([data_order(slot, 1, len(train)) for slot in range(n_slots)])
    batches = list(torch.split(order, case.batch_size, dim=1))[:-1]

    def steps(n: int) -> Tensor:
        for step in range(n):
            index = batches[step % len(batches)]
            losses = pack.step(take(x, index), train.y[index])
        return losses

    return steps


def check_equal_work(case: Case, data: Prepared) -> None:
    """Without dropout the first trial of a pack is the plain loop, within rounding."""
    a = tensors(case, data, rate=0.0)(5)
    b = packed(case, data, 4, "fused", rate=0.0)(5)[0]
    torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def chosen(case: Case, data: Prepared) -> str:
    """The lane and the number of slots that the probe chooses for this model, of at most 64."""
    train, size = data.parts["train"], case.batch_size
    subject = Subject(
        lambda seed: case.build(data, seed), case.ports, x=_held(data)[:size], y=train.y[:size],
        optimizer="adamw", loss="cross_entropy",
    )  # fmt: skip
    found = probe(subject, max_slots=max(SLOTS), clock=time.perf_counter)
    return found.lane if found.lane == "solo" else f"K={found.slots}"


@dataclass(frozen=True)
class Row:
    """Microseconds per trial-step over the repetitions."""

    name: str
    cpu: tuple[float, ...]
    wall: tuple[float, ...]


def measure(contenders: Mapping[str, tuple[Steps, int]], repeats: int) -> list[Row]:
    """Each contender in turn, so many times."""
    for steps, _ in contenders.values():
        steps(WARM_STEPS)
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, (steps, n_trials) in contenders.items():
            wall, cpu = time.perf_counter(), time.process_time()
            steps(STEPS)
            scale = 1e6 / (STEPS * n_trials)
            spent = time.process_time() - cpu, time.perf_counter() - wall
            seen[name].append((spent[0] * scale, spent[1] * scale))
    return [
        Row(name, tuple(cpu for cpu, _ in values), tuple(wall for _, wall in values))
        for name, values in seen.items()
    ]


def run_case(case: Case, repeats: int, *, compiles: bool) -> tuple[list[Row], str]:
    data = case.load()
    check_equal_work(case, data)
    contenders = {"loader": (loader(case, data), 1), "tensors": (tensors(case, data), 1)}
    if compiles:
        contenders["compiled"] = (tensors(case, data, compiled=True), 1)
    contenders["solo"] = (packed(case, data, 1, "solo"), 1)
    contenders |= {f"K={k}": (packed(case, data, k, "fused"), k) for k in SLOTS}
    return measure(contenders, repeats), chosen(case, data)


def show(case: Case, rows: list[Row], lane: str) -> None:
    peer = min((row for row in rows if row.name in PEERS), key=lambda row: median(row.cpu))
    base = median(peer.cpu)
    print(f"\n{case.name}; the fastest peer: {peer.name}; the probe chooses {lane}")
    print("  us per trial-step     CPU median   min - max        wall   speed-up over it (CPU)")
    for row in rows:
        cpu = median(row.cpu)
        spread = f"{min(row.cpu):.0f} - {max(row.cpu):.0f}"
        mark = " <-" if row.name == lane else ""
        print(f"  {row.name:20s} {cpu:11.0f}   {spread:14s} {median(row.wall):6.0f} "
              f"{base / cpu:9.2f}{mark}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", default="", help="cases whose name has this text")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--json", type=Path, default=Path("bench-results/step.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    machine = {
        "device": describe(choose("cpu")).name, "python": platform.python_version(),
        "torch": torch.__version__, "threads": torch.get_num_threads(), "masks": backend(),
        "repeats": options.repeats, "steps": STEPS,
    }  # fmt: skip
    print("  ".join(f"{key} {value}" for key, value in machine.items()))
    results = {}
    for case in CASES:
        if options.only in case.name:
            rows, lane = run_case(case, options.repeats, compiles=not options.no_compile)
            show(case, rows, lane)
            results[case.name] = {
                "chosen": lane,
                **{row.name: {"cpu_us": row.cpu, "wall_us": row.wall} for row in rows},
            }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps({"machine": machine, "results": results}, indent=1))


if __name__ == "__main__":
    main()
