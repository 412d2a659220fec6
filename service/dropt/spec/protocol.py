"""The worker protocol, version 1: what a worker and the service say to each other."""

from typing import Annotated, Literal

from pydantic import Field, JsonValue

from dropt.spec.inspection import Inspection, Kind
from dropt.spec.job import (
    MAX_SLOTS,
    Metric,
    ModelRef,
    Objective,
    Split,
    Task,
    Training,
)
from dropt.spec.record import Answer, Digest, Record, Text
from dropt.spec.space import Dropout

PROTOCOL = 1
Outcome = Literal["completed", "pruned", "failed"]
Reason = Literal["diverged", "out_of_memory", "error", "data", "unsupported", "worker-lost"]
Step = Literal["search", "shortlist", "simplify", "compare", "ablate"]
SplitName = Literal["train", "validation", "test"]
Attempt = Annotated[int, Field(ge=1)]
Epoch = Annotated[int, Field(ge=0)]
Loss = Annotated[float | None, Field(description="Null when it is not finite.")]
Detail = Annotated[str, Field(max_length=500)]


class Device(Record):
    """Where a worker trains."""

    type: Literal["cpu", "cuda", "mps"]
    name: Text
    memory_bytes: int = Field(ge=0)


class ModelOffer(Record):
    """A model that a worker can build."""

    name: Text
    tasks: tuple[Task, ...] = Field(min_length=1)
    args_schema: dict[str, JsonValue]
    package: Text


class LossOffer(Record):
    """A loss that a worker can train with."""

    name: Text
    package: Text


class DatasetOffer(Record):
    """A data set that a worker has."""

    name: Text
    sha256: Digest
    task: Task
    rows: int = Field(ge=1)
    input_shape: tuple[int, ...]
    classes: int | None = Field(default=None, ge=2)
    licence: Text | None = None
    source: Text | None = None
    split_rows: dict[SplitName, int] = Field(description="Rows of the split that it comes with.")


class Registration(Record):
    """The body of `POST /v1/workers`."""

    protocol: int
    name: Text
    device: Device
    max_slots: int = Field(ge=1, le=MAX_SLOTS)
    versions: dict[str, Text]
    lease_kinds: tuple[Literal["inspect", "train"], ...]
    kinds: tuple[str, ...]
    schedules: tuple[str, ...]
    optimizers: tuple[str, ...]
    metrics: tuple[Metric, ...]
    dataset_formats: tuple[str, ...] = ("npz",)
    checkpoint_formats: tuple[str, ...] = ()
    models: tuple[ModelOffer, ...]
    datasets: tuple[DatasetOffer, ...]
    losses: tuple[LossOffer, ...] = Field(
        default=(), description="Beside cross_entropy and mse, which every worker has."
    )


class Registered(Answer):
    """The answer to a registration."""

    id: str
    heartbeat_seconds: float
    lease_seconds: float
    max_measurements: int


class Heartbeat(Record):
    """The body of `POST /v1/workers/{id}/heartbeat`: renews the worker and each lease named."""

    leases: tuple[str, ...] = ()
    memory_free_bytes: int | None = Field(default=None, ge=0)


class LeaseNews(Answer):
    """What a worker must know of one of its leases."""

    id: str
    expires_in: float
    stop: tuple[str, ...] = ()
    cancel: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    end: bool = False


class HeartbeatAnswer(Answer):
    """The answer to a heartbeat."""

    drain: bool = False
    leases: tuple[LeaseNews, ...] = ()


class LeaseRequest(Record):
    """The body of `POST /v1/leases`."""

    worker: str
    slots: int = Field(ge=1, le=MAX_SLOTS)
    memory_free_bytes: int | None = Field(default=None, ge=0)


class CheckpointRef(Answer):
    """Where a trial goes on; null in the protocol until trainers upload checkpoints."""

    sha256: str
    epoch: int
    format: str


class TrialParams(Answer):
    """The nuisance settings of one trial."""

    lr: float
    weight_decay: float = 0.0
    l1: float = 0.0
    l2: float = 0.0


class TrialAssignment(Answer):
    """One trial of a lease: everything that differs from its pack-mates."""

    id: str
    arm: str
    number: int
    attempt: int
    seed: int
    first_epoch: int = 1
    epochs: int
    params: TrialParams
    sites: dict[str, Dropout]
    checkpoint: CheckpointRef | None = None


class LeasedModel(Answer):
    """The model of a lease; the fingerprint is null while it is to be inspected."""

    name: str
    args: dict[str, JsonValue] = Field(default_factory=dict)
    fingerprint: str | None = None

    def ref(self) -> ModelRef:
        return ModelRef(name=self.name, args=self.args)


class LeasedDataset(Answer):
    """The data set of a lease; `content` is where its bytes are, null when the worker has it."""

    name: str
    sha256: str
    content: str | None = None
    task: Task
    split: Split | None = None


class Lease(Answer):
    """Work for one worker: `inspect` a model, or `train` a pack of trials with one pack key."""

    id: str
    kind: Literal["inspect", "train"]
    expires_in: float
    job: str = Field(description="Empty for a look at a model that no job asked for.")
    phase: str
    step: Step | None = None
    model: LeasedModel
    dataset: LeasedDataset
    training: Training
    objective: Objective
    slots: int = Field(default=1, description="Trials that may train at once.")
    columns: dict[str, tuple[Kind, ...]] = Field(
        default_factory=dict, description="Site to kinds that any trial of the pack may use."
    )
    rungs: tuple[int, ...] = ()
    score: tuple[SplitName, ...] = ("train", "validation")
    per_example: bool = False
    trials: tuple[TrialAssignment, ...] = ()


class Measurement(Record):
    """One epoch of one trial."""

    trial: str
    attempt: Attempt
    epoch: Annotated[int, Field(ge=1)]
    train_loss: Loss = None
    train_eval_loss: Loss = None
    validation_loss: Loss = None
    metrics: dict[Metric, float | None] = Field(default_factory=dict)
    seconds: float = Field(default=0.0, ge=0, description="This trial's share of the device.")


class Checkpoint(Record):
    """A checkpoint that the worker has uploaded."""

    trial: str
    attempt: Attempt
    epoch: Epoch
    sha256: Digest
    bytes: int = Field(ge=0)
    format: Text


class Finished(Record):
    """The end of one trial."""

    trial: str
    attempt: Attempt
    outcome: Outcome
    epoch: Epoch
    best_epoch: Epoch | None = None
    reason: Reason | None = None
    detail: Detail | None = None
    values: dict[SplitName, dict[Literal["loss"] | Metric, float | None]] = Field(
        default_factory=dict
    )
    scores: dict[SplitName, Digest] = Field(
        default_factory=dict, description="Artifacts with per-example scores, by split."
    )


class InspectionFailure(Record):
    """Why a model could not be inspected."""

    reason: Reason
    detail: Detail


class InspectionReport(Record):
    """The end of an `inspect` lease: an inspection or a failure."""

    result: Inspection | None = None
    failure: InspectionFailure | None = None


class Report(Record):
    """The body of `POST /v1/leases/{id}/reports`."""

    worker: str
    sequence: int = Field(ge=1)
    free_slots: int = Field(default=0, ge=0, le=MAX_SLOTS)
    measurements: tuple[Measurement, ...] = Field(default=(), max_length=2000)
    checkpoints: tuple[Checkpoint, ...] = Field(default=(), max_length=MAX_SLOTS)
    finished: tuple[Finished, ...] = Field(default=(), max_length=MAX_SLOTS)
    inspection: InspectionReport | None = None
    done: bool = False


class ReportAnswer(Answer):
    """The answer to a report."""

    sequence: int
    expires_in: float
    stop: tuple[str, ...] = ()
    cancel: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    add: tuple[TrialAssignment, ...] = ()
    drain: bool = False
    end: bool = False
