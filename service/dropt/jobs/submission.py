"""From what a user asked to a job with every default filled in."""

from collections.abc import Mapping

from dropt.errors import FieldError, InvalidRequest
from dropt.spec.job import (
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

ACCURACY_MIN_EFFECT = 0.005  # a convention: half a point; for losses 1 % of the mean of `without`


def resolve(
    body: JobCreate,
    *,
    models: Mapping[str, ModelOffer],
    datasets: Mapping[str, DatasetOffer],
) -> JobSpec:
    """The job with its defaults.

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
    errors = [*_misfits(body, offer, data), *_argument_errors(model, offer)]
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
                f"The metric does not fit a {data.task} task.", received=metric, allowed=allowed,
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
    return Training(loss=LOSS_OF[task], metrics=METRICS_OF[task], **chosen)
