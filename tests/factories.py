"""Builders for tests: a service over a database, and a worker whose training is a formula.

The worker speaks the protocol for real, against the use cases; only the training is replaced,
by numbers that are a function of the seed, so that a whole job takes a second.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import numpy as np
import safetensors.numpy

from dropt.spec.inspection import Excluded, Inspection, Probe, Site
from dropt.spec.protocol import (
    DatasetOffer,
    Device,
    Finished,
    InspectionReport,
    Lease,
    LeaseRequest,
    Measurement,
    ModelOffer,
    Registration,
    Report,
    ReportAnswer,
    TrialAssignment,
)
from dropt.storage.engine import Database
from dropt.storage.files import ArtifactStore
from dropt.tuning import phases, reports, scheduler
from dropt.tuning.service import Service

PROJECT = "default"
DIGEST = hashlib.sha256(b"toy").hexdigest()
N_TEST = 240


def make_service(database: Database, folder: Path, **settings: float) -> Service:
    return Service(database, ArtifactStore(folder / "artifacts"), **settings)


def site(name: str, *, role: str = "hidden", units: int = 8, recommended: bool = True) -> Site:
    return Site(
        site=name, layer=f"Linear({units}, {units})", layer_kind="dense", role=role,
        kinds=("element",), shape=(units,), depth=0.5, recommended=recommended,
    )  # fmt: skip


def inspection(*, slots: int = 8) -> Inspection:
    return Inspection(
        fingerprint="51ab",
        parameters=1000,
        output_layers=("layers.4",),
        sites=(site("layers.0:in", role="input"), site("layers.1:out"), site("layers.3:out")),
        excluded=(Excluded(site="layers.4:out", reason="output_layer"),),
        probe=Probe(lane="fused", why="faster", slots=slots, bytes_per_trial=1000),
    )


def registration(name: str = "w", *, max_slots: int = 16, rows: int = 1000) -> Registration:
    return Registration(
        protocol=1,
        name=name,
        device=Device(type="cpu", name="CPU", memory_bytes=1 << 30),
        max_slots=max_slots,
        versions={"trainer": "toy"},
        lease_kinds=("inspect", "train"),
        kinds=("element",),
        schedules=("constant",),
        optimizers=("adamw",),
        metrics=("nll", "accuracy"),
        models=(
            ModelOffer(
                name="mlp", tasks=("classification", "regression"), package="toy",
                args_schema={"type": "object", "properties": {"hidden": {"type": "array"}}},
            ),
        ),
        datasets=(
            DatasetOffer(
                name="digits", sha256=DIGEST, task="classification", rows=rows,
                input_shape=(64,), classes=10,
                split_rows={"train": 520, "validation": 240, "test": N_TEST},
            ),
        ),
    )  # fmt: skip


def loss_of(trial: TrialAssignment, epoch: int) -> float:
    """Validation loss of a trial: a bowl in lr and in the rates, seed noise, slow convergence."""
    generator = np.random.default_rng(trial.seed)
    rates = [dropout.rate for dropout in trial.sites.values()]
    bowl = 0.05 * abs(np.log10(trial.params.lr / 3e-3)) + sum(
        0.3 * (rate - 0.2) ** 2 - 0.012 for rate in rates
    )
    return float(0.3 + bowl + 0.3 / epoch + 0.005 * generator.standard_normal())


@dataclass
class ToyWorker:
    """Takes leases and trains by formula until nothing is left to do."""

    service: Service
    name: str = "w"
    slots: int = 16
    loss: Callable[[TrialAssignment, int], float] = loss_of
    on_report: Callable[[Report], None] = lambda report: None
    id: str = ""
    keys: Iterator[int] = field(default_factory=count)

    def __post_init__(self) -> None:
        self.id = scheduler.register(self.service, registration(self.name), project=PROJECT).id

    def work_once(self) -> bool:
        """Take one lease and carry it out; False when there was none."""
        request = LeaseRequest(worker=self.id, slots=self.slots)
        lease = scheduler.grant(self.service, request, project=PROJECT)
        if lease is None:
            return False
        if lease.kind == "inspect":
            self.send(lease, 1, inspection=InspectionReport(result=inspection()), done=True)
        else:
            self.train(lease)
        return True

    def train(self, lease: Lease) -> None:
        """Train every trial of a lease, epoch by epoch, as a pack does."""
        slots: dict[str, tuple[TrialAssignment, int]] = {t.id: (t, 0) for t in lease.trials}
        stop: set[str] = set()
        for sequence in count(1):
            measured, finished = [], []
            for id, (trial, epoch) in list(slots.items()):
                epoch = epoch + (id not in stop)
                slots[id] = (trial, epoch)
                if id not in stop:
                    measured.append(self.measurement(trial, epoch))
                if id in stop or epoch == trial.epochs:
                    finished.append(self.finished(lease, trial, epoch, pruned=id in stop))
                    del slots[id]
            free = lease.slots - len(slots)
            answer = self.send(
                lease, sequence, measurements=measured, finished=finished, free_slots=free
            )
            stop |= set(answer.stop)
            for id in (*answer.cancel, *answer.lost):
                slots.pop(id, None)
            slots |= {one.id: (one, 0) for one in answer.add}
            if not slots and answer.end:
                self.send(lease, sequence + 1, done=True)
                return

    def measurement(self, trial: TrialAssignment, epoch: int) -> Measurement:
        value = self.loss(trial, epoch)
        finite = value if np.isfinite(value) else None
        return Measurement(
            trial=trial.id, attempt=trial.attempt, epoch=epoch, train_loss=finite,
            validation_loss=finite, metrics={"nll": finite, "accuracy": 0.9}, seconds=0.01,
        )  # fmt: skip

    def finished(
        self, lease: Lease, trial: TrialAssignment, epoch: int, *, pruned: bool
    ) -> Finished:
        value = self.loss(trial, max(epoch, 1))
        values = {"validation": {"loss": value, "nll": value, "accuracy": 0.9}}
        scores = {"test": self.upload(trial)} if lease.per_example else {}
        return Finished(
            trial=trial.id, attempt=trial.attempt, outcome="pruned" if pruned else "completed",
            epoch=epoch, best_epoch=epoch, values=values, scores=scores,
        )  # fmt: skip

    def upload(self, trial: TrialAssignment) -> str:
        """Per-example test scores around the loss of the trial, the same examples for all."""
        examples = np.random.default_rng(7).exponential(0.05, N_TEST)
        noise = np.random.default_rng(trial.seed).normal(0, 0.01, N_TEST)
        mean = self.loss(trial, trial.epochs)
        content = score_file(np.maximum(mean + examples + noise, 1e-3))
        digest = hashlib.sha256(content).hexdigest()
        scheduler.put_artifact(
            self.service, digest, [content], project=PROJECT, max_bytes=1 << 20
        )
        return digest

    def send(self, lease: Lease, sequence: int, **parts: object) -> ReportAnswer:
        report = Report.model_validate({"worker": self.id, "sequence": sequence, **parts})
        self.on_report(report)
        body = hashlib.sha256(report.model_dump_json().encode()).hexdigest()
        return reports.take_report(self.service, lease.id, report, body, project=PROJECT)


def score_file(loss: np.ndarray[tuple[int], np.dtype[np.float64]]) -> bytes:
    n = len(loss)
    tensors = {
        "row": np.arange(n, dtype=np.int64),
        "loss": loss.astype(np.float32),
        "prediction": np.tile(np.array([[0.9, 0.1]], np.float32), (n, 1)),
        "target": (np.arange(n) % 10 == 0).astype(np.int64),
    }
    return safetensors.numpy.save(tensors, {"dropt": json.dumps({"split": "test"})})


def advance_all(service: Service) -> None:
    """One turn of the background thread."""
    from dropt.storage import jobs

    with service.database.reading() as session:
        active = jobs.active(session)
    for job in active:
        phases.advance(service, job)


def run_until_done(service: Service, *workers: ToyWorker, most: int = 1000) -> None:
    """Let the workers take turns until no job is active."""
    from dropt.storage import jobs

    for _ in range(most):
        advance_all(service)
        for worker in workers:
            worker.work_once()
        with service.database.reading() as session:
            if not jobs.active(session):
                return
    raise AssertionError("a job did not end")
