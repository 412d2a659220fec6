import re
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from pydantic import ValidationError
from starlette.testclient import TestClient

from dropt.api import examples
from dropt.api.openapi import TAGS
from dropt.spec.changes import Cancel, Extension, JobChange, Stop
from dropt.spec.job import JobCreate
from dropt.spec.keys import KeyCreate
from dropt.spec.preview import LookAt
from dropt.spec.protocol import Heartbeat, LeaseRequest, Registration, Report
from dropt.spec.record import Record

VERBS = {
    "get", "list", "create", "cancel", "upload", "register", "retire", "request", "send", "give",
    "put", "find", "inspect", "preview", "revoke", "change", "pause",
    "resume", "stop", "extend", "clone", "delete",
}  # fmt: skip


@pytest.fixture(scope="module")
def document(shared: TestClient) -> dict[str, Any]:
    response = shared.get("/openapi.json")
    assert response.status_code == 200
    found: dict[str, Any] = response.json()
    return found


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def test_document_is_openapi_3_2(document: dict[str, Any]) -> None:
    assert document["openapi"] == "3.2.0"


def test_every_operation_is_named_by_a_verb_and_tagged(document: dict[str, Any]) -> None:
    ids = [operation["operationId"] for _, operation in operations(document)]
    assert len(set(ids)) == len(ids)
    for name in ids:
        assert re.fullmatch(r"[a-z]+(_[a-z]+)+", name)
        assert name.partition("_")[0] in VERBS
    tags = {tag["name"] for tag in TAGS}
    for where, operation in operations(document):
        assert set(operation["tags"]) <= tags, where
        assert len(operation["tags"]) == 1
        assert operation["description"], where


def test_every_failure_is_a_problem(document: dict[str, Any]) -> None:
    assert "Problem" in document["components"]["schemas"]
    assert "HTTPValidationError" not in document["components"]["schemas"]
    for where, operation in operations(document):
        assert "default" in operation["responses"], where
        for status, response in operation["responses"].items():
            if status == "default" or status >= "400":
                schema = response["content"]["application/problem+json"]["schema"]
                assert schema == {"$ref": "#/components/schemas/Problem"}, where


def test_every_body_has_an_example(document: dict[str, Any]) -> None:
    for where, operation in operations(document):
        if "requestBody" not in operation or "octet-stream" in str(operation["requestBody"]):
            continue
        assert "'example" in str(operation["requestBody"]), where


def test_references_lead_somewhere(document: dict[str, Any]) -> None:
    known = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    used = set(re.findall(r"'\$ref': '([^']+)'", str(document)))
    assert used <= known


def test_every_route_is_documented(shared: TestClient, document: dict[str, Any]) -> None:
    app = shared.app
    assert isinstance(app, FastAPI)
    documented = {where for where, _ in operations(document)}
    for route in iter_route_contexts(app.routes):
        if route.path in ("/openapi.json", "/login", "/logout") or not route.methods:
            continue
        for method in route.methods:
            assert f"{method} {route.path}" in documented


@pytest.mark.parametrize(
    ("model", "example"),
    [
        (JobCreate, examples.JOB),
        (JobCreate, examples.ADVANCED_JOB),
        (LookAt, examples.LOOK),
        (Registration, examples.REGISTRATION),
        (Heartbeat, examples.HEARTBEAT),
        (LeaseRequest, examples.LEASE_REQUEST),
        (Report, examples.REPORT),
        (KeyCreate, examples.KEY),
        (Cancel, {"reason": "wrong data set"}),
        (Extension, examples.EXTENSION),
        (JobChange, examples.CHANGE),
        (Stop, examples.STOP),
    ],
)
def test_examples_are_valid(model: type[Record], example: dict[str, Any]) -> None:
    try:
        model.model_validate(example)
    except ValidationError as error:
        pytest.fail(str(error))
