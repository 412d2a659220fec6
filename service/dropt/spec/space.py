"""What is searched, and one point of it: ranges, groups of sites, placements."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from dropt.spec.inspection import Excluded, Kind, Site
from dropt.spec.record import Rate, Record, Text

MAX_RATE = 0.95  # a user's own range may go up to here


class Schedule(Record):
    """How the rate changes over the epochs of a trial, as a factor of it."""

    name: Literal["constant", "early", "late", "ramp"] = "constant"
    until: float | None = Field(default=None, ge=0, description="Epochs; of early and ramp.")
    start: float | None = Field(default=None, ge=0, alias="from", description="Epochs; of late.")


class Dropout(Record):
    """Dropout at one site."""

    kind: Kind = "element"
    rate: Rate
    schedule: Schedule = Schedule()


class Placement(Record):
    """A configuration that `apply()` reads: sites with their dropout; unlisted sites have none."""

    schema_: Literal["dropt-placement/1"] = Field(default="dropt-placement/1", alias="schema")
    fingerprint: str
    sites: dict[str, Dropout]
    source: dict[str, str] = Field(default_factory=dict)


class Range(Record):
    """An interval to search, both ends included."""

    low: float
    high: float
    log: bool = False

    @model_validator(mode="after")
    def _is_ordered(self) -> "Range":
        if not self.low < self.high:
            raise ValueError(f"low must be below high, received {self.low} and {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"a logarithmic range needs low above 0, received {self.low}")
        return self


PositiveRange = Annotated[Range, Field(description="Range of a value of 0 or more.")]


class SiteChoice(Record):
    """What a user says of the sites whose names match a shell pattern."""

    match: Text
    kinds: tuple[Kind, ...] | None = None
    rate: tuple[Rate, Rate] | None = Field(
        default=None, description="Range of the rate when the site is on; 0 stays a choice."
    )
    always_on: bool = False

    @model_validator(mode="after")
    def _has_a_range(self) -> "SiteChoice":
        if self.rate is None:
            return self
        low, high = self.rate
        if not 0 < low < high <= MAX_RATE:
            raise ValueError(
                f"rate must be [low, high] with 0 < low < high <= {MAX_RATE}, "
                f"received [{low}, {high}]"
            )
        return self


class Group(Record):
    """Sites that share a rate: one parameter of the search."""

    group: str
    sites: tuple[str, ...]
    kind: Kind
    low: float
    high: float
    step: float
    zero_codes: int = Field(ge=0, description="Grid points below `low`; each means rate 0.")
    start: float
    always_on: bool = False


class Space(Record):
    """Everything that the trials of a job may choose."""

    schema_: Literal["dropt-space/1"] = Field(default="dropt-space/1", alias="schema")
    fingerprint: str
    sites: tuple[Site, ...]
    excluded: tuple[Excluded, ...] = ()
    groups: tuple[Group, ...]
    slots: int = Field(default=1, ge=1, description="Trials of a pack, as the probe found best.")
    also: dict[str, Range | float]
