"""The table of bad inputs: each is refused with the field, the value and what is allowed."""

import io
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient
from tests import factories
from tests.service.api.probes import BODY, assert_problem

JOBS: list[tuple[str, dict[str, Any], str, str, str]] = [
    ("unknown model", {"model": "mlpp"}, "/model", "unknown-model", "Did you mean 'mlp'?"),
    ("unknown model object", {"model": {"name": "mpl"}}, "/model/name", "unknown-model", "'mlp'"),
    ("code as a model", {"model": "os:system"}, "/model", "unknown-model", "No worker offers"),
    ("path as a model", {"model": "../x"}, "/model", "unknown-model", "No worker offers"),
    ("unknown data set", {"dataset": "digit"}, "/dataset", "unknown-dataset", "'digits'?"),
    ("unknown argument", {"model": {"name": "mlp", "args": {"hiden": []}}}, "/model/args/hiden",
     "unknown-field", "Did you mean 'hidden'?"),
    ("unknown field", {"bugdet": {}}, "/bugdet", "unknown-field", "Did you mean 'budget'?"),
    ("unknown inner field", {"budget": {"trails": 5}}, "/budget/trails", "unknown-field",
     "trials"),
    ("rate of 1.2", {"search": {"start_from": [{"layers.1:out": 1.2}]}},
     "/search/start_from/0/layers.1:out", "out-of-range", "at least 0 and below 1"),
    ("range of rates to 1.2", {"search": {"sites": [{"match": "*", "rate": [0.1, 1.2]}]}},
     "/search/sites/0/rate/1", "out-of-range", "at least 0 and below 1"),
    ("range upside down", {"search": {"sites": [{"match": "*", "rate": [0.5, 0.1]}]}},
     "/search/sites/0", "out-of-range", "0 < low < high"),
    ("negative budget", {"budget": {"seconds": -5}}, "/budget/seconds", "out-of-range", "above 0"),
    ("no trials", {"budget": {"trials": 0}}, "/budget/trials", "out-of-range", "at least 1"),
    ("1e9 trials", {"budget": {"trials": 10**9}}, "/budget/trials", "out-of-range", "10,000"),
    ("1e9 epochs", {"training": {"epochs": 10**9}}, "/training/epochs", "out-of-range", "10,000"),
    ("wrong type", {"training": {"epochs": "ten"}}, "/training/epochs", "wrong-type", "whole"),
    ("unknown metric", {"objective": {"metric": "f1"}}, "/objective/metric",
     "unknown-metric", "nll"),
    ("metric of another task", {"objective": {"metric": "mse"}}, "/objective/metric",
     "unknown-metric", "classification"),
    ("wrong direction", {"objective": {"metric": "nll", "direction": "maximize"}},
     "/objective/direction", "out-of-range", "minimize"),
    ("unknown arm", {"compare": {"arms": ["witout", "with"]}}, "/compare/arms/0", "unknown-value",
     "Did you mean 'without'?"),
    ("arm twice", {"compare": {"arms": ["with", "with"]}}, "/compare", "out-of-range", "twice"),
    ("split of 1.3", {"dataset": {"name": "digits", "split": {"train": 0.9}}}, "/dataset/split",
     "out-of-range", "add up to 1"),
    ("unknown pruner", {"search": {"pruner": {"name": "hyperban"}}}, "/search/pruner/name",
     "unknown-value", "Did you mean 'hyperband'?"),
    ("negative learning rate", {"search": {"also": {"lr": -1}}}, "/search/also/lr", "out-of-range",
     "above 0"),
    ("log range from 0", {"search": {"also": {"lr": {"low": 0, "high": 1, "log": True}}}},
     "/search/also/lr", "out-of-range", "low above 0"),
    ("long name", {"name": "x" * 300}, "/name", "out-of-range", "200 characters"),
    ("33 labels", {"labels": {f"l{i}": "" for i in range(33)}}, "/labels", "out-of-range", "32"),
    ("a number as a model", {"model": 7}, "/model", "wrong-type", "a text or an object"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "pointer", "code", "message"), [row[1:] for row in JOBS], ids=[r[0] for r in JOBS]
)
def test_bad_job_is_refused(
    shared: TestClient, change: dict[str, Any], pointer: str, code: str, message: str
) -> None:
    _offer_once(shared)
    problem = assert_problem(shared.post("/v1/jobs", json=BODY | change), 422, "validation")
    (field,) = problem["errors"]
    assert (field["pointer"], field["code"]) == (pointer, code)
    assert message in field["message"]
    assert field["received"]


def test_nan_is_refused(shared: TestClient) -> None:
    response = shared.post(
        "/v1/jobs", content='{"model": "mlp", "dataset": "digits", "priority": NaN}',
        headers={"Content-Type": "application/json"},
    )  # fmt: skip
    assert "NaN" in assert_problem(response, 422, "unsafe-json")["detail"]


def _offer_once(shared: TestClient) -> None:
    """The tests of this module share one worker, which never works."""
    service = shared.app.state.service  # type: ignore[attr-defined]  # the app is a FastAPI
    if not shared.get("/v1/models").json()["items"]:
        factories.ToyWorker(service)


def _npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


TABLE = "a,b,label\n" + "".join(f"{i},{2 * i},{'ny'[i % 2]}\n" for i in range(30))
FOR_LABEL = {"target": "label"}
UPLOADS: list[tuple[str, bytes | str, dict[str, str], str, str]] = [
    ("text cell", TABLE + "red,1,y\n", FOR_LABEL, "/file", "'a': 'red' is no number"),
    ("ragged row", TABLE + "1,y\n", FOR_LABEL, "/file", "Row 32: 2 cells"),
    ("missing value", TABLE + ",1,y\n", FOR_LABEL, "/file", "Row 32, column 'a'"),
    ("inf", TABLE + "inf,1,y\n", FOR_LABEL, "/file", "not finite"),
    ("missing target", TABLE, {"target": "lable"}, "/target", "Did you mean 'label'?"),
    ("no target", TABLE, {}, "/target", "not named"),
    ("one class", TABLE.replace(",n\n", ",y\n"), FOR_LABEL, "/file", "one class only"),
    ("empty file", "", FOR_LABEL, "/file", "is empty"),
    ("few rows", "a,label\n1,n\n2,y\n", FOR_LABEL, "/file", "leave none for"),
    ("objects", _npz(x=np.array([{}]), y=np.array([1])), {}, "/file", "pickles"),
    ("npz with nan", _npz(x=np.full((9, 1), np.nan), y=np.arange(9)), {}, "/file", "not finite"),
    ("npz with target", _npz(x=np.eye(9), y=np.arange(9)), FOR_LABEL, "/target", "'y'"),
    ("one array", b"\x93NUMPY\x01\x00", {}, "/file", "one array"),
    ("a picture", b"\x89PNG\r\n\x1a\n\x00\x00", FOR_LABEL, "/file", "UTF-8"),
    ("unknown task", TABLE, {"target": "label", "task": "ranking"}, "/task", "Must be"),
    ("name with a slash", TABLE, {"target": "label", "name": "a/b"}, "/name", "Letters"),
    ("unknown form field", TABLE, {"taget": "y"}, "/taget", "Did you mean 'target'?"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "fields", "pointer", "message"),
    [row[1:] for row in UPLOADS],
    ids=[row[0] for row in UPLOADS],
)
def test_bad_upload_is_refused(
    shared: TestClient, content: bytes | str, fields: dict[str, str], pointer: str, message: str
) -> None:
    response = shared.post("/v1/datasets", files={"file": ("d.csv", content)}, data=fields)
    assert response.status_code == 422
    (field,) = response.json()["errors"]
    assert field["pointer"] == pointer
    assert message in field["message"]
    assert shared.get("/v1/datasets/d").status_code == 404


BROKEN = {"Content-Type": "multipart/form-data; boundary=x"}


@pytest.mark.parametrize(
    "sent",
    [
        {"data": {"file": "not a file", "target": "y"}},
        {"files": {"name": ("d.csv", TABLE), "file": ("d.csv", TABLE)}},
        {"files": {"other": ("d.csv", TABLE)}},
        {"content": TABLE, "headers": {"Content-Type": "text/csv"}},
        {"json": BODY},
        {"content": b"--x\r\nbroken", "headers": BROKEN},
        {"content": b"", "headers": {"Content-Type": "multipart/form-data"}},
        {},
    ],
    ids=["text as file", "file as text", "other name", "bare csv", "json", "broken", "no boundary",
         "nothing"],
)  # fmt: skip
def test_form_without_a_file_is_answered_with_the_command(
    shared: TestClient, sent: dict[str, Any]
) -> None:
    problem = assert_problem(shared.post("/v1/datasets", **sent), 422, "validation")
    assert "file" in str(problem)
