"""Everything that needs a GPU: checks of the CUDA path, and its speed against the peers.

Run with `make bench-gpu` or `python -m tests.benchmarks.gpu`. Contenders run in turn, in one
process: the loop by hand, the same in a CUDA graph, packs with and without graphs and in bfloat16;
then processes that share the device, and a whole search of MNIST-size trials. Without a CUDA
device it says so in one line and ends with status 0: nothing was measured, nothing failed. A check
that fails ends it with status 1.
"""

import argparse
import json
import platform
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import torch
from tests.benchmarks.gpu_cases import CASES, Case, Steps, eager, one_graph, pack_of, packed
from tests.benchmarks.gpu_checks import FOR_EACH_CASE, ONCE, Check
from tests.benchmarks.gpu_search import SEARCH, Search, run_search
from tests.benchmarks.gpu_sharing import shared_steps_per_second

from dropt_trainer.device import describe

SLOTS = (16, 64, 256)
WARM_STEPS, STEPS = 5, 100  # of a repetition
PROCESSES, SECONDS_SHARED = 8, 5.0
SEARCH_GOAL_S = 95.0  # issue 4, on one H100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", default="", help="cases whose name has this text")
    parser.add_argument("--json", type=Path, default=Path("bench-results/gpu.json"))
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("No CUDA device here: no GPU check was run and nothing was measured.")
        return
    device = torch.device("cuda", torch.cuda.current_device())
    cases = [case for case in CASES if options.only in case.name]
    results = run(cases, device, repeats=options.repeats)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(results, indent=1))
    sys.exit(1 if failures(results) else 0)


def run(
    cases: list[Case], device: torch.device, *, repeats: int, steps: int = STEPS,
    slots: tuple[int, ...] = SLOTS, search: Search = SEARCH, processes: int = PROCESSES,
    seconds_shared: float = SECONDS_SHARED,
) -> dict[str, Any]:  # fmt: skip
    """All checks and measurements, printed as they come, and as one value."""
    machine = machine_of(device)
    print("  ".join(f"{key} {value}" for key, value in machine.items()))
    results: dict[str, Any] = {"machine": machine, "repeats": repeats, "steps": steps}
    checks = {name: check(cases[0], device) for name, check in ONCE.items()}
    for case in cases:
        checks |= {f"{name}: {case.name}": c(case, device) for name, c in FOR_EACH_CASE.items()}
    show_checks(checks)
    results["checks"] = {name: asdict(check) for name, check in checks.items()}
    results["cases"] = {}
    for case in cases:
        rates = measure(contenders_of(case, device, slots), device, repeats, steps)
        rates[f"{processes} processes"] = [
            shared_steps_per_second(case, device, processes, seconds_shared)
        ]
        show_rates(case, rates)
        results["cases"][case.name] = rates
    seconds = run_search(search, device)
    steps_done = search.trials * search.epochs * search.steps_per_epoch
    print(f"\n{search.trials} trials x {search.epochs} epochs of {search.n_rows} rows: "
          f"{seconds:.1f} s, {steps_done / seconds:,.0f} trial-steps/s "
          f"(goal on an H100: 1,000 x 20 in < {SEARCH_GOAL_S:.0f} s)")  # fmt: skip
    results["search"] = {**asdict(search), "seconds": seconds}
    return results


def machine_of(device: torch.device) -> dict[str, str]:
    """What the numbers were measured on."""
    found = {
        "device": describe(device).name, "python": platform.python_version(),
        "torch": torch.__version__, "cuda": str(torch.version.cuda),
    }  # fmt: skip
    try:
        import triton  # type: ignore[import-untyped, import-not-found, unused-ignore]
    except ImportError:
        return {**found, "triton": "none"}
    return {**found, "triton": str(triton.__version__)}


def contenders_of(
    case: Case, device: torch.device, slots: tuple[int, ...]
) -> dict[str, tuple[Steps, int]]:
    """By name: what trains, and how many trials at once."""
    found: dict[str, tuple[Steps, int]] = {"eager": (eager(case, device), 1)}
    if device.type == "cuda":
        found["one graph"] = one_graph(case, device), 1
    plain = pack_of(case, device, slots[0])
    plain.graphs = None
    found[f"K={slots[0]} without graphs"] = packed(case, plain), slots[0]
    for n_slots in slots:
        found[f"K={n_slots}"] = packed(case, pack_of(case, device, n_slots)), n_slots
    mixed = pack_of(case, device, slots[-1], precision="bfloat16")
    found[f"K={slots[-1]} bfloat16"] = packed(case, mixed), slots[-1]
    return found


def measure(
    contenders: Mapping[str, tuple[Steps, int]], device: torch.device, repeats: int, n_steps: int
) -> dict[str, list[float]]:
    """Trial-steps per second of each contender, in turn, so many times."""
    for steps, _ in contenders.values():
        steps(WARM_STEPS)
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, (steps, n_trials) in contenders.items():
            wait(device)
            start = time.perf_counter()
            steps(n_steps)
            wait(device)
            rates[name].append(n_steps * n_trials / (time.perf_counter() - start))
    return rates


def wait(device: torch.device) -> None:
    """Until everything that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def show_checks(checks: Mapping[str, Check]) -> None:
    words = {True: "ok", False: "FAILED", None: "-"}
    for name, check in checks.items():
        print(f"  {words[check.passed]:7s} {name}: {check.detail}")


def show_rates(case: Case, rates: Mapping[str, list[float]]) -> None:
    print(f"\n{case.name}, B={case.batch_size} (goal against eager: {case.goal:.0f})")
    print("  trial-steps/s                median          min - max   over eager   over one graph")
    base = median(rates["eager"])
    graph = median(rates.get("one graph", [float("nan")]))
    for name, values in rates.items():
        middle, spread = median(values), f"{min(values):,.0f} - {max(values):,.0f}"
        print(f"  {name:22s} {middle:12,.0f} {spread:>18s} {middle / base:12.2f} "
              f"{middle / graph:16.2f}")  # fmt: skip


def failures(results: Mapping[str, Any]) -> list[str]:
    """The checks that failed."""
    return [name for name, check in results["checks"].items() if check["passed"] is False]


if __name__ == "__main__":
    main()
