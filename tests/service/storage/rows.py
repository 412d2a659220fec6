"""Rows that the tests of storage start from."""

from dataclasses import dataclass

from dropt.spec.ids import JobId, LeaseId, TrialId, WorkerId
from dropt.spec.inspection import Inspection
from dropt.spec.job import (
    Budget,
    Compare,
    DatasetRef,
    Evidence,
    JobSpec,
    ModelRef,
    Objective,
    Resources,
    Search,
    Training,
)
from dropt.spec.protocol import (
    DatasetOffer,
    Device,
    Measurement,
    ModelOffer,
    Registration,
    TrialParams,
)
from dropt.spec.results import TrialPhase
from dropt.spec.space import Dropout
from dropt.storage import arms, jobs, leases, projects, trials, workers
from dropt.storage.jobs import JobRow
from dropt.storage.session import Session
from dropt.storage.trials import NewTrial, TrialRow

PROJECT = projects.DEFAULT


@dataclass(frozen=True)
class Scene:
    """A job with one arm, trials that wait, and a worker with an open lease."""

    job: JobRow
    trials: list[TrialRow]
    worker: WorkerId
    lease: LeaseId

    @property
    def ids(self) -> list[TrialId]:
        return [row.id for row in self.trials]


def set_scene(
    session: Session, *, n_trials: int = 3, project: str = PROJECT, name: str = "gpu-7"
) -> Scene:
    job = add_job(session, project=project)
    arms.insert(session, job.id, "with", project=project, searched=True, target=64)
    made = add_trials(session, job.id, n_trials, project=project)
    worker, lease = open_lease(session, job.id, project=project, name=name)
    return Scene(job, made, worker, lease)


def add_job(session: Session, *, project: str = PROJECT, name: str = "a job") -> JobRow:
    return jobs.insert(
        session, spec(), project=project, name=name, labels={"team": "vision"}, priority=0
    )


def add_trials(
    session: Session,
    job_id: JobId,
    n: int,
    *,
    project: str = PROJECT,
    arm: str = "with",
    phase: TrialPhase = "search",
    first: int = 0,
) -> list[TrialRow]:
    new = [new_trial(job_id, number, arm=arm, phase=phase) for number in range(first, first + n)]
    trials.insert_many(session, new, project=project)
    stored = trials.get_many(session, [one.id for one in new], project=project)
    return [stored[one.id] for one in new]


def new_trial(
    job_id: JobId, number: int, *, arm: str = "with", phase: TrialPhase = "search"
) -> NewTrial:
    return NewTrial(
        job_id=job_id,
        arm=arm,
        phase=phase,
        number=number,
        seed_index=f"{phase}/{number}",
        seed=2**53 - 1 - number,
        epochs=27,
        params=TrialParams(lr=1e-3),
        rates={"hidden": 0.3},
        sites={"layers.1:out": Dropout(rate=0.3)},
    )


def open_lease(
    session: Session, job_id: str, *, project: str = PROJECT, name: str = "gpu-7"
) -> tuple[WorkerId, LeaseId]:
    worker = workers.register(session, registration(name), project=project)
    lease = leases.open_lease(session, worker, "train", project=project, job_id=job_id, slots=8)
    return worker, lease.id


def claim(
    session: Session, scene: Scene, *, limit: int = 99, alone: bool = False
) -> list[TrialRow]:
    return trials.claim(
        session, scene.lease, scene.worker, scene.job.id, "search",
        project=scene.job.project, limit=limit, alone=alone,
    )  # fmt: skip


def measured(trial: str, epoch: int, *, attempt: int = 1, loss: float = 0.5) -> Measurement:
    return Measurement(
        trial=trial, attempt=attempt, epoch=epoch, validation_loss=loss,
        metrics={"accuracy": 0.9}, seconds=0.25,
    )  # fmt: skip


def registration(name: str = "gpu-7", *, digest: str = "9" * 64) -> Registration:
    return Registration(
        protocol=1,
        name=name,
        device=Device(type="cpu", name="cpu", memory_bytes=2**33),
        max_slots=16,
        versions={"trainer": "0.1.0"},
        lease_kinds=("inspect", "train"),
        kinds=("element",),
        schedules=("constant",),
        optimizers=("adamw",),
        metrics=("nll",),
        models=(model_offer(),),
        datasets=(dataset_offer(digest=digest),),
    )


def model_offer() -> ModelOffer:
    return ModelOffer(
        name="mlp", tasks=("classification",), args_schema={"type": "object"}, package="dropt 0.1"
    )


def dataset_offer(name: str = "digits", *, digest: str = "9" * 64) -> DatasetOffer:
    return DatasetOffer(
        name=name, sha256=digest, task="classification", rows=1797, input_shape=(64,), classes=10,
        split_rows={"train": 1078, "validation": 359, "test": 360},
    )  # fmt: skip


def spec() -> JobSpec:
    return JobSpec(
        model=ModelRef(name="mlp", args={"hidden": [128, 64]}),
        dataset=DatasetRef(name="digits"),
        dataset_sha256="9" * 64,
        task="classification",
        objective=Objective(metric="nll", direction="minimize"),
        compare=Compare(),
        search=Search(start_from=({"layers.1:out": 0.2},)),
        training=Training(loss="cross_entropy", metrics=("nll", "accuracy")),
        budget=Budget(),
        evidence=Evidence(),
        resources=Resources(),
    )


def inspection() -> Inspection:
    return Inspection(fingerprint="51ab", parameters=17226, output_layers=("layers.4",), sites=())
