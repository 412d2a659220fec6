"""One training step of a pack against a plain PyTorch loop, per trial.

Run with `python -m tests.benchmarks.step`; one thread, product and baseline in turn. The plain
loop is what an expert writes: data as tensors, nn.Dropout, AdamW(fused=True). CPU time is the
measure, because other programs disturb it less; wall time is printed beside it.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn import functional

from dropt_trainer.data.builtin import load
from dropt_trainer.data.dataset import take
from dropt_trainer.data.prepare import Prepared, prepare
from dropt_trainer.device import choose, describe, keep_freed_memory
from dropt_trainer.dropout.masks import backend
from dropt_trainer.fused.pack import Pack
from dropt_trainer.fused.slots import SlotTrial, data_order
from dropt_trainer.fused.step import Lane
from dropt_trainer.models import build
from dropt_trainer.optim import Params
from dropt_trainer.sites.instrument import SitePort

RATE, LR, WEIGHT_DECAY = 0.2, 1e-3, 1e-2
SLOTS = (4, 16, 64)
WARM_STEPS, STEPS = 5, 40  # of a repetition; an epoch of the data sets has at least as many rows


@dataclass(frozen=True)
class Case:
    """A model on a data set, with dropout behind these layers."""

    dataset: str
    model: str
    args: Mapping[str, object]
    sites: tuple[str, ...]
    batch_size: int

    @property
    def name(self) -> str:
        widths = "-".join(str(w) for value in self.args.values() for w in _listed(value))
        return f"{self.model} {widths} on {self.dataset}, B={self.batch_size}"

    def build(self, data: Prepared, seed: int) -> nn.Module:
        return build(
            self.model, self.args, input_shape=data.input_shape, n_outputs=data.n_outputs,
            seed=seed,
        )  # fmt: skip


CASES = (
    Case("digits", "mlp", {"hidden": [16, 16]}, ("layers.1", "layers.3"), 64),
    Case("digits", "mlp", {"hidden": [64, 64]}, ("layers.1", "layers.3"), 64),
    Case("digits", "mlp", {"hidden": [128, 64]}, ("layers.1", "layers.3"), 64),
    Case("mnist10k", "mlp", {"hidden": [128, 64]}, ("layers.1", "layers.3"), 64),
    Case("digits", "cnn", {"channels": [16, 32], "hidden": 64}, ("head.1",), 64),
)

Steps = Callable[[int], Tensor]  # trains so many steps, gives the last losses


def plain(case: Case, data: Prepared, *, rate: float = RATE) -> Steps:
    """A loop over a model with nn.Dropout."""
    model = case.build(data, seed=0)
    for path in case.sites:
        parent, _, name = path.rpartition(".")
        layers = model.get_submodule(parent)
        setattr(layers, name, nn.Sequential(layers.get_submodule(name), nn.Dropout(rate)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=WEIGHT_DECAY, fused=True)
    train, x = data.parts["train"], _held(data)
    batches = list(torch.split(data_order(0, 1, len(train)), case.batch_size))[:-1]

    def steps(n: int) -> Tensor:
        for step in range(n):
            index = batches[step % len(batches)]
            loss = functional.cross_entropy(model(take(x, index)), train.y[index])
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
        lambda seed: case.build(data, seed),
        [SitePort(f"{path}:out", "element") for path in case.sites],
        slots=n_slots, optimizer="adamw", loss="cross_entropy", lane=lane,
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
    a = plain(case, data, rate=0.0)(5)
    b = packed(case, data, 4, "fused", rate=0.0)(5)[0]
    torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


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


def run_case(case: Case, repeats: int) -> list[Row]:
    dataset = load(case.dataset)
    assert dataset.split is not None
    data = prepare(dataset, dataset.split)
    check_equal_work(case, data)
    contenders = {
        "plain": (plain(case, data), 1),
        "solo": (packed(case, data, 1, "solo"), 1),
        **{f"K={k}": (packed(case, data, k, "fused"), k) for k in SLOTS},
    }
    return measure(contenders, repeats)


def show(case: Case, rows: list[Row]) -> None:
    print(f"\n{case.name}")
    print("  us per trial-step     CPU median   min - max        wall   speed-up over plain (CPU)")
    base = median(rows[0].cpu)
    for row in rows:
        cpu = median(row.cpu)
        spread = f"{min(row.cpu):.0f} - {max(row.cpu):.0f}"
        print(f"  {row.name:20s} {cpu:11.0f}   {spread:14s} {median(row.wall):6.0f} "
              f"{base / cpu:9.2f}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", default="", help="cases whose name has this text")
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
            rows = run_case(case, options.repeats)
            show(case, rows)
            results[case.name] = {
                row.name: {"cpu_us": row.cpu, "wall_us": row.wall} for row in rows
            }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps({"machine": machine, "results": results}, indent=1))


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


if __name__ == "__main__":
    main()
