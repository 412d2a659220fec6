"""The dropout op against `F.dropout`, forward and backward.

Run with `python -m tests.benchmarks.op`; one thread, product and baseline in turn. `op` is what a
step runs as PyTorch runs it (Python, autograd, the kernel); `kernel` what a recorded step runs:
the kernel alone, on the values and on their gradient. CPU time is the measure.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from statistics import median

import torch
from torch import Tensor
from torch.nn import functional

from dropt_trainer.device import choose, describe, keep_freed_memory
from dropt_trainer.dropout.masks import backend, bind_drop, drop, site_key

SHAPES = ((32, 64), (64, 256), (1000, 1000))
RATE, SITE = 0.2, site_key("layers.1:out")
NUMBERS_TIMED = 4_000_000  # of one repetition, in as many calls as that takes, 1000 at most

Run = Callable[[], object]


def contenders(shape: tuple[int, int]) -> dict[str, Run]:
    """What is compared, on the same numbers."""
    generator = torch.Generator().manual_seed(0)
    x, gradient = (torch.randn(shape, generator=generator) for _ in range(2))
    rate, seed = torch.tensor(RATE), torch.tensor(7)
    step = torch.tensor(1, dtype=torch.int32)
    found: dict[str, Run] = {
        "F.dropout": partial(both_ways, lambda t: functional.dropout(t, RATE), x, gradient),
        "op": partial(both_ways, lambda t: drop(t, rate, seed, step, site=SITE), x, gradient),
    }
    slot = (rate.reshape(1), seed.reshape(1), step.reshape(1), SITE, 0, 1, 1, x.numel())
    ways = [bind_drop(torch.empty_like(t), t, *slot) for t in (x, gradient)]
    forward, backward = ways
    if forward is not None and backward is not None:
        found["kernel"] = partial(in_turn, forward, backward)
    return found


def both_ways(function: Callable[[Tensor], Tensor], x: Tensor, gradient: Tensor) -> None:
    leaf = x.detach().requires_grad_()
    torch.autograd.grad(function(leaf), leaf, gradient)


def in_turn(first: Run, second: Run) -> None:
    first()
    second()


def measure(runs: Mapping[str, Run], n_calls: int, repeats: int) -> dict[str, list[float]]:
    """CPU microseconds per call of each, in turn."""
    seen: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            start = time.process_time()
            for _ in range(n_calls):
                run()
            if repeat > 0:  # the first warms up
                seen[name].append((time.process_time() - start) / n_calls * 1e6)
    return seen


def show(shape: tuple[int, int], seen: Mapping[str, list[float]]) -> None:
    base = median(seen["F.dropout"])
    for name, values in seen.items():
        spread = f"{min(values):.1f} - {max(values):.1f}"
        print(
            f"{list(shape)!s:13} {name:10} {median(values):9.1f} us  {spread:18}"
            f"{base / median(values):6.2f} x"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path, default=Path("bench-results/op.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    device = describe(choose("cpu")).name
    print(f"{device}, torch {torch.__version__}, masks in {backend()}, rate {RATE}, one thread")
    print("forward and backward   CPU median   min - max       against F.dropout")
    results = {}
    for shape in SHAPES:
        n_calls = min(1000, NUMBERS_TIMED // (shape[0] * shape[1]))
        seen = measure(contenders(shape), n_calls, options.repeats)
        show(shape, seen)
        results[str(list(shape))] = seen
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps({"device": device, "results": results}, indent=1))


if __name__ == "__main__":
    main()
