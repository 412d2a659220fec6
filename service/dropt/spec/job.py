"""What a user asks: the body of `POST /v1/jobs`, and the same with every default filled in."""

from typing import Annotated, Literal

from pydantic import Field, JsonValue, StringConstraints, model_validator

from dropt.spec.record import Rate, Record, Seed, Text
from dropt.spec.space import Range, ScheduleName, SiteChoice
from dropt.spec.webhooks import NotifyChoice

Task = Literal["classification", "regression", "next_token"]
Metric = Literal["nll", "accuracy", "mse", "perplexity"]
Direction = Literal["minimize", "maximize"]
Arm = Literal["without", "with", "textbook"]
Effort = Literal["quick", "default", "thorough"]
Optimizer = Literal["adamw", "sgd"]
Precision = Literal["float32", "float64", "bfloat16"]
Nuisance = Literal["lr", "weight_decay", "l1", "l2"]

DIRECTIONS: dict[str, Direction] = {"nll": "minimize", "accuracy": "maximize", "mse": "minimize"}
METRICS_OF: dict[str, tuple[Metric, ...]] = {
    "classification": ("nll", "accuracy"),  # the first is the default: it resolves more
    "regression": ("mse",),
    "next_token": ("nll", "accuracy"),  # both averaged over the steps of an example
}
# Perplexity is exp(nll) of a whole split: no mean over examples, so nothing is tested by it.
ALSO_REPORTED: dict[str, tuple[Metric, ...]] = {"next_token": ("perplexity",)}
PRECISION = "bfloat16: mixed; weights and losses stay in float32. Worth trying on a GPU."
LOSS_OF: dict[str, Literal["cross_entropy", "token_cross_entropy", "mse"]] = {
    "classification": "cross_entropy",
    "regression": "mse",
    "next_token": "token_cross_entropy",
}
MAX_TRIALS, MAX_EPOCHS, MAX_BATCH, MAX_SLOTS = 10_000, 10_000, 65_536, 1_024

Tie = Annotated[tuple[Text, ...], Field(min_length=1, max_length=1000)]
LabelName = Annotated[str, StringConstraints(min_length=1, max_length=64)]
LabelValue = Annotated[str, StringConstraints(max_length=200)]


class ModelRef(Record):
    """A model that a worker offers, with the arguments of its factory."""

    name: Text
    args: dict[LabelName, JsonValue] = Field(default_factory=dict)


class Split(Record):
    """How the rows are divided; `given` and `ordered` come with the data set."""

    method: Literal["hash", "given", "ordered"] = "hash"
    seed: Seed = 0
    train: float = Field(default=0.6, gt=0, lt=1)
    validation: float = Field(default=0.2, gt=0, lt=1)
    test: float = Field(default=0.2, ge=0, lt=1)

    @model_validator(mode="after")
    def _is_whole(self) -> "Split":
        total = self.train + self.validation + self.test
        if self.method != "given" and abs(total - 1) > 1e-9:
            raise ValueError(f"train, validation and test must add up to 1, received {total:g}")
        return self


class DatasetRef(Record):
    """A data set that a worker offers or that was uploaded."""

    name: Text
    split: Split | None = Field(default=None, description="Null: the one that it comes with.")


class Objective(Record):
    """The one metric that tunes, ranks and decides."""

    metric: Metric
    direction: Direction
    min_effect: float | None = Field(
        default=None, gt=0,
        description="Smallest effect of interest; null for losses: 1 % of the mean of `without`.",
    )  # fmt: skip


class Compare(Record):
    """The arms of the comparison."""

    arms: tuple[Arm, ...] = Field(default=("without", "with", "textbook"), min_length=1)

    @model_validator(mode="after")
    def _are_distinct(self) -> "Compare":
        if len(set(self.arms)) != len(self.arms):
            raise ValueError(f"an arm is named twice: {', '.join(self.arms)}")
        if set(self.arms) == {"textbook"}:
            raise ValueError("textbook alone compares nothing; add 'without' or 'with'")
        return self


class Pruner(Record):
    """When a trial stops early, by its rank among the trials at the same epoch."""

    name: Literal["successive_halving", "hyperband", "median", "none"] = "successive_halving"
    rungs: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        default=(0.34,), max_length=10, description="Shares of the epochs at which trials compare."
    )
    factor: int = Field(default=3, ge=2, le=10, description="One in this many goes on.")


class Also(Record):
    """The nuisance settings, searched in every arm; a number fixes one."""

    lr: Range | Annotated[float, Field(gt=0)] = Range(low=3e-4, high=3e-2, log=True)
    weight_decay: Range | Annotated[float, Field(ge=0)] = Range(low=1e-6, high=1e-1, log=True)
    l1: Range | Annotated[float, Field(ge=0)] = 0.0
    l2: Range | Annotated[float, Field(ge=0)] = 0.0

    @model_validator(mode="after")
    def _are_not_negative(self) -> "Also":
        for name in ("lr", "weight_decay", "l1", "l2"):
            value = getattr(self, name)
            if isinstance(value, Range) and value.low < 0:
                raise ValueError(f"{name} must not be below 0, received low {value.low}")
        return self


class Search(Record):
    """What is searched, and how."""

    sites: tuple[SiteChoice, ...] = Field(default=(), max_length=1000)
    exclude: tuple[Text, ...] = Field(
        default=(), max_length=1000, description="Patterns of sites that get no dropout."
    )
    groups: (
        Literal["by_site", "by_stage", "by_role", "by_depth", "all"]
        | Annotated[tuple[Tie, ...], Field(min_length=1, max_length=1000)]
        | None
    ) = Field(
        default=None,
        description="Sites that share a rate: by a rule, or lists of names and patterns. "
        "Null: by_site up to 6 searched sites, else by_stage.",
    )
    max_groups: int = Field(
        default=6, ge=1, le=100,
        description="Rates that are searched at once; more groups are screened, or merged.",
    )  # fmt: skip
    screen: bool = Field(
        default=True, description="Sift more groups by a designed experiment, budget allowing."
    )
    schedules: tuple[ScheduleName, ...] = Field(
        default=("constant",), min_length=1, max_length=4,
        description="Curves of the rate over the epochs to choose from; early, late and ramp "
        "turn at 1/4 or 1/2 of them.",
    )  # fmt: skip
    also: Also = Also()
    sampler: Literal["tpe", "random"] = "tpe"
    pruner: Pruner = Pruner()
    seed: Seed = 0
    start_from: tuple[dict[str, Rate], ...] = Field(
        default=(), max_length=100, description="Placements, site to rate, tried first."
    )

    @model_validator(mode="after")
    def _schedules_are_distinct(self) -> "Search":
        if len(set(self.schedules)) != len(self.schedules):
            raise ValueError(f"a schedule is named twice: {', '.join(self.schedules)}")
        return self


class Training(Record):
    """How each trial is trained."""

    epochs: int = Field(default=27, ge=1, le=MAX_EPOCHS)
    batch_size: int = Field(default=64, ge=1, le=MAX_BATCH)
    optimizer: Optimizer = "adamw"
    loss: Text
    metrics: tuple[Metric, ...]
    select: Literal["best_epoch", "last_epoch"] = "best_epoch"
    patience: int | None = Field(
        default=None, ge=1, le=MAX_EPOCHS,
        description="Early stopping: epochs without a better validation value; null: none.",
    )  # fmt: skip
    precision: Precision = Field(default="float32", description=PRECISION)


class Budget(Record):
    """What the job may use; `trials` counts per arm."""

    trials: int = Field(default=64, ge=1, le=MAX_TRIALS)
    seconds: float | None = Field(default=None, gt=0, le=31_536_000)
    device_seconds: float | None = Field(default=None, gt=0, le=31_536_000)
    max_failed_trials: int = Field(default=10, ge=0, le=MAX_TRIALS)


class Evidence(Record):
    """How much is spent on the verdict."""

    effort: Effort = "default"


class Resources(Record):
    """How many trials train as one pack."""

    slots: Annotated[int, Field(ge=1, le=MAX_SLOTS)] | Literal["auto"] = "auto"


class ObjectiveChoice(Record):
    """An objective as a user names it; the direction follows from the metric."""

    metric: Metric | None = None
    direction: Direction | None = None
    min_effect: float | None = Field(default=None, gt=0)


class TrainingChoice(Record):
    """Training as a user names it; what is null is chosen for the data set."""

    epochs: int | None = Field(default=None, ge=1, le=MAX_EPOCHS)
    batch_size: int | None = Field(default=None, ge=1, le=MAX_BATCH)
    optimizer: Optimizer | None = None
    loss: Text | None = Field(
        default=None,
        description="One that workers offer; null: that of the task. The metric is the objective.",
    )
    select: Literal["best_epoch", "last_epoch"] | None = None
    patience: int | None = Field(default=None, ge=1, le=MAX_EPOCHS)
    precision: Precision | None = Field(default=None, description=PRECISION)


class JobCreate(Record):
    """The body of `POST /v1/jobs`: a model and a data set, the rest has defaults."""

    model: Text | ModelRef
    dataset: Text | DatasetRef
    name: Text | None = None
    labels: dict[LabelName, LabelValue] = Field(default_factory=dict, max_length=32)
    priority: int = Field(default=0, ge=-100, le=100)
    objective: ObjectiveChoice = ObjectiveChoice()
    compare: Compare = Compare()
    search: Search = Search()
    training: TrainingChoice = TrainingChoice()
    budget: Budget = Budget()
    evidence: Evidence | Literal[False] = Evidence()
    resources: Resources = Resources()
    notify: NotifyChoice | None = Field(
        default=None, description="A listener that is told of events, signed."
    )


class JobSpec(Record):
    """A job with every default filled in: what is stored, echoed and reproduced."""

    schema_: Literal["dropt-job/1"] = Field(default="dropt-job/1", alias="schema")
    model: ModelRef
    dataset: DatasetRef
    dataset_sha256: str
    task: Task
    objective: Objective
    compare: Compare
    search: Search
    training: Training
    budget: Budget
    evidence: Evidence | Literal[False]
    resources: Resources
