from typing import Any

import pytest
from tests.factories import dataset, job_body, refused, registration

from dropt.errors import InvalidRequest
from dropt.jobs.submission import resolve
from dropt.spec.job import JobCreate, JobSpec, ObjectiveChoice, Training

MODELS = {offer.name: offer for offer in registration().models}
DATASETS = {name: dataset(name, task=task) for name, task in (  # type: ignore[arg-type]
    ("digits", "classification"), ("houses", "regression"), ("text", "next_token"),
)}  # fmt: skip


def resolved(**fields: Any) -> JobSpec:
    body = JobCreate.model_validate({"model": "mlp", "dataset": "digits", **fields})
    return resolve(body, models=MODELS, datasets=DATASETS)


def test_model_and_data_set_are_enough() -> None:
    spec = resolved()
    assert (spec.model.name, spec.model.args) == ("mlp", {})
    assert (spec.dataset.name, spec.dataset.split) == ("digits", None)
    assert spec.dataset_sha256 == DATASETS["digits"].sha256
    assert (spec.objective.metric, spec.objective.direction) == ("nll", "minimize")
    assert spec.objective.min_effect is None
    assert spec.compare.arms == ("without", "with", "textbook")
    assert spec.training == Training(loss="cross_entropy", metrics=("nll", "accuracy"))
    assert (spec.training.epochs, spec.training.batch_size) == (27, 64)
    assert spec.budget.trials == 64
    assert spec.evidence
    assert spec.evidence.effort == "default"


def test_resolved_job_is_the_same_when_it_is_submitted_again() -> None:
    spec = resolved(
        model={"name": "mlp", "args": {"hidden": [8]}}, training={"epochs": 5}, evidence=False,
        objective={"metric": "accuracy"}, search={"seed": 3},
    )  # fmt: skip
    left_out = {"schema_", "dataset_sha256", "task", "training"}
    again = spec.model_dump(exclude=left_out) | {"training": {"epochs": 5}}
    assert resolved(**again) == spec


def test_regression_is_judged_by_its_squared_error() -> None:
    spec = resolved(dataset="houses")
    assert (spec.task, spec.objective.metric, spec.objective.direction) == (
        "regression", "mse", "minimize",
    )  # fmt: skip
    assert (spec.training.loss, spec.training.metrics) == ("mse", ("mse",))


def test_next_tokens_are_judged_by_their_log_loss_and_perplexity_is_told() -> None:
    model = MODELS["mlp"].model_copy(update={"tasks": ("next_token",)})
    body = JobCreate.model_validate({"model": "mlp", "dataset": "text"})
    spec = resolve(body, models={"mlp": model}, datasets=DATASETS)
    assert (spec.objective.metric, spec.objective.direction) == ("nll", "minimize")
    assert spec.training.loss == "token_cross_entropy"
    assert spec.training.metrics == ("nll", "accuracy", "perplexity")
    by_perplexity = body.model_copy(update={"objective": ObjectiveChoice(metric="perplexity")})
    with pytest.raises(InvalidRequest) as caught:
        resolve(by_perplexity, models={"mlp": model}, datasets=DATASETS)
    error = caught.value.errors[0]
    assert error.allowed == ("nll", "accuracy")
    assert (
        error.message == "The perplexity is told, but no mean over examples; nll ranks the same."
    )


def test_own_loss_of_a_worker_is_taken_and_the_metric_still_decides() -> None:
    body = JobCreate.model_validate(
        {"model": "mlp", "dataset": "digits", "training": {"loss": "focal"}}
    )
    spec = resolve(body, models=MODELS, datasets=DATASETS, losses={"focal"})
    assert (spec.training.loss, spec.objective.metric) == ("focal", "nll")


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ("focall", "No worker offers a loss of this name. Did you mean 'focal'?"),
        ("mse", "The loss does not fit a classification task."),
    ],
)
def test_loss_that_nobody_offers_or_that_does_not_fit_is_refused(loss: str, message: str) -> None:
    body = JobCreate.model_validate(
        {"model": "mlp", "dataset": "digits", "training": {"loss": loss}}
    )
    with pytest.raises(InvalidRequest) as error:
        resolve(body, models=MODELS, datasets=DATASETS, losses={"focal"})
    (field,) = error.value.errors
    assert (field.pointer, field.message) == ("/training/loss", message)
    assert field.allowed == ("cross_entropy", "focal")


def test_accuracy_counts_from_half_a_point() -> None:
    spec = resolved(objective={"metric": "accuracy"})
    assert (spec.objective.direction, spec.objective.min_effect) == ("maximize", 0.005)
    assert (
        resolved(objective={"metric": "accuracy", "min_effect": 0.02}).objective.min_effect == 0.02
    )


@pytest.mark.parametrize(
    ("fields", "pointer", "code", "said"),
    [
        ({"model": "mpl"}, "/model", "unknown-model", "Did you mean 'mlp'?"),
        ({"model": {"name": "x"}}, "/model/name", "unknown-model", "No worker offers"),
        ({"dataset": "digit"}, "/dataset", "unknown-dataset", "Did you mean 'digits'?"),
        ({"dataset": {"name": "housse"}}, "/dataset/name", "unknown-dataset", "'houses'"),
        (
            {"objective": {"metric": "mse"}},
            "/objective/metric",
            "unknown-metric",
            "classification",
        ),
        (
            {"objective": {"metric": "accuracy", "direction": "minimize"}},
            "/objective/direction",
            "out-of-range",
            "accuracy is to maximize",
        ),
        (
            {"objective": {"direction": "maximize"}},
            "/objective/direction",
            "out-of-range",
            "nll is to minimize",
        ),
        (
            {"model": {"name": "mlp", "args": {"hiden": [8]}}},
            "/model/args/hiden",
            "unknown-field",
            "Did you mean 'hidden'?",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_with_what_does(
    fields: dict[str, Any], pointer: str, code: str, said: str
) -> None:
    error = refused(lambda: resolved(**fields))
    assert isinstance(error, InvalidRequest)
    (field,) = error.errors
    assert (field.pointer, field.code) == (pointer, code)
    assert said in field.message
    assert field.received is not None
    assert field.allowed


def test_every_wrong_name_is_listed_at_once() -> None:
    error = refused(lambda: resolved(model="mpl", dataset="digit"))
    assert [field.pointer for field in error.errors] == ["/model", "/dataset"]
    assert error.detail == "2 fields need attention"


def test_model_for_another_task_is_refused() -> None:
    only = MODELS["mlp"].model_copy(update={"tasks": ("regression",)})
    error = refused(lambda: resolve(job_body(), models={"mlp": only}, datasets=DATASETS))
    assert [(field.pointer, field.code) for field in error.errors] == [
        ("/model", "shape-mismatch")
    ]
    assert error.errors[0].allowed == ("regression",)
