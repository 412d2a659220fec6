"""The report of a job: everything that its page shows, as one value."""

from typing import Literal

from pydantic import Field, JsonValue

from dropt.spec.protocol import TrialParams
from dropt.spec.record import Answer
from dropt.spec.results import (
    BestRead,
    Equivalent,
    JobRead,
    TrialState,
    VerdictRead,
)
from dropt.spec.space import Placement, Schedule

Bounds = tuple[float, float]
Mark = Literal["site", "output", "refused", "taken_out"]


class PlacedSite(Answer):
    """One place of the model, in its order: a site with its rate, or one that stays without."""

    site: str
    layer: str
    kind: str | None = None
    rate: float | None = Field(default=None, description="Null where dropout never acts.")
    schedule: Schedule = Schedule()
    mark: Mark = "site"
    same_within_noise: Bounds | None = Field(
        default=None,
        description="Rates of the configurations that fresh seeds cannot tell apart.",
    )
    batch_norm: bool = Field(default=False, description="Batch norm follows.")
    reason: str | None = None


class Where(Answer):
    """Where dropout acts in the configuration of one arm."""

    arm: str
    tested: bool = Field(description="The comparison used it; else it is the best of the search.")
    recommended: bool
    sites: tuple[PlacedSite, ...]


class ArmMean(Answer):
    """The test scores of one arm over its seeds."""

    arm: str
    mean: float
    interval: Bounds | None = Field(description="Of the mean over seeds, on this test split; t.")
    seeds: int


class Band(Answer):
    """A mean over seeds by epoch, with its interval; null where nothing was measured."""

    mean: tuple[float | None, ...]
    low: tuple[float | None, ...]
    high: tuple[float | None, ...]


class ArmCurves(Answer):
    """The loss of one arm by epoch, over the trainings of the comparison."""

    arm: str
    seeds: int
    epoch: tuple[int, ...]
    train: Band
    validation: Band
    train_in_evaluation: bool = Field(description="Else the training loss includes dropout.")


class ResponsePoint(Answer):
    """What the model of the search expects at one rate, relative to its mean."""

    rate: float
    effect: float = Field(description="In units of the objective.")
    interval: Bounds
    trials: int = Field(description="Search trials nearest to this rate.")


class RateResponse(Answer):
    """The objective on validation over the rate of one group, all else averaged out."""

    group: str
    sites: tuple[str, ...]
    chosen: float
    points: tuple[ResponsePoint, ...]
    alike: Bounds | None = Field(
        description="Rates around the chosen one that cannot be told apart from it."
    )
    is_flat: bool = Field(description="No rate can be told apart from the chosen one.")


class Importance(Answer):
    """The share of the variance over the search that one setting explains."""

    name: str
    share: float
    interval: Bounds


class Sensitivity(Answer):
    """An additive Gaussian process over the search trials of one arm: opinion, not evidence."""

    arm: str
    trials: int
    level: float
    responses: tuple[RateResponse, ...]
    importance: tuple[Importance, ...]
    unexplained: Bounds = Field(description="Share left to seeds and interactions.")


class ArmSettings(Answer):
    """What else an arm was tuned to: the neighbours of dropout."""

    arm: str
    params: TrialParams
    value: float | None


class SearchDot(Answer):
    """One search trial in the history."""

    trial: str
    arm: str
    order: int = Field(description="In the order in which trials were made, from 1.")
    state: TrialState
    value: float | None


class SearchedArm(Answer):
    """The search of one arm in numbers."""

    arm: str
    target: int
    trials: dict[str, int] = Field(description="By state.")
    best_so_far: tuple[tuple[int, float], ...] = Field(description="(order, value) of each best.")


class History(Answer):
    """The search, trial by trial; at most 500 dots, pruned ones thinned first."""

    dots: tuple[SearchDot, ...]
    trials: int = Field(description="All, thinned ones included.")
    arms: tuple[SearchedArm, ...]


class Spending(Answer):
    """What the job has used."""

    epochs: int
    epochs_unpruned: int = Field(description="Had every search trial been trained to its end.")
    pruned: int
    wall_seconds: float | None
    device_seconds: dict[str, float] = Field(description="By phase of the trials.")
    trials_per_second: float | None = Field(description="Of the search, from start to end.")
    slots: int | None
    lane: str | None = Field(description="Whether trials were trained as one fused model.")
    failures: dict[str, int] = Field(description="Trials that failed, by reason.")


class Diagnosis(Answer):
    """How far training and validation lie apart at the epoch that counts, without and with."""

    arm: str
    gap: float = Field(description="(validation - train) / validation loss, mean over seeds.")
    word: Literal["overfits", "little_gap"]


class UseIt(Answer):
    """The recommended configuration to take home."""

    arm: str
    placement: Placement
    python: str
    apply: str


class Machine(Answer):
    """Where trials of the comparison, or of the search before it, were trained."""

    worker: str
    device: str
    versions: dict[str, str]


class Reproduce(Answer):
    """All that repeats the job."""

    dataset_sha256: str
    split: dict[str, JsonValue] | None
    rows: dict[str, int] = Field(description="By split, as the data set comes.")
    search_seed: int
    evidence_seeds: tuple[int, ...]
    fingerprint: str | None
    service: str
    machines: tuple[Machine, ...]
    body: dict[str, JsonValue] = Field(description="To submit again.")
    commands: tuple[str, ...]


class Report(Answer):
    """One job: does dropout help, where, how much, how sure, at which cost, and how to use it.

    A part that is null has its reason in `empty`.
    """

    schema_: Literal["dropt-report/1"] = Field(default="dropt-report/1", alias="schema")
    revision: int
    provisional: bool
    job: JobRead
    verdict: VerdictRead | None
    best: BestRead | None
    cautions: tuple[str, ...] = Field(description="In words.")
    where: Where | None
    means: tuple[ArmMean, ...]
    curves: tuple[ArmCurves, ...]
    sensitivity: Sensitivity | None
    ties: tuple[Equivalent, ...] = Field(
        description="Placements of the arm `with` that fresh validation seeds cannot tell apart."
    )
    settings: tuple[ArmSettings, ...]
    history: History
    spending: Spending
    diagnosis: tuple[Diagnosis, ...]
    use: UseIt | None
    reproduce: Reproduce
    empty: dict[str, str] = Field(description="Block to the reason why it shows nothing.")
