"""From what a user asked to a job with every default filled in."""

from collections.abc import Collection, Mapping

from dropt.errors import FieldError, InvalidRequest
from dropt.spec.job import (
    ALSO_REPORTED,
    DIRECTIONS,
    LOSS_OF,
    METRICS_OF,
    DatasetRef,
    JobCreate,
    JobSpec,
    Metric,
    ModelRef,
    Objective,
    Task,
    Training,
)
from dropt.spec.nearest import did_you_mean
from dropt.spec.protocol import DatasetOffer, ModelOffer
from dropt.storage import workers
from dropt.storage.session import Session
from dropt.tuning.phases import n_test_rows

ACCURACY_MIN_EFFECT = 0.005  # a convention: half a point; for losses 1 % of the mean of `without`
FEW_TEST_ROWS = 200


def resolve_known(session: Session, body: JobCreate, *, project: str) -> JobSpec:
    """`resolve` with what the workers of a project offer or have offered."""
    known = workers.offers(session, project=project)
    return resolve(
        body,
        models={name: each.offer for name, each in known.models.items()},
        datasets={name: each.offer for name, each in known.datasets.items()},
        losses=workers.losses(session, project=project) if body.training.loss else (),
    )


def warnings_of(offer: DatasetOffer, spec: JobSpec) -> tuple[str, ...]:
    """What to say of a job on this data set before it begins."""
    n_test = n_test_rows(offer, spec)
    few = f"few_test_examples: only {n_test} test rows"
    return () if n_test >= FEW_TEST_ROWS else (few,)


def resolve(
    body: JobCreate,
    *,
    models: Mapping[str, ModelOffer],
    datasets: Mapping[str, DatasetOffer],
    losses: Collection[str] = (),
) -> JobSpec:
    """The job with its defaults; `losses` are those of the users' own that workers offer.

    Raises:
        InvalidRequest: a name that no worker ever offered, or a choice that does not fit the
            task of the data set; every such field is listed.
    """
    model = body.model if isinstance(body.model, ModelRef) else ModelRef(name=body.model)
    dataset = (
        body.dataset if isinstance(body.dataset, DatasetRef) else DatasetRef(name=body.dataset)
    )
    errors = [
        *_unknown(body, model.name, models, "model"),
        *_unknown(body, dataset.name, datasets, "dataset"),
    ]
    if errors:
        raise InvalidRequest.of(*errors)
    offer, data = models[model.name], datasets[dataset.name]
    errors = [
        *_misfits(body, offer, data),
        *_argument_errors(model, offer),
        *_loss_errors(body.training.loss, data.task, losses),
    ]
    if errors:
        raise InvalidRequest.of(*errors)
    return JobSpec(
        model=model,
        dataset=dataset,
        dataset_sha256=data.sha256,
        task=data.task,
        objective=_objective(body, data.task),
        compare=body.compare,
        search=body.search,
        training=_training(body, data.task),
        budget=body.budget,
        evidence=body.evidence,
        resources=body.resources,
    )


def _unknown(
    body: JobCreate, name: str, known: Mapping[str, object], field: str
) -> list[FieldError]:
    if name in known:
        return []
    value = getattr(body, field)
    pointer = f"/{field}" if isinstance(value, str) else f"/{field}/name"
    names = sorted(known)
    message = f"No worker offers a {field} of this name.{did_you_mean(name, names)}"
    return [
        FieldError(
            pointer, f"unknown-{field}", message, received=name, allowed=tuple(names),
            see=f"/v1/{field}s",
        )
    ]  # fmt: skip


def _misfits(body: JobCreate, model: ModelOffer, data: DatasetOffer) -> list[FieldError]:
    errors = []
    if data.task not in model.tasks:
        errors.append(
            FieldError(
                "/model", "shape-mismatch",
                f"The data set is a {data.task} task; this model is for {', '.join(model.tasks)}.",
                received=model.name, allowed=model.tasks,
            )
        )  # fmt: skip
    metric, direction = body.objective.metric, body.objective.direction
    allowed = METRICS_OF[data.task]
    if metric is not None and metric not in allowed:
        errors.append(
            FieldError(
                "/objective/metric", "unknown-metric",
                _unfit(metric, data.task), received=metric, allowed=allowed,
            )
        )  # fmt: skip
    elif direction is not None and direction != DIRECTIONS[metric or allowed[0]]:
        errors.append(
            FieldError(
                "/objective/direction", "out-of-range",
                f"{metric or allowed[0]} is to {DIRECTIONS[metric or allowed[0]]}.",
                received=direction, allowed=(DIRECTIONS[metric or allowed[0]],),
            )
        )  # fmt: skip
    return errors


def _unfit(metric: Metric, task: Task) -> str:
    if metric in ALSO_REPORTED.get(task, ()):
        return f"The {metric} is told, but no mean over examples; nll ranks the same."
    return f"The metric does not fit a {task} task."


def _argument_errors(model: ModelRef, offer: ModelOffer) -> list[FieldError]:
    properties = offer.args_schema.get("properties")
    names = sorted(properties) if isinstance(properties, dict) else []
    return [
        FieldError(
            f"/model/args/{name}", "unknown-field",
            f"Model '{model.name}' has no argument of this name.{did_you_mean(name, names)}",
            received=name, allowed=tuple(names),
        )
        for name in model.args if name not in names
    ]  # fmt: skip


def _loss_errors(loss: str | None, task: Task, own: Collection[str]) -> list[FieldError]:
    ours = set(LOSS_OF.values())
    allowed = sorted({LOSS_OF[task], *(set(own) - ours)})
    if loss is None or loss in allowed:
        return []
    message = (
        f"The loss does not fit a {task} task."
        if loss in ours
        else f"No worker offers a loss of this name.{did_you_mean(loss, allowed)}"
    )
    return [
        FieldError(
            "/training/loss", "unknown-loss", message, received=loss, allowed=tuple(allowed)
        )
    ]


def _objective(body: JobCreate, task: Task) -> Objective:
    metric: Metric = body.objective.metric or METRICS_OF[task][0]
    default = ACCURACY_MIN_EFFECT if metric == "accuracy" else None
    return Objective(
        metric=metric,
        direction=DIRECTIONS[metric],
        min_effect=body.objective.min_effect or default,
    )


def _training(body: JobCreate, task: Task) -> Training:
    chosen = body.training.model_dump(exclude_none=True)
    metrics = (*METRICS_OF[task], *ALSO_REPORTED.get(task, ()))
    return Training(**{"loss": LOSS_OF[task], "metrics": metrics, **chosen})
