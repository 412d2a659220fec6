"""What is searched, and one point of it: ranges, groups of sites, placements."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from dropt.spec.inspection import Excluded, Kind, Site
from dropt.spec.record import Rate, Record, Text

MAX_RATE = 0.95  # a user's own range may go up to here

ScheduleName = Literal["constant", "early", "late", "ramp"]
Profile = Literal["constant", "linear"]


class Schedule(Record):
    """How the rate changes over the epochs of a trial, as a factor of it."""

    name: ScheduleName = "constant"
    until: float | None = Field(default=None, ge=0, description="Epochs; of early and ramp.")
    start: float | None = Field(default=None, ge=0, alias="from", description="Epochs; of late.")

    @property
    def label(self) -> str:
        """Name and epoch, as a choice of the search is written: `early/9`."""
        at = self.start if self.name == "late" else self.until
        return self.name if at is None else f"{self.name}/{at:g}"


class Dropout(Record):
    """Dropout at one site."""

    kind: Kind = "element"
    rate: Rate
    schedule: Schedule = Schedule()


class Layout(Record):
    """Which dimensions of a site's tensor are examples and time steps."""

    batch_dim: int = Field(default=0, ge=0)
    time_dim: int = Field(default=1, ge=0)


class Placement(Record):
    """A configuration that `apply()` reads: sites with their dropout; unlisted sites have none."""

    schema_: Literal["dropt-placement/1"] = Field(default="dropt-placement/1", alias="schema")
    fingerprint: str
    sites: dict[str, Dropout]
    layouts: dict[str, Layout] = Field(
        default_factory=dict, description="Of sites whose tensors are not [B, T, ...]."
    )
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
    kinds: tuple[Kind, ...] | None = Field(
        default=None, min_length=1, description="Kinds to choose from; null: the default one."
    )
    rate: tuple[Rate, Rate] | Annotated[Rate, Field(le=MAX_RATE)] | None = Field(
        default=None,
        description="Range of the rate when the site is on, 0 stays a choice; a number fixes it.",
    )
    profile: Profile | None = Field(
        default=None, description="Of the rates within a group; null: linear for path."
    )
    always_on: bool = False

    @model_validator(mode="after")
    def _has_a_range(self) -> "SiteChoice":
        if not isinstance(self.rate, tuple):
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
    sites: tuple[str, ...] = Field(description="In the order of the model.")
    kinds: tuple[Kind, ...] = Field(min_length=1, description="More than one are a choice.")
    low: float
    high: float
    step: float
    zero_codes: int = Field(ge=0, description="Grid points below `low`; each means rate 0.")
    start: float
    profile: Profile = Field(
        default="constant",
        description="linear: site i of n has i/n of the rate (Huang et al. 2016, section 3).",
    )
    always_on: bool = False
    depth: float = Field(default=0.5, ge=0, le=1, description="Mean over the sites.")

    @model_validator(mode="before")
    @classmethod
    def _had_one_kind(cls, data: object) -> object:
        """Jobs of version 0.1 stored the one `kind` of a group."""
        if isinstance(data, dict) and "kind" in data and "kinds" not in data:
            return {**{k: v for k, v in data.items() if k != "kind"}, "kinds": (data["kind"],)}
        return data

    @property
    def kind(self) -> Kind:
        """The kind that is used where none is chosen."""
        return self.kinds[0]

    @property
    def is_fixed(self) -> bool:
        """Whether nothing of the rate is searched."""
        return self.always_on and self.low == self.high


class Screening(Record):
    """How the groups of a deep model are sifted before a sampler searches them.

    First all groups together, their start rates times each of `scales`; then a two-level
    design of `n_runs` over the units, each run once per seed.
    """

    units: tuple[tuple[str, ...], ...] = Field(description="Groups that are on or off together.")
    n_runs: int = Field(ge=2)
    n_seeds: int = Field(ge=1)
    scales: tuple[float, ...] = ()

    @property
    def n_trials(self) -> int:
        """Trials of the budget of the arm that it takes."""
        return len(self.scales) + self.n_runs * self.n_seeds


class Space(Record):
    """Everything that the trials of a job may choose."""

    schema_: Literal["dropt-space/1"] = Field(default="dropt-space/1", alias="schema")
    fingerprint: str
    sites: tuple[Site, ...]
    excluded: tuple[Excluded, ...] = ()
    groups: tuple[Group, ...]
    max_groups: int = Field(default=6, ge=1, description="Of what a sampler searches.")
    screening: Screening | None = Field(
        default=None, description="Null: all groups are searched at once."
    )
    schedules: tuple[Schedule, ...] = Field(default=(Schedule(),), min_length=1)
    slots: int = Field(default=1, ge=1, description="Trials of a pack, as the probe found best.")
    also: dict[str, Range | float]
