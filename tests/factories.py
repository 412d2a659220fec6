"""Builders for tests: a service over a database, and a worker whose training is a formula.

The worker speaks the protocol for real, against the use cases; only the training is replaced,
by numbers that are a function of the seed, so that a whole job takes a second.
"""

import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy
from tests.history import Violation, check_job

from dropt.errors import DroptError, LeaseLost
from dropt.jobs import lists, verbs
from dropt.spec.inspection import Excluded, Inspection, Probe, Role, Site
from dropt.spec.job import JobCreate, Task
from dropt.spec.protocol import (
    DatasetOffer,
    Device,
    Finished,
    InspectionReport,
    Lease,
    LeaseRequest,
    Measurement,
    ModelOffer,
    Reason,
    Registration,
    Report,
    ReportAnswer,
    TrialAssignment,
)
from dropt.spec.results import VerdictRead
from dropt.storage import arms, jobs, trials
from dropt.storage import leases as stored_leases
from dropt.storage.arms import ArmRow
from dropt.storage.engine import Database
from dropt.storage.files import ArtifactStore
from dropt.storage.jobs import JobRow
from dropt.storage.trials import TrialRow
from dropt.tuning import phases, reports, scheduler
from dropt.tuning.background import Background
from dropt.tuning.service import Service

PROJECT = "default"
DIGEST = hashlib.sha256(b"toy").hexdigest()
N_TEST = 240
TURNS = 2000  # of a loop that ends after some dozens
PATIENCE_S = 300.0

Failing = Callable[[TrialAssignment, int], Reason | None]


def make_service(
    database: Database, folder: Path, *, lease_s: float = 30.0, heartbeat_s: float = 10.0
) -> Service:
    """A service whose samplers are empty, as after a restart; the files of a folder stay."""
    store = ArtifactStore(folder / "artifacts")
    return Service(database, store, lease_s=lease_s, heartbeat_s=heartbeat_s)


def site(name: str, *, role: Role = "hidden", units: int = 8, recommended: bool = True) -> Site:
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


def registration(
    name: str = "w", *, max_slots: int = 16, rows: int = 1000, n_test: int = N_TEST
) -> Registration:
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
        metrics=("nll", "accuracy", "mse"),
        models=(
            ModelOffer(
                name="mlp", tasks=("classification", "regression"), package="toy",
                args_schema={"type": "object", "properties": {"hidden": {"type": "array"}}},
            ),
        ),
        datasets=(
            dataset("digits", rows=rows, n_test=n_test),
            dataset("houses", task="regression", rows=rows, n_test=n_test),
        ),
    )  # fmt: skip


def dataset(
    name: str, *, task: Task = "classification", rows: int = 1000, n_test: int = N_TEST
) -> DatasetOffer:
    return DatasetOffer(
        name=name, sha256=DIGEST, task=task, rows=rows, input_shape=(64,),
        classes=10 if task == "classification" else None,
        split_rows={"train": 520, "validation": 240, "test": n_test},
    )  # fmt: skip


def job_body(**fields: Any) -> JobCreate:
    """A job that ends within a second: 6 trials of 3 epochs per arm, quick evidence."""
    body: dict[str, Any] = {
        "model": "mlp", "dataset": "digits", "budget": {"trials": 6},
        "training": {"epochs": 3}, "evidence": {"effort": "quick"},
    }  # fmt: skip
    return JobCreate.model_validate(body | fields)


def submit(service: Service, **fields: Any) -> str:
    return verbs.submit(service, job_body(**fields), project=PROJECT)[0].id


def loss_of(trial: TrialAssignment, epoch: int) -> float:
    """Validation loss of a trial: a bowl in lr and in the rates, seed noise, slow convergence."""
    generator = np.random.default_rng([trial.seed, len(trial.sites)])  # arms are paired in part
    rates = [dropout.rate for dropout in trial.sites.values()]
    bowl = 0.05 * abs(np.log10(trial.params.lr / 3e-3)) + sum(
        0.3 * (rate - 0.2) ** 2 - 0.012 for rate in rates
    )
    return float(0.3 + bowl + 0.3 / epoch + 0.005 * generator.standard_normal())


def loss_of_two_sites(trial: TrialAssignment, epoch: int) -> float:
    """Dropout helps before and after the first layer, and does nothing after the second."""
    sites = {site: of for site, of in trial.sites.items() if site != "layers.3:out"}
    helped = 0.02 * len(sites)
    return loss_of(trial.model_copy(update={"sites": sites}), epoch) - helped


def never(trial: TrialAssignment, epoch: int) -> Reason | None:
    """No trial fails."""
    return None


@dataclass
class ToyWorker:
    """Takes leases and trains by formula until nothing is left to do.

    `failing` says in which epoch of which trial it reports a failure. What it was given is kept
    in `leases` and `added`.
    """

    service: Service
    name: str = "w"
    slots: int = 16
    loss: Callable[[TrialAssignment, int], float] = loss_of
    failing: Failing = never
    on_report: Callable[[Report], None] = lambda report: None
    n_test: int = N_TEST
    id: str = ""
    leases: list[Lease] = field(default_factory=list)
    added: list[TrialAssignment] = field(default_factory=list)

    def __post_init__(self) -> None:
        offer = registration(self.name, n_test=self.n_test)
        self.id = scheduler.register(self.service, offer, project=PROJECT).id

    def lease(self, *, slots: int | None = None) -> Lease | None:
        request = LeaseRequest(worker=self.id, slots=slots or self.slots)
        lease = scheduler.grant(self.service, request, project=PROJECT)
        if lease is not None:
            self.leases.append(lease)
        return lease

    def work_once(self) -> bool:
        """Take one lease and carry it out; False when there was none."""
        lease = self.lease()
        if lease is None:
            return False
        if lease.kind == "inspect":
            self.inspect(lease)
        else:
            self.train(lease)
        return True

    def inspect(self, lease: Lease, *, slots: int = 8) -> None:
        found = InspectionReport(result=inspection(slots=slots))
        self.send(lease, 1, inspection=found, done=True)

    def train(self, lease: Lease) -> None:
        """Train every trial of a lease, epoch by epoch, as a pack does."""
        slots = {trial.id: (trial, 0) for trial in lease.trials}
        stop: set[str] = set()
        for sequence in range(1, TURNS):
            free = lease.slots - len(slots)
            measured, finished = self.train_epoch(lease, slots, stop)
            answer = self.send_held(
                lease, sequence, measurements=measured, finished=finished,
                free_slots=free + len(finished),
            )  # fmt: skip
            if answer is None:
                return
            stop |= set(answer.stop)
            for id in (*answer.cancel, *answer.lost):
                slots.pop(id, None)
            self.added += answer.add
            slots |= {one.id: (one, 0) for one in answer.add}
            assert len(slots) <= lease.slots, "more was added than is free"
            if not slots and answer.end:
                self.send(lease, sequence + 1, done=True)
                return
        raise AssertionError("a lease did not end")

    def train_epoch(
        self, lease: Lease, slots: dict[str, tuple[TrialAssignment, int]], stop: set[str]
    ) -> tuple[list[Measurement], list[Finished]]:
        """One epoch of every slot; those that end are taken out."""
        measured, finished = [], []
        for id, (trial, before) in list(slots.items()):
            epoch = before + (id not in stop)
            slots[id] = (trial, epoch)
            reason = None if id in stop else self.failing(trial, epoch)
            if reason is not None:
                finished.append(self.failed(trial, epoch, reason))
                del slots[id]
                continue
            if id not in stop:
                measured.append(self.measurement(lease, trial, epoch))
            if id in stop or epoch == trial.epochs:
                finished.append(self.finished(lease, trial, epoch, pruned=id in stop))
                del slots[id]
        return measured, finished

    def measurement(self, lease: Lease, trial: TrialAssignment, epoch: int) -> Measurement:
        value = self.loss(trial, epoch)
        finite = value if np.isfinite(value) else None
        return Measurement.model_validate(
            {"trial": trial.id, "attempt": trial.attempt, "epoch": epoch, "train_loss": finite,
             "validation_loss": finite, "metrics": metrics_of(lease, finite), "seconds": 0.01}
        )  # fmt: skip

    def finished(
        self, lease: Lease, trial: TrialAssignment, epoch: int, *, pruned: bool = False
    ) -> Finished:
        value = self.loss(trial, max(epoch, 1))
        finite = value if np.isfinite(value) else None
        values = {"validation": {"loss": finite, **metrics_of(lease, finite)}}
        if "test" in lease.score:
            values["test"] = values["validation"]
        scores = {"test": self.upload(lease, trial)} if lease.per_example and not pruned else {}
        return Finished.model_validate(
            {"trial": trial.id, "attempt": trial.attempt, "epoch": epoch, "best_epoch": epoch,
             "outcome": "pruned" if pruned else "completed", "values": values, "scores": scores}
        )  # fmt: skip

    def failed(self, trial: TrialAssignment, epoch: int, reason: Reason) -> Finished:
        return Finished(
            trial=trial.id, attempt=trial.attempt, outcome="failed", epoch=epoch, reason=reason,
            detail="as the test wants it",
        )  # fmt: skip

    def upload(self, lease: Lease, trial: TrialAssignment) -> str:
        """Per-example test scores around the loss of the trial, the same examples for all."""
        examples = np.random.default_rng(7).exponential(0.05, self.n_test)
        noise = np.random.default_rng([trial.seed, len(trial.sites)]).normal(0, 0.01, self.n_test)
        mean = self.loss(trial, trial.epochs)
        losses = np.maximum(mean + examples + noise, 1e-3)
        return self.put(score_file(losses, task=lease.dataset.task))

    def put(self, content: bytes) -> str:
        digest = hashlib.sha256(content).hexdigest()
        scheduler.put_artifact(self.service, digest, [content], project=PROJECT, max_bytes=1 << 20)
        return digest

    def send(self, lease: Lease, sequence: int, **parts: object) -> ReportAnswer:
        report = Report.model_validate({"worker": self.id, "sequence": sequence, **parts})
        self.on_report(report)
        return take(self.service, lease.id, report)

    def send_held(self, lease: Lease, sequence: int, **parts: Any) -> ReportAnswer | None:
        """The same without what another attempt has; None when nothing is held any more."""
        try:
            return self.send(lease, sequence, **parts)
        except LeaseLost as error:
            if not error.lease_held:
                return None
            for name in ("measurements", "finished"):
                parts[name] = [one for one in parts[name] if one.trial not in error.lost]
            answer = self.send_held(lease, sequence, **parts)
            lost = (*(answer.lost if answer else ()), *error.lost)
            return answer and answer.model_copy(update={"lost": lost})


def take(service: Service, lease_id: str, report: Report) -> ReportAnswer:
    body = hashlib.sha256(report.model_dump_json().encode()).hexdigest()
    return reports.take_report(service, lease_id, report, body, project=PROJECT)


def metrics_of(lease: Lease, value: float | None) -> dict[str, float | None]:
    if lease.dataset.task == "regression":
        return {"mse": value}
    return {"nll": value, "accuracy": None if value is None else 1.0 - value / 4}


def score_file(loss: npt.NDArray[np.float64], *, task: Task = "classification") -> bytes:
    """A file of scores as the trainer writes it; one example in ten is predicted wrong."""
    n = len(loss)
    tensors: dict[str, npt.NDArray[Any]] = {
        "row": np.arange(n, dtype=np.int64),
        "loss": loss.astype(np.float32),
    }
    if task == "regression":
        target = np.linspace(-1, 1, n, dtype=np.float32)[:, None]
        error = np.sqrt(loss).astype(np.float32)[:, None]
        tensors |= {"target": target, "prediction": target + error}
    else:
        tensors |= {
            "prediction": np.tile(np.array([[0.9, 0.1]], np.float32), (n, 1)),
            "target": (np.arange(n) % 10 == 0).astype(np.int64),
        }
    return safetensors.numpy.save(tensors, {"dropt": json.dumps({"split": "test"})})


def job_row(service: Service, job_id: str) -> JobRow:
    with service.database.reading() as session:
        return jobs.get(session, job_id, project=PROJECT)


def n_jobs(service: Service) -> int:
    """Jobs of the project, whatever their state."""
    return len(lists.list_jobs(service, project=PROJECT, limit=99))


def verdict_of(service: Service, job_id: str) -> VerdictRead:
    """The verdict of a job that has one."""
    verdict = job_row(service, job_id).verdict
    assert verdict is not None
    return verdict


def trial_rows(service: Service, job_id: str, **filters: Any) -> list[TrialRow]:
    with service.database.reading() as session:
        return trials.list_of(session, job_id, project=PROJECT, **filters)


def arm_rows(service: Service, job_id: str) -> dict[str, ArmRow]:
    with service.database.reading() as session:
        rows = arms.list_of(session, job_id, project=PROJECT)
    return {row.arm: row for row in rows}


def is_active(service: Service) -> bool:
    with service.database.reading() as session:
        return bool(jobs.active(session))


def advance_all(service: Service) -> None:
    """One turn of the background thread."""
    with service.database.reading() as session:
        active = jobs.active(session)
    for job in active:
        phases.advance(service, job)


def run_until(service: Service, worker: ToyWorker, phase: str, *, job_id: str) -> None:
    """Let the job come into this phase, with nothing of it leased."""
    for _ in range(TURNS):
        advance_all(service)
        if job_row(service, job_id).phase == phase:
            return
        worker.work_once()
    raise AssertionError(f"the job did not come to {phase}")


def run_until_done(service: Service, *workers: ToyWorker, most: int = TURNS) -> None:
    """Let the workers take turns until no job is active."""
    for _ in range(most):
        advance_all(service)
        for worker in workers:
            worker.work_once()
        if not is_active(service):
            return
    raise AssertionError("a job did not end")


def run_in_turns(service: Service, worker: ToyWorker, job_id: str) -> None:
    """Work on a job whose service takes it forward by itself, until it has ended."""
    pause, deadline = threading.Event(), monotonic() + PATIENCE_S
    while not job_row(service, job_id).is_done:
        assert monotonic() < deadline, "a job did not end"
        if not worker.work_once():
            pause.wait(0.01)


@contextmanager
def background(service: Service) -> Iterator[Background]:
    """The thread that takes jobs forward, while the block runs."""
    thread = Background(service)
    thread.start()
    try:
        yield thread
    finally:
        thread.stop()


def run_in_threads(service: Service, workers: Sequence[ToyWorker]) -> None:
    """Let workers work side by side, under a background thread, until no job is active."""
    ended = threading.Event()

    def work(worker: ToyWorker) -> None:
        while not ended.is_set():
            if not worker.work_once():
                ended.wait(0.01)

    deadline = monotonic() + PATIENCE_S
    with background(service), ThreadPoolExecutor(len(workers)) as pool:
        threads = [pool.submit(work, worker) for worker in workers]
        while is_active(service) and monotonic() < deadline:
            if any(thread.done() for thread in threads):
                break
            ended.wait(0.02)
        ended.set()
        for thread in threads:
            thread.result()
    assert not is_active(service), "a job did not end"


def refused(call: Callable[[], object]) -> DroptError:
    """The problem that a call ends with."""
    try:
        call()
    except DroptError as error:
        return error
    raise AssertionError("nothing was refused")


def search_lease(
    service: Service, *, slots: int = 4, worker: ToyWorker | None = None, **job: Any
) -> tuple[ToyWorker, Lease]:
    """A job in its search, and the first pack of it."""
    worker = worker or ToyWorker(service, slots=slots)
    job_id = submit(service, **job)
    run_until(service, worker, "search", job_id=job_id)
    lease = worker.lease(slots=slots)
    assert lease is not None
    assert lease.job == job_id
    return worker, lease


def lose(service: Service, worker: ToyWorker) -> None:
    """The worker is silent until its leases have expired."""
    with service.database.writing() as session:
        stored_leases.expire(session, worker.id, project=PROJECT)


def violations(service: Service, job_id: str) -> list[Violation]:
    with service.database.reading() as session:
        return check_job(session, jobs.get(session, job_id, project=PROJECT))
