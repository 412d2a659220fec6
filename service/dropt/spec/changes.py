"""What a user may ask of a job that is there: bodies of its verbs and of `PATCH`."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from dropt.spec.job import MAX_TRIALS, LabelName, LabelValue
from dropt.spec.record import Record, Text
from dropt.spec.webhooks import NotifyChoice


class Cancel(Record):
    """Why a job is cancelled, in words; it is kept."""

    reason: Text | None = None


class Stop(Record):
    """Whether a job that ends its search now still gets a verdict."""

    evidence: bool = True


class Extension(Record):
    """What a job gets in addition: trials for each arm, time, or a new verdict from new seeds."""

    trials: int | None = Field(default=None, ge=1, le=MAX_TRIALS)
    seconds: float | None = Field(default=None, gt=0, le=31_536_000)
    evidence: Literal["again"] | None = None

    @model_validator(mode="after")
    def _is_one_thing(self) -> Self:
        more = self.trials is not None or self.seconds is not None
        if more == (self.evidence is not None):
            raise ValueError("name trials, seconds or both; or evidence alone")
        return self


class JobChange(Record):
    """What of a job may change at any time; what is left out stays, `notify: null` ends it."""

    name: Text | None = None
    labels: dict[LabelName, LabelValue] | None = Field(default=None, max_length=32)
    priority: int | None = Field(default=None, ge=-100, le=100)
    notify: NotifyChoice | None = None


class Clone(BaseModel):
    """Fields of a job body that differ from those of the job that is cloned, merged in.

    Objects are merged field by field, null takes the default, anything else replaces
    (RFC 7396).
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    warm_start: bool = Field(
        default=False, description="Try the best placements of that job first."
    )
