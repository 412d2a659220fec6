from typing import Any

import pytest
from pydantic import ValidationError

from dropt.api.validation import invalid_body
from dropt.errors import FieldError
from dropt.spec.job import JobCreate
from dropt.spec.protocol import Report
from dropt.spec.record import Record

BODY: dict[str, Any] = {"model": "mlp", "dataset": "digits"}


def refusals(model: type[Record], body: object) -> tuple[FieldError, ...]:
    with pytest.raises(ValidationError) as caught:
        model.model_validate(body)
    return invalid_body(caught.value.errors(), model, body).errors


def in_short(fields: tuple[FieldError, ...]) -> list[tuple[str, str, str]]:
    return [(field.pointer, field.code, field.message) for field in fields]


TYPOS = [
    ({"datset": "digits"}, "/datset", "dataset"),
    ({"nmae": "x"}, "/nmae", "name"),
    ({"lables": {}}, "/lables", "labels"),
    ({"prioritty": 1}, "/prioritty", "priority"),
    ({"objectiv": {}}, "/objectiv", "objective"),
    ({"comapre": {}}, "/comapre", "compare"),
    ({"serach": {}}, "/serach", "search"),
    ({"trainning": {}}, "/trainning", "training"),
    ({"budgets": {}}, "/budgets", "budget"),
    ({"evidnce": {}}, "/evidnce", "evidence"),
    ({"resource": {}}, "/resource", "resources"),
    ({"model": {"name": "mlp", "arg": {}}}, "/model/arg", "args"),
    ({"dataset": {"name": "digits", "spilt": {}}}, "/dataset/spilt", "split"),
    ({"dataset": {"name": "d", "split": {"metod": "hash"}}}, "/dataset/split/metod", "method"),
    ({"search": {"sampeler": "tpe"}}, "/search/sampeler", "sampler"),
    ({"search": {"prunner": {}}}, "/search/prunner", "pruner"),
    ({"search": {"pruner": {"rung": []}}}, "/search/pruner/rung", "rungs"),
    ({"search": {"also": {"weight_decy": 0}}}, "/search/also/weight_decy", "weight_decay"),
    ({"search": {"also": {"lr": {"low": 1, "high": 2, "lgo": 1}}}}, "/search/also/lr/lgo", "log"),
    ({"search": {"sites": [{"match": "a", "rates": []}]}}, "/search/sites/0/rates", "rate"),
    ({"training": {"epoch": 3}}, "/training/epoch", "epochs"),
    ({"training": {"batchsize": 3}}, "/training/batchsize", "batch_size"),
    ({"budget": {"trails": 3}}, "/budget/trails", "trials"),
    ({"evidence": {"efort": "quick"}}, "/evidence/efort", "effort"),
    ({"resources": {"slot": 1}}, "/resources/slot", "slots"),
]


@pytest.mark.parametrize(("change", "pointer", "meant"), TYPOS)
def test_mistyped_field_is_named_with_the_one_that_was_meant(
    change: dict[str, Any], pointer: str, meant: str
) -> None:
    (field,) = refusals(JobCreate, {**BODY, **change})
    assert (field.pointer, field.code) == (pointer, "unknown-field")
    assert field.message == f"Unknown field. Did you mean '{meant}'?"
    assert field.received == pointer.rpartition("/")[2]
    assert meant in field.allowed


WRONG_VALUES = [
    ({"model": 5}, "/model", "wrong-type", "Must be a text or an object."),
    ({"evidence": True}, "/evidence", "unknown-value", "Must be false or an object."),
    ({"name": ""}, "/name", "out-of-range", "Must be not empty."),
    ({"name": "x" * 201}, "/name", "out-of-range", "Must be at most 200 characters long."),
    (
        {"priority": 1.5},
        "/priority",
        "wrong-type",
        "Must be a whole number at least -100 and at most 100.",
    ),
    (
        {"search": {"also": {"lr": -1}}},
        "/search/also/lr",
        "out-of-range",
        "Must be above 0 or an object.",
    ),
    (
        {"search": {"start_from": [{"a": 1.2}]}},
        "/search/start_from/0/a",
        "out-of-range",
        "Must be at least 0 and below 1.",
    ),
    (
        {"search": {"sites": [{"match": "a", "rate": [0.1, 1.2]}]}},
        "/search/sites/0/rate/1",
        "out-of-range",
        "Must be at least 0 and below 1.",
    ),
    ({"search": {"groups": ["a"]}}, "/search/groups/0", "wrong-type", "Must be a list."),
    ({"search": {"groups": []}}, "/search/groups", "out-of-range", "Must be not empty."),
    (
        {"search": {"groups": "by_sit"}},
        "/search/groups",
        "unknown-value",
        "Must be by_site, by_stage, by_role, by_depth, all or a list. Did you mean 'by_site'?",
    ),
    (
        {"search": {"also": {"lr": {"low": 1, "high": 0}}}},
        "/search/also/lr",
        "out-of-range",
        "low must be below high, received 1.0 and 0.0.",
    ),
    (
        {"resources": {"slots": 0}},
        "/resources/slots",
        "out-of-range",
        "Must be at least 1 and at most 1,024 or auto.",
    ),
    (
        {"budget": {"trials": 10**9}},
        "/budget/trials",
        "out-of-range",
        "Must be at least 1 and at most 10,000.",
    ),
    (
        {"compare": {"arms": ["wth"]}},
        "/compare/arms/0",
        "unknown-value",
        "Must be without, with or textbook. Did you mean 'with'?",
    ),
    (
        {"objective": {"metric": "acuracy"}},
        "/objective/metric",
        "unknown-metric",
        "Must be nll, accuracy, mse or perplexity. Did you mean 'accuracy'?",
    ),
    (
        {"labels": {"a/b~c": 1}},
        "/labels/a~1b~0c",
        "wrong-type",
        "Must be a text.",
    ),
]


@pytest.mark.parametrize(("change", "pointer", "code", "message"), WRONG_VALUES)
def test_wrong_value_is_told_with_what_is_allowed(
    change: dict[str, Any], pointer: str, code: str, message: str
) -> None:
    assert in_short(refusals(JobCreate, {**BODY, **change})) == [(pointer, code, message)]


def test_body_that_is_no_object_is_told_at_the_root() -> None:
    assert in_short(refusals(JobCreate, [1])) == [("", "wrong-type", "Must be an object.")]


def test_missing_field_is_named() -> None:
    assert in_short(refusals(JobCreate, {"model": "mlp"})) == [
        ("/dataset", "missing-field", "This field is required.")
    ]


def test_union_tells_the_errors_of_the_arm_that_was_meant() -> None:
    assert in_short(refusals(JobCreate, {**BODY, "model": {"nme": "mlp"}})) == [
        ("/model/name", "missing-field", "This field is required."),
        ("/model/nme", "unknown-field", "Unknown field. Did you mean 'name'?"),
    ]


def test_keys_of_objects_are_checked_against_what_they_may_be() -> None:
    finished = {"trial": "t", "attempt": 1, "outcome": "completed", "epoch": 1}
    finished["values"] = {"validation": {"accurcy": 1.0}}
    (field,) = refusals(Report, {"worker": "w", "sequence": 1, "finished": [finished]})
    assert field.pointer == "/finished/0/values/validation/accurcy"
    assert field.allowed == ("loss", "nll", "accuracy", "mse", "perplexity")
    assert field.message.endswith("Did you mean 'accuracy'?")


def test_long_values_are_cut() -> None:
    (field,) = refusals(JobCreate, {**BODY, "name": "x" * 5000})
    assert field.received is not None
    assert len(field.received) == 200


def test_very_many_errors_are_counted_and_the_first_are_listed() -> None:
    body = {**BODY, "search": {"start_from": [{"a": 2}] * 90}}
    with pytest.raises(ValidationError) as caught:
        JobCreate.model_validate(body)
    error = invalid_body(caught.value.errors(), JobCreate, body)
    assert error.detail == "90 fields need attention; the first 50 are listed"
    assert len(error.errors) == 50
