"""What is told before a job is submitted: the sites of a model, and what a job would do."""

from typing import Literal

from pydantic import Field, JsonValue

from dropt.spec.inspection import Finding, Site
from dropt.spec.job import DatasetRef, JobSpec, LabelName
from dropt.spec.protocol import TrialParams
from dropt.spec.record import Answer, Record, Text
from dropt.spec.space import Dropout, Space

LookState = Literal["waiting", "running", "done"]


class LookAt(Record):
    """The body of `POST /v1/models/{model}/inspect`."""

    dataset: Text | DatasetRef
    args: dict[LabelName, JsonValue] = Field(
        default_factory=dict, description="Arguments of the model's factory."
    )


class LookPending(Answer):
    """A worker has yet to look at the model: ask again."""

    state: Literal["waiting", "running"]
    reason: str


class FirstTrial(Answer):
    """A configuration that an arm begins with; sites without dropout are not named."""

    params: TrialParams
    sites: dict[str, Dropout]


class ArmPreview(Answer):
    """An arm of the comparison; one that is not searched is trained in the evidence alone."""

    arm: str
    searched: bool
    trials: int
    first: tuple[FirstTrial, ...] = Field(description="At most the first ten.")


class Estimate(Answer):
    """What a job will cost; null where nothing is known of it yet."""

    trainings: dict[Literal["search", "evidence"], int] = Field(
        description="Most in the search; in the evidence those for which the search leaves room."
    )
    epochs: int = Field(description="Of all trainings, with as many pruned as is usual.")
    device_seconds: float | None
    seconds: float | None = Field(description="With the workers that offer the model now.")
    detectable_effect: float | None = Field(
        description="In units of the metric, with 80 % power, if noise is as it usually is."
    )
    basis: str = Field(description="Where the times come from.")


class PreviewRead(Answer):
    """A job as it would be; sites and space are null until a worker has looked at the model."""

    state: LookState
    reason: str | None
    spec: JobSpec
    sites: tuple[Site, ...] | None
    findings: tuple[Finding, ...] | None
    space: Space | None
    arms: tuple[ArmPreview, ...]
    estimate: Estimate
    warnings: tuple[str, ...]
