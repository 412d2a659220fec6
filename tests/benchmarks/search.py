"""A whole search by hand and by dropt: the same trials, epochs, space, pruner and cores, in turn.

The work is one study of 64 trials with dropout (`with`: learning rate, weight decay and three
rates), or the search of a default job, which has a second study of 64 without (`both`).

By hand is what an expert would write: Optuna (TPE, successive halving) around a PyTorch loop over
tensors with `AdamW(fused=True)`; once in one process, once as one process per core on one study in
a journal file, one thread each (more threads slow such a small network down). dropt is a real
service with one worker per core over HTTP, on SQLite, from the submission of the job to the end of
its search, inspection and probe included. Imports and starting of processes count for neither.

    python tests/benchmarks/search.py [--arms with|both] [--trials 64] [--batch-size 32]
                                      [--repeats 3] [--cores 2] [--json FILE]

Without `--arms` it does both, the job first. The last line is `ratio search ...`: the faster of
the two ways by hand over dropt, median; by default for the one study of 64 trials.
"""

import argparse
import json
import math
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import torch
from torch import Tensor, nn

from dropt.client import Client
from dropt.spec.job import JobCreate
from dropt_trainer.data import builtin
from dropt_trainer.data.prepare import Prepared, prepare
from dropt_trainer.dropout import masks
from dropt_trainer.worker.sources import split_of

ARMS = {"both": ("without", "with"), "with": ("with",)}
DATASET, HIDDEN = "digits", (128, 64)
EPOCHS, RUNG, FACTOR = 27, 9, 3
LR, WEIGHT_DECAY = (3e-4, 3e-2), (1e-6, 1e-1)
# (low, step, points, codes below low that mean 0) of dropt's space: input, then hidden sites
RATES = ((0.05, 0.05, 6, 3), (0.05, 0.05, 14, 6), (0.05, 0.05, 14, 6))


Arms = tuple[str, ...]


@dataclass(frozen=True)
class Work:
    """What all sides do.

    Attributes:
        arms: one study each.
        n_trials: of each study.
        batch_size: of each training step.
    """

    arms: Arms
    n_trials: int
    batch_size: int

    def n_steps(self, n_epochs: int) -> int:
        """Training steps of so many epochs."""
        return n_epochs * -(-len(digits().parts["train"].y) // self.batch_size)


@dataclass(frozen=True)
class Outcome:
    """One search."""

    seconds: float
    steps: int
    epochs: int
    pruned: int
    best: dict[str, float]  # validation loss, by arm

    @property
    def steps_per_second(self) -> float:
        return self.steps / self.seconds


class Mlp(nn.Module):
    """The network of `mlp`, with dropout at its three sites written by hand."""

    def __init__(self, n_inputs: int, n_outputs: int, rates: list[float]) -> None:
        super().__init__()
        first, second = HIDDEN
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Dropout(rates[0]),
            nn.Linear(n_inputs, first), nn.ReLU(), nn.Dropout(rates[1]),
            nn.Linear(first, second), nn.ReLU(), nn.Dropout(rates[2]),
            nn.Linear(second, n_outputs),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out


def digits() -> Prepared:
    """The data as dropt trains on it: the same rows in the same parts."""
    dataset = builtin.load(DATASET)
    return prepare(dataset, split_of(dataset, None))


def suggest_rates(trial: optuna.Trial) -> list[float]:
    """The rates of the three sites, on dropt's grid."""
    codes = [
        trial.suggest_int(f"rate{i}", -zeros, points - 1)
        for i, (_, _, points, zeros) in enumerate(RATES)
    ]
    return [
        low + code * step if code >= 0 else 0.0
        for code, (low, step, _, _) in zip(codes, RATES, strict=True)
    ]


def objective(trial: optuna.Trial, data: Prepared, arm: str, batch_size: int) -> float:
    """One trial by hand: train, evaluate on validation each epoch, report, prune."""
    rates = suggest_rates(trial) if arm == "with" else [0.0, 0.0, 0.0]
    lr = trial.suggest_float("lr", *LR, log=True)
    decay = trial.suggest_float("weight_decay", *WEIGHT_DECAY, log=True)
    generator = torch.Generator().manual_seed(trial.number)
    train, validation = data.parts["train"], data.parts["validation"]
    x, y = train.x, train.y
    assert isinstance(x, Tensor)
    assert isinstance(validation.x, Tensor)
    model = Mlp(x[0].numel(), data.n_outputs, rates)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=decay, fused=True)
    loss_of = nn.CrossEntropyLoss()
    best = float("inf")
    for epoch in range(1, EPOCHS + 1):
        model.train()
        for rows in torch.split(torch.randperm(len(y), generator=generator), batch_size):
            optimizer.zero_grad()
            loss_of(model(x[rows]), y[rows]).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            value = loss_of(model(validation.x), validation.y).item()
        best = min(best, value)
        trial.report(value, epoch)
        if trial.should_prune():
            raise optuna.TrialPruned
    return best


def make_study(storage: Any, seed: int, arm: str) -> optuna.Study:
    """A study as in dropt: TPE that lies about running trials, one rung at a third."""
    return optuna.create_study(
        study_name=arm, storage=storage, load_if_exists=True, direction="minimize",
        sampler=optuna.samplers.TPESampler(seed=seed),
        pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=RUNG, reduction_factor=FACTOR),
    )  # fmt: skip


def by_hand(work: Work, seed: int) -> Outcome:
    """One process."""
    torch.set_num_threads(1)
    data = digits()
    studies = [make_study(None, seed, arm) for arm in work.arms]
    start = time.perf_counter()
    optimize(studies, work, work.n_trials, data)
    return outcome_of(studies, time.perf_counter() - start, work)


def optimize(studies: list[optuna.Study], work: Work, n_trials: int, data: Prepared) -> None:
    """So many trials of each study, one after the other."""
    for study, arm in zip(studies, work.arms, strict=True):
        one = partial(objective, data=data, arm=arm, batch_size=work.batch_size)
        study.optimize(one, n_trials=n_trials)


def by_hand_in_processes(work: Work, seed: int, cores: int) -> Outcome:
    """One process per core on the same studies; they start once all have imported torch."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "journal")
        barrier = context.Barrier(cores + 1)
        share = -(-work.n_trials // cores)
        processes = [
            context.Process(
                target=_optimize,
                args=(work, path, seed + core, min(share, work.n_trials - core * share), barrier),
            )
            for core in range(cores)
        ]
        for process in processes:
            process.start()
        barrier.wait()
        start = time.perf_counter()
        for process in processes:
            process.join()
        seconds = time.perf_counter() - start
        storage = _journal(path)
        return outcome_of([make_study(storage, seed, arm) for arm in work.arms], seconds, work)


def _optimize(work: Work, path: str, seed: int, n_trials: int, barrier: Any) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    torch.set_num_threads(1)
    data = digits()
    storage = _journal(path)
    studies = [make_study(storage, seed, arm) for arm in work.arms]
    barrier.wait()
    optimize(studies, work, n_trials, data)


def _journal(path: str) -> Any:
    from optuna.storages.journal import JournalFileBackend

    return optuna.storages.JournalStorage(JournalFileBackend(path))


def outcome_of(studies: list[optuna.Study], seconds: float, work: Work) -> Outcome:
    trials = [trial for study in studies for trial in study.trials]
    epochs = sum(len(trial.intermediate_values) for trial in trials)
    pruned = sum(trial.state == optuna.trial.TrialState.PRUNED for trial in trials)
    best = {str(study.study_name): study.best_value for study in studies}
    return Outcome(seconds, work.n_steps(epochs), epochs, pruned, best)


class Dropt:
    """A real service with one worker per core, started once; each search is one job."""

    def __init__(self, cores: int, log: Path) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._log = log.open("w")
        command = [
            sys.executable, "-m", "dropt.cli.main", "serve", "--port", "0", "--state",
            self._folder.name, "--workers", str(cores),
        ]  # fmt: skip
        self._process = subprocess.Popen(command, stdout=self._log, stderr=subprocess.STDOUT)
        self.client = Client(self._address())
        while sum(w.state == "live" for w in self.client.list_workers()) < cores:
            time.sleep(0.1)

    def _address(self) -> str:
        file = Path(self._folder.name) / "address"
        while not file.exists() or not file.read_text().strip():
            if self._process.poll() is not None:
                raise RuntimeError(f"the service ended: {Path(self._log.name).read_text()}")
            time.sleep(0.1)
        return file.read_text().strip()

    def search(self, work: Work, seed: int) -> Outcome:
        body = JobCreate.model_validate(
            {
                "model": {"name": "mlp", "args": {"hidden": list(HIDDEN)}},
                "dataset": DATASET,
                "compare": {"arms": list(work.arms)},
                "evidence": False,
                "search": {
                    "seed": seed,
                    "pruner": {"rungs": [RUNG / EPOCHS], "factor": FACTOR},
                    "also": {
                        "lr": {"low": LR[0], "high": LR[1], "log": True},
                        "weight_decay": {
                            "low": WEIGHT_DECAY[0], "high": WEIGHT_DECAY[1], "log": True,
                        },
                    },
                },
                "training": {"epochs": EPOCHS, "batch_size": work.batch_size},
                "budget": {"trials": work.n_trials},
            }
        )  # fmt: skip
        start = time.perf_counter()
        job = self.client.create_job(body)
        while not (job := self.client.get_job(job.id, wait_s=20)).done:
            pass
        seconds = time.perf_counter() - start
        if job.state != "succeeded":
            raise RuntimeError(f"the job {job.state}: {job.reason}")
        by_name = {arm.arm: arm for arm in job.progress.arms}
        best = {name: arm.best_value or math.inf for name, arm in by_name.items()}
        pruned = sum(arm.pruned for arm in by_name.values())
        n_epochs = job.consumed.epochs
        return Outcome(seconds, work.n_steps(n_epochs), n_epochs, pruned, best)

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(30)
        self._log.close()
        self._folder.cleanup()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arms", choices=sorted(ARMS), default=None)
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cores", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--json", type=Path, default=None)
    arguments = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.cores])  # of all sides
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    print(
        f"{platform.processor() or platform.machine()}, {arguments.cores} cores, "
        f"torch {torch.__version__}, optuna {optuna.__version__}, masks in {masks.backend()}; "
        f"mlp {HIDDEN} on {DATASET}, {arguments.trials} trials x {EPOCHS} epochs per study, "
        f"batch {arguments.batch_size}, rung at {RUNG}, 1 in {FACTOR} goes on"
    )
    found = {}
    for name in [arguments.arms] if arguments.arms else ["both", "with"]:
        print(f"\nstudies: {', '.join(ARMS[name])}")
        with tempfile.NamedTemporaryFile(suffix=".log") as log:
            work = Work(ARMS[name], arguments.trials, arguments.batch_size)
            found[name] = run(work, arguments.repeats, arguments.cores, Path(log.name))
        tell(found[name], arguments.cores)
    if arguments.json is not None:
        rows = {
            name: {side: [asdict(one) for one in outcomes] for side, outcomes in sides.items()}
            for name, sides in found.items()
        }
        arguments.json.write_text(json.dumps(rows))


def run(work: Work, repeats: int, cores: int, log: Path) -> dict[str, list[Outcome]]:
    """All sides in turn, after one short search each to warm up."""
    sides = ["one process", *(["processes"] if cores > 1 else []), "dropt"]
    found: dict[str, list[Outcome]] = {side: [] for side in sides}
    dropt = Dropt(cores, log)
    try:
        by_hand(replace(work, n_trials=4), 99)
        dropt.search(replace(work, n_trials=16), 99)
        for seed in range(repeats):
            found["one process"].append(by_hand(work, seed))
            if cores > 1:
                found["processes"].append(by_hand_in_processes(work, seed, cores))
            found["dropt"].append(dropt.search(work, seed))
    finally:
        dropt.close()
    return found


def tell(found: dict[str, list[Outcome]], cores: int) -> None:
    """A line per search, then medians and the ratio."""
    for side, outcomes in found.items():
        for one in outcomes:
            best = ", ".join(f"{value:.4f} {arm}" for arm, value in one.best.items())
            print(
                f"{side:12} {one.seconds:7.2f} s  {one.steps:6d} steps  "
                f"{one.steps_per_second:7.0f} steps/s  {one.epochs:5d} epochs  "
                f"{one.pruned:3d} pruned  best validation loss {best}"
            )
    median = {side: statistics.median(o.seconds for o in of) for side, of in found.items()}
    pace = {side: statistics.median(o.steps_per_second for o in of) for side, of in found.items()}
    peer = min((side for side in found if side != "dropt"), key=lambda side: median[side])
    print(
        f"the faster way by hand is {peer!r}: {median[peer]:.2f} s against {median['dropt']:.2f} s"
    )
    for arm in found["dropt"][0].best:
        spread = {
            side: [outcome.best[arm] for outcome in of if arm in outcome.best]
            for side, of in found.items()
        }
        print(f"best validation loss of {arm!r}: " + "; ".join(
            f"{side} {statistics.mean(values):.4f} +- {statistics.stdev(values):.4f}"
            for side, values in spread.items() if len(values) > 1
        ))  # fmt: skip
    print(f"ratio steps/s {pace['dropt'] / pace[peer]:.2f}")
    print(f"ratio search {median[peer] / median['dropt']:.2f} ({cores} cores, against {peer})")


if __name__ == "__main__":
    main()
