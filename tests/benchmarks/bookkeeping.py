"""What a trial of a search costs the service, in CPU milliseconds of its process.

Run with `python -m tests.benchmarks.bookkeeping`. A real service on SQLite; over HTTP, a worker
that trains by a formula: packs of 16 trials, 27 epochs, one rung at 9 of which one in three goes
on. Its trials do not run in step, so that rungs and ends come in many small reports, as from a
fast device; values of all epochs are sent. Everything counts until the last trial stands in
Optuna's study as well; starting and a first small job do not.

The sampler is TPE and, in turn, the random one, whose asks cost next to nothing: the difference is
the price of TPE.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from tests.factories import inspection, loss_of, metrics_of, registration

from dropt.client import Client
from dropt.spec.job import JobCreate
from dropt.spec.protocol import (
    Finished,
    InspectionReport,
    Lease,
    LeaseRequest,
    Measurement,
    Report,
    ReportAnswer,
    TrialAssignment,
)
from dropt_trainer.device import choose, describe

SLOTS, EPOCHS, RUNG, FACTOR = 16, 27, 9, 3
SIZES = (64, 1000)
SAMPLERS = ("tpe", "random")
SETTLED_S = 1.0  # without CPU time worth naming: the service has nothing left to do
SETTLED_CPU_S = 0.03


@dataclass(frozen=True)
class Cost:
    """One search as its service saw it."""

    trials: int
    sampler: str
    reports: int
    epochs: int
    cpu_s: float
    wall_s: float

    @property
    def per_trial_ms(self) -> float:
        return 1e3 * self.cpu_s / self.trials


class Pack:
    """The trials of one lease; each trains one epoch per turn, by a formula."""

    def __init__(self, client: Client, worker: str, lease: Lease) -> None:
        self.n_reports = self.n_epochs = 0
        self._client, self._worker, self._lease = client, worker, lease
        self._epochs: dict[str, int] = {}
        self._trials: dict[str, TrialAssignment] = {}
        self._later = list(lease.trials)  # one begins per turn: they do not run in step
        self._measured: list[Measurement] = []
        self._finished: list[Finished] = []

    def run(self) -> None:
        """Train until the service ends the lease."""
        while True:
            if self._later:
                self._begin(self._later.pop(0))
            is_urgent = bool(self._finished)
            for trial in list(self._trials.values()):
                is_urgent |= self._train(trial)
            if is_urgent or not self._trials:
                answer = self._report()
                self._obey(answer)
                if answer.end and not (self._trials or self._later or self._finished):
                    self._report(done=True)
                    return

    def _begin(self, trial: TrialAssignment) -> None:
        self._trials[trial.id], self._epochs[trial.id] = trial, 0

    def _train(self, trial: TrialAssignment) -> bool:
        """One epoch of a trial; whether the service has to know of it at once."""
        self.n_epochs += 1
        self._epochs[trial.id] += 1
        epoch = self._epochs[trial.id]
        value = loss_of(trial, epoch)
        self._measured.append(
            Measurement(
                trial=trial.id, attempt=trial.attempt, epoch=epoch, train_loss=value,
                validation_loss=value, metrics={"nll": value, "accuracy": 0.9}, seconds=0.001,
            )
        )  # fmt: skip
        if epoch == trial.epochs:
            self._end(trial, "completed")
        return epoch in (*self._lease.rungs, trial.epochs)

    def _end(self, trial: TrialAssignment, outcome: str) -> None:
        epoch = self._epochs[trial.id]
        del self._trials[trial.id]
        values = {"loss": loss_of(trial, epoch)} | metrics_of(self._lease, loss_of(trial, epoch))
        self._finished.append(
            Finished.model_validate(
                {"trial": trial.id, "attempt": trial.attempt, "outcome": outcome, "epoch": epoch,
                 "best_epoch": epoch, "values": {"validation": values}}
            )
        )  # fmt: skip

    def _report(self, *, done: bool = False) -> ReportAnswer:
        self.n_reports += 1
        report = Report(
            worker=self._worker, sequence=self.n_reports, measurements=tuple(self._measured),
            free_slots=0 if done else self._lease.slots - len(self._trials) - len(self._later),
            finished=tuple(self._finished), done=done,
        )  # fmt: skip
        self._measured, self._finished = [], []
        return self._client.send_report(self._lease.id, report)

    def _obey(self, answer: ReportAnswer) -> None:
        for id in answer.stop:
            if id in self._trials:
                self._end(self._trials[id], "pruned")
        for trial in answer.add:
            self._begin(trial)


@contextmanager
def service(folder: Path) -> Iterator[tuple[int, Client]]:
    """A service without workers: its process id and a client."""
    command = [
        sys.executable, "-m", "dropt.cli.main", "serve", "--port", "0", "--state", str(folder),
        "--workers", "0",
    ]  # fmt: skip
    with (folder / "service.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        address = folder / "address"
        while not address.exists() or not address.read_text().strip():
            if process.poll() is not None:
                raise RuntimeError(f"the service ended: {(folder / 'service.log').read_text()}")
            time.sleep(0.1)
        try:
            with Client(address.read_text().strip()) as client:
                client.wait_until_ready(lambda: None)
                yield process.pid, client
        finally:
            process.terminate()
            process.wait(30)


def search(pid: int, client: Client, worker: str, n_trials: int, sampler: str, seed: int) -> Cost:
    """One job with one searched arm, trained to its end."""
    body = JobCreate.model_validate(
        {
            "model": "mlp",
            "dataset": "digits",
            "compare": {"arms": ["with"]},
            "evidence": False,
            "search": {
                "seed": seed, "sampler": sampler,
                "pruner": {"rungs": [RUNG / EPOCHS], "factor": FACTOR},
            },
            "training": {"epochs": EPOCHS},
            "budget": {"trials": n_trials},
        }
    )  # fmt: skip
    cpu_s, started_at = cpu_seconds(pid), time.perf_counter()
    job = client.create_job(body)
    n_reports = n_epochs = 0
    while not client.get_job(job.id).done:
        request = LeaseRequest(worker=worker, slots=SLOTS)
        lease = client.request_lease(
            request, idempotency_key=f"{job.id}:{time.perf_counter_ns()}", wait_s=1
        )
        if lease is None:
            continue
        if lease.kind == "inspect":
            found = InspectionReport(result=inspection(slots=SLOTS))
            report = Report(worker=worker, sequence=1, inspection=found, done=True)
            client.send_report(lease.id, report)
        else:
            pack = Pack(client, worker, lease)
            pack.run()
            n_reports, n_epochs = n_reports + pack.n_reports, n_epochs + pack.n_epochs
    wall_s = time.perf_counter() - started_at
    return Cost(n_trials, sampler, n_reports, n_epochs, settled(pid) - cpu_s, wall_s)


def settled(pid: int) -> float:
    """The CPU seconds of a process once it does nothing more."""
    before = cpu_seconds(pid)
    while True:
        time.sleep(SETTLED_S)
        now = cpu_seconds(pid)
        if now - before < SETTLED_CPU_S:
            return now
        before = now


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far, of all its threads (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, nargs="+", default=SIZES)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, default=None)
    arguments = parser.parse_args()
    print(f"{describe(choose('cpu')).name}; SQLite, packs of {SLOTS}, {EPOCHS} epochs, {RUNG=}")
    found: list[Cost] = []
    with tempfile.TemporaryDirectory() as folder, service(Path(folder)) as (pid, client):
        worker = client.register_worker(registration(max_slots=SLOTS)).id
        search(pid, client, worker, SLOTS, "tpe", 99)
        for n_trials in arguments.trials:
            for seed in range(arguments.repeats):
                for sampler in SAMPLERS:
                    found.append(search(pid, client, worker, n_trials, sampler, seed))
                    tell(found[-1])
    for n_trials in arguments.trials:
        summarize(n_trials, [one for one in found if one.trials == n_trials])
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([asdict(one) for one in found]))


def tell(one: Cost) -> None:
    print(
        f"{one.trials:5d} trials  {one.sampler:7} {one.per_trial_ms:6.2f} ms per trial  "
        f"{one.reports / one.trials:4.2f} reports and {one.epochs / one.trials:5.2f} epochs "
        f"per trial  {one.wall_s:6.2f} s",
        flush=True,
    )


def summarize(n_trials: int, costs: list[Cost]) -> None:
    """Medians of one size; the asks of TPE are what the random sampler does not cost."""
    tpe, drawn = (
        median(one.per_trial_ms for one in costs if one.sampler == sampler) for sampler in SAMPLERS
    )
    print(
        f"bookkeeping at {n_trials} trials: {tpe:.2f} ms CPU per trial, "
        f"of which asks of TPE {tpe - drawn:.2f}"
    )


if __name__ == "__main__":
    main()
