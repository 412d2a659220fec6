"""What the service answers about jobs, arms, trials and verdicts."""

from datetime import datetime
from typing import Generic, Literal, TypeVar

from pydantic import Field

from dropt.spec.job import Direction, JobSpec, Metric
from dropt.spec.protocol import Reason, TrialParams
from dropt.spec.record import Answer
from dropt.spec.screening import ScreeningRead
from dropt.spec.space import Dropout, Schedule
from dropt.spec.webhooks import Notify

JobState = Literal[
    "queued", "running", "paused", "stopping", "cancelling", "succeeded", "failed", "cancelled"
]
Phase = Literal["preparing", "search", "evidence", "reporting"]
EndedBy = Literal["budget", "stopped", "cancelled", "failure"]
TrialState = Literal["waiting", "running", "completed", "pruned", "failed", "cancelled"]
TrialPhase = Literal["search", "shortlist", "simplify", "compare", "ablate"]
VerdictWord = Literal["helps", "hurts", "no_measurable_difference", "undecided", "not_tested"]
FINAL_JOB_STATES: tuple[JobState, ...] = ("succeeded", "failed", "cancelled")
WORKING: tuple[JobState, ...] = ("running", "stopping")  # workers train for it
FINAL_TRIAL_STATES: tuple[TrialState, ...] = ("completed", "pruned", "failed", "cancelled")

Item = TypeVar("Item")


class Page(Answer, Generic[Item]):
    """One page of a list; the token is null on the last one."""

    items: tuple[Item, ...]
    next_page_token: str | None = None


class ArmProgress(Answer):
    """How far the search of one arm is."""

    arm: str
    target: int
    complete: int
    pruned: int
    running: int
    waiting: int
    failed: int
    best_value: float | None = None


class EvidenceProgress(Answer):
    """How far the evidence is: trainings before the comparison, then its seeds.

    Targets are upper bounds: races with fewer configurations and sites that stay need fewer.
    """

    shortlist_done: int = 0
    shortlist_target: int = 0
    simplify_done: int = 0
    simplify_target: int = 0
    seeds_done: int = 0
    seeds_cap: int = 0


class Progress(Answer):
    """How far a job is; `fraction` from 0 to 1 never falls."""

    fraction: float
    arms: tuple[ArmProgress, ...]
    evidence: EvidenceProgress


class Consumed(Answer):
    """What a job has used so far."""

    device_seconds: float = 0.0
    epochs: int = 0


class Failure(Answer):
    """Why a job failed."""

    reason: str
    message: str
    retryable: bool = False


class StopRequest(Answer):
    """How a job was asked to stop: in which phase, and whether evidence is still wanted."""

    phase: Phase
    evidence: bool


class ArmScore(Answer):
    """One arm of the comparison: what it trained and how it scored on the test split."""

    arm: str
    trials: int = Field(description="Search trials that it was tuned with; 0 for textbook.")
    trial: str | None = Field(description="The search trial whose configuration was compared.")
    mean: float | None
    std: float | None
    seeds: int
    train_validation_gap: float | None = None


class Comparison(Answer):
    """One contrast of two arms with its interval."""

    name: str
    metric: Metric
    effect: float
    interval: tuple[float, float]
    level: float
    adjusted: Literal["holm"] | None = None
    verdict: VerdictWord | None = None


class AblationRead(Answer):
    """The tested configuration against itself without the dropout of some sites; secondary."""

    sites: tuple[str, ...] = Field(description="Those that share a rate.")
    metric: Metric
    effect: float = Field(description="Positive is better with dropout at these sites.")
    interval: tuple[float, float] | None
    level: float
    adjusted: Literal["holm"] | None = None
    seeds: int


class RemovalRead(Answer):
    """What taking dropout out at some sites did, on fresh validation seeds."""

    sites: tuple[str, ...] = Field(description="Those that share a rate.")
    harm: float | None = Field(description="Positive is worse; null: one side diverged.")
    low: float | None = Field(description="Lower one-sided 95 % bound of the harm.")
    seeds: int
    removed: bool = Field(description="Removed because no harm could be measured.")


class LookRead(Answer):
    """What one look saw: everything that decides, so that it can be computed again."""

    look: int
    seeds: int
    examples: int
    level: float
    effect: float
    interval: tuple[float, float] | None
    df: float | None
    ms_seed: float
    ms_example: float
    ms_residual: float
    seed_effects: tuple[float, ...]
    decision: str


class ThisSplit(Answer):
    """The interval over seeds alone: it speaks of this test split, not of other examples."""

    interval: tuple[float, float]
    method: Literal["paired-t"] = "paired-t"


class Pair(Answer):
    """The scores of the arms under one seed."""

    seed: int
    scores: dict[str, float | None]


class Cost(Answer):
    """What the answer cost, and what dropout costs in training."""

    device_seconds: dict[str, float] = Field(description="By phase of the trials.")
    epochs_ratio: float | None = Field(
        default=None, description="Best epoch with dropout over best epoch without, means."
    )


class VerdictRead(Answer):
    """Does dropout help here, and how sure are we."""

    object: Literal["verdict"] = "verdict"
    job: str
    revision: int
    attempt: int = 1
    provisional: bool
    verdict: VerdictWord
    size: Literal["at_least_min_effect", "may_be_smaller"] | None = None
    sign: Literal["better", "worse"] | None = Field(
        default=None, description="With no measurable difference: where the interval lies."
    )
    reason: str | None = None
    summary: str
    metric: Metric
    direction: Direction
    split: Literal["test"] = "test"
    min_effect: float | None
    confidence: float = 0.95
    effect: float | None = Field(default=None, description="Positive is better with dropout.")
    interval: tuple[float, float] | None = None
    look: int | None = None
    level: float | None = None
    df: float | None = None
    method: Literal["crossed-satterthwaite"] = "crossed-satterthwaite"
    seeds: int = 0
    seeds_better: int = 0
    examples: int = 0
    detectable_effect: float | None = None
    bottleneck: Literal["seeds", "examples"] | None = None
    would_decide: str | None = None
    variance: dict[str, float] = Field(default_factory=dict)
    this_split: ThisSplit | None = None
    arms: tuple[ArmScore, ...] = ()
    pairs: tuple[Pair, ...] = ()
    looks: tuple[LookRead, ...] = ()
    secondary: tuple[Comparison, ...] = ()
    ablation: tuple[AblationRead, ...] = ()
    cautions: tuple[str, ...] = ()
    cost: Cost


class JobRead(Answer):
    """One job."""

    id: str
    object: Literal["job"] = "job"
    revision: int
    name: str
    labels: dict[str, str]
    priority: int
    state: JobState
    phase: Phase | None
    done: bool
    ended_by: EndedBy | None
    reason: str | None = Field(description="What it waits for, or why it ended, in words.")
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    progress: Progress
    consumed: Consumed
    verdict: VerdictWord | None
    warnings: tuple[str, ...]
    failure: Failure | None
    cloned_from: str | None = None
    notify: Notify | None = None
    spec: JobSpec
    links: dict[str, str]


class JobSummary(Answer):
    """One job in a list."""

    id: str
    object: Literal["job"] = "job"
    revision: int
    name: str
    labels: dict[str, str]
    state: JobState
    phase: Phase | None
    model: str
    dataset: str
    fraction: float
    verdict: VerdictWord | None
    effect: float | None = None
    interval: tuple[float, float] | None = None
    created_at: datetime
    finished_at: datetime | None


class ArmRead(Answer):
    """One arm with its study."""

    arm: str
    searched: bool
    study: str | None
    target: int
    trials: dict[str, int] = Field(description="Search trials by state.")
    best_value: float | None
    best_trial: str | None
    device_seconds: float


class TrialRead(Answer):
    """One training."""

    id: str
    job: str
    arm: str
    phase: TrialPhase
    number: int
    state: TrialState
    attempt: int
    seed: int
    params: TrialParams
    sites: dict[str, Dropout]
    value: float | None
    values: dict[str, dict[str, float | None]]
    epochs: int
    epoch: int
    best_epoch: int | None
    pruned_at: int | None
    reason: Reason | None
    detail: str | None
    seconds: float
    worker: str | None
    created_at: datetime
    finished_at: datetime | None


class SiteRead(Answer):
    """One site of a recommended configuration."""

    site: str
    layer: str
    kind: str
    units: int | None
    rate: float
    schedule: Schedule = Schedule()


class NeverDropped(Answer):
    """A place that was refused, with the reason."""

    site: str
    layer: str | None
    reason: str


class Configuration(Answer):
    """A configuration with its validation value."""

    arm: str
    trial: str
    value: float | None
    sites: tuple[SiteRead, ...]
    other: TrialParams


class Equivalent(Configuration):
    """A configuration of the shortlist that fresh seeds cannot tell apart from the best."""

    seeds: int = Field(description="Fresh validation seeds that `value` is the mean of.")
    cheapest: bool = Field(description="Fewest sites with dropout, then the lowest rates.")


class BestRead(Answer):
    """What to use, and what was the best dropout when that is not recommended."""

    object: Literal["best"] = "best"
    job: str
    revision: int
    provisional: bool
    model: str
    dataset: str
    verdict: VerdictWord
    summary: str
    recommended: Configuration
    alternatives: tuple[Configuration, ...] = ()
    top: tuple[Configuration, ...] = ()
    simplified: tuple[RemovalRead, ...] = Field(
        default=(), description="Sites that were taken out of the best dropout configuration, "
        "and those that stayed because their removal is harmful.",
    )  # fmt: skip
    indistinguishable: tuple[Equivalent, ...] = Field(
        default=(), description="Of the recommended arm, on validation: advice, not tested."
    )
    screening: ScreeningRead | None = Field(
        default=None, description="Which groups of a deep model were searched, and why."
    )
    never_dropped: tuple[NeverDropped, ...] = ()
    reproduce: dict[str, str | int | None]
    links: dict[str, str]


class EventRead(Answer):
    """Something that happened to a job; `sequence` rises by insertion within the job."""

    sequence: int
    type: str
    at: datetime
    job: str
    trial: str | None = None
    attempt: int | None = None
    data: dict[str, object] = Field(default_factory=dict)
