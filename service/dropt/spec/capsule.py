"""A capsule: everything that trains one trial again, alone, and what came out the first time."""

from typing import Literal

from pydantic import Field

from dropt.spec.job import Objective, Training
from dropt.spec.protocol import LeasedDataset, LeasedModel, TrialAssignment
from dropt.spec.record import Answer
from dropt.spec.results import TrialPhase, TrialState


class Curve(Answer):
    """The epochs of a trial, in order; null where a value was not finite or not measured."""

    epoch: tuple[int, ...]
    train_loss: tuple[float | None, ...] = Field(description="As trained: with dropout.")
    train_eval_loss: tuple[float | None, ...] = Field(description="In evaluation mode.")
    validation_loss: tuple[float | None, ...]
    metrics: dict[str, tuple[float | None, ...]] = Field(description="On the validation rows.")


class Provenance(Answer):
    """Where a trial was trained."""

    worker: str
    device: str
    versions: dict[str, str]


class Capsule(Answer):
    """One trial as it can be trained alone, with the curve that it had."""

    schema_: Literal["dropt-capsule/1"] = Field(default="dropt-capsule/1", alias="schema")
    job: str
    dropt: str = Field(description="Version of the service that wrote this.")
    command: str = Field(description="What trains the trial again and compares.")
    model: LeasedModel
    dataset: LeasedDataset
    training: Training
    objective: Objective
    phase: TrialPhase
    trial: TrialAssignment
    state: TrialState
    provenance: Provenance | None = Field(description="Null when it never left the queue.")
    curve: Curve
    best_epoch: int | None
    values: dict[str, dict[str, float | None]] = Field(description="Final scores, by split.")
