import json
from typing import Any

import pytest
from pydantic import ValidationError
from tests.service.conftest import Done

from dropt.spec.job import (
    DIRECTIONS,
    LOSS_OF,
    MAX_EPOCHS,
    MAX_TRIALS,
    METRICS_OF,
    JobCreate,
    JobSpec,
)


def body(**fields: Any) -> JobCreate:
    return JobCreate.model_validate({"model": "mlp", "dataset": "digits", **fields})


def test_two_fields_are_enough() -> None:
    job = JobCreate.model_validate({"model": "mlp", "dataset": "digits"})
    assert job.compare.arms == ("without", "with", "textbook")
    assert (job.budget.trials, job.budget.max_failed_trials) == (64, 10)
    assert (job.search.sampler, job.search.pruner.name) == ("tpe", "successive_halving")
    assert job.search.pruner.rungs == (0.34,)
    assert job.resources.slots == "auto"


@pytest.mark.parametrize(
    "fields",
    [
        {"modle": "mlp"}, {"budget": {"trails": 3}}, {"training": {"epoch": 3}},
        {"model": ""}, {"model": "x" * 201}, {"model": None}, {"model": {"args": {}}},
        {"budget": {"trials": 0}}, {"budget": {"trials": -1}}, {"budget": {"trials": 10**9}},
        {"budget": {"seconds": 0}}, {"budget": {"seconds": -5}},
        {"budget": {"device_seconds": float("inf")}}, {"budget": {"seconds": float("nan")}},
        {"budget": {"max_failed_trials": -1}},
        {"training": {"epochs": 0}}, {"training": {"epochs": MAX_EPOCHS + 1}},
        {"training": {"batch_size": 0}}, {"training": {"optimizer": "adam"}},
        {"training": {"patience": 0}}, {"training": {"precision": "float16"}},
        {"objective": {"min_effect": 0}}, {"objective": {"metric": "auc"}},
        {"compare": {"arms": []}}, {"compare": {"arms": ["with", "with"]}},
        {"compare": {"arms": ["textbook"]}}, {"compare": {"arms": ["as_given"]}},
        {"evidence": True}, {"evidence": {"effort": "huge"}},
        {"resources": {"slots": 0}}, {"resources": {"slots": 5000}},
        {"priority": 101}, {"labels": {"a" * 65: "b"}}, {"labels": {"a": "b" * 201}},
        {"labels": {f"l{i}": "" for i in range(33)}},
        {"search": {"start_from": [{"layers.1:out": 1.2}]}},
        {"search": {"start_from": [{"layers.1:out": -0.1}]}},
        {"search": {"seed": 2**53}}, {"search": {"seed": -1}},
        {"search": {"sites": [{"match": "a", "rate": [0.5, 0.1]}]}},
        {"search": {"sites": [{"match": "a", "rate": [0.0, 0.1]}]}},
        {"search": {"sites": [{"match": "a", "rate": [0.1, 0.96]}]}},
        {"search": {"also": {"lr": 0}}}, {"search": {"also": {"lr": {"low": 1, "high": 1}}}},
        {"search": {"also": {"lr": {"low": -1, "high": 1}}}},
        {"search": {"also": {"lr": {"low": 0, "high": 1, "log": True}}}},
        {"search": {"also": {"l1": -1e-3}}},
        {"search": {"pruner": {"name": "magic"}}}, {"search": {"pruner": {"rungs": [1.0]}}},
        {"search": {"pruner": {"rungs": [0.0]}}}, {"search": {"pruner": {"factor": 1}}},
        {"dataset": {"name": "d", "split": {"train": 0.9, "validation": 0.2, "test": 0.2}}},
        {"dataset": {"name": "d", "split": {"train": 1.0, "validation": 0.0, "test": 0.0}}},
        {"dataset": {"name": "d", "split": {"method": "random"}}},
    ],
    ids=lambda fields: json.dumps(fields)[:60],
)  # fmt: skip
def test_what_is_not_allowed_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        body(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"budget": {"trials": MAX_TRIALS}},
        {"budget": {"trials": 1, "max_failed_trials": 0}},
        {"evidence": False},
        {"compare": {"arms": ["with"]}},
        {"compare": {"arms": ["with", "textbook"]}},
        {"search": {"also": {"lr": 0.1, "weight_decay": 0, "l1": {"low": 0, "high": 1}}}},
        {"search": {"start_from": [{"layers.1:out": 0.0, "b": 0.999}]}},
        {"dataset": {"name": "d", "split": {"method": "given"}}},
        {"dataset": {"name": "d", "split": {"train": 0.7, "validation": 0.2, "test": 0.1}}},
    ],
    ids=lambda fields: json.dumps(fields)[:60],
)
def test_what_is_at_the_limit_is_allowed(fields: dict[str, Any]) -> None:
    assert body(**fields).model == "mlp"


def test_every_metric_has_a_direction_and_every_task_a_loss() -> None:
    assert {metric for metrics in METRICS_OF.values() for metric in metrics} == set(DIRECTIONS)
    assert LOSS_OF.keys() == METRICS_OF.keys()
    assert [metric for metric, way in DIRECTIONS.items() if way == "maximize"] == ["accuracy"]


def test_resolved_job_reads_back_as_itself(done: Done) -> None:
    text = done.job.spec.model_dump_json(by_alias=True)
    assert json.loads(text)["schema"] == "dropt-job/1"
    assert JobSpec.model_validate_json(text) == done.job.spec


def test_job_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        body().name = "other"
