import csv
import io
import time
from typing import Any

import pytest
from starlette.testclient import TestClient
from tests import factories
from tests.service.api.probes import BODY, SMALL, assert_problem

from dropt.tuning.service import Service


@pytest.fixture
def job(http: TestClient, worker: factories.ToyWorker) -> str:
    """The path of a job that has started."""
    path = http.post("/v1/jobs", json=BODY).headers["Location"]
    while http.get(path).json()["state"] == "queued":
        time.sleep(0.02)
    return path


def test_verbs_answer_what_the_job_is_now(http: TestClient, job: str) -> None:
    for verb, status, state in (
        ("pause", 202, "paused"), ("pause", 200, "paused"), ("resume", 202, "running"),
        ("resume", 200, "running"), ("extend", 202, "running"), ("stop", 202, "stopping"),
    ):  # fmt: skip
        body = {"trials": 2} if verb == "extend" else None
        response = http.post(f"{job}/{verb}", json=body)
        assert (response.status_code, response.json()["state"]) == (status, state), verb
    problem = assert_problem(http.post(f"{job}/pause"), 409, "bad-state")
    assert problem["state"] in ("stopping", "succeeded")
    assert "clone" in problem["allowed"]


def test_extension_is_an_idempotent_request(http: TestClient, job: str) -> None:
    key = {"Idempotency-Key": "more"}
    first = http.post(f"{job}/extend", json={"trials": 3}, headers=key)
    second = http.post(f"{job}/extend", json={"trials": 3}, headers=key)
    assert second.headers["Idempotent-Replayed"] == "true"
    assert second.headers["Location"] == job
    assert first.json() == second.json()
    assert http.get(job).json()["spec"]["budget"]["trials"] == 67


@pytest.mark.parametrize(
    "body", [{}, {"trials": 0}, {"trials": 1, "evidence": "again"}, {"evidence": "once"}]
)
def test_extension_by_nothing_is_refused(http: TestClient, job: str, body: Any) -> None:
    assert_problem(http.post(f"{job}/extend", json=body), 422, "validation")


def test_clone_is_a_new_job(http: TestClient, job: str) -> None:
    response = http.post(f"{job}/clone", json={"training": {"epochs": 9}, "name": "again"})
    clone = response.json()
    assert response.status_code == 202
    assert response.headers["Location"] == f"/v1/jobs/{clone['id']}" != job
    assert (clone["name"], clone["spec"]["training"]["epochs"]) == ("again", 9)
    assert clone["cloned_from"] == http.get(job).json()["id"]
    problem = assert_problem(http.post(f"{job}/clone", json={"trainin": {}}), 422, "validation")
    assert problem["errors"][0]["message"] == "Unknown field. Did you mean 'training'?"
    refused = http.post(f"{job}/clone", json={"training": {"epochs": 0}})
    assert assert_problem(refused, 422, "validation")["errors"][0]["pointer"] == "/training/epochs"
    assert_problem(http.post("/v1/jobs/job_0/clone", json={}), 404, "not-found")


def test_change_needs_the_revision_that_was_read(http: TestClient, job: str) -> None:
    tag = http.get(job).headers["ETag"]
    changed = http.patch(job, json={"labels": {"team": "b"}}, headers={"If-Match": tag})
    assert (changed.status_code, changed.json()["labels"]) == (200, {"team": "b"})
    stale = http.patch(job, json={"name": "x"}, headers={"If-Match": tag})
    assert assert_problem(stale, 412, "stale-revision")["revision"] == changed.json()["revision"]
    fresh = {"If-Match": changed.headers["ETag"]}
    assert http.patch(job, json={"name": "x"}, headers=fresh).json()["name"] == "x"
    other = http.patch(job, json={"name": "y"}, headers={"If-Match": '"abc"'})
    assert_problem(other, 412, "stale-revision")
    found = http.get("/v1/jobs", params={"label": "team:b"}).json()["items"]
    assert [one["labels"] for one in found] == [{"team": "b"}]


def test_what_is_fixed_has_its_own_code(http: TestClient, job: str) -> None:
    problem = assert_problem(http.patch(job, json={"training": {}}), 422, "validation")
    assert [(e["pointer"], e["code"]) for e in problem["errors"]] == [
        ("/training", "immutable-field")
    ]
    problem = assert_problem(http.patch(job, json={"lables": {}}), 422, "validation")
    assert "'labels'" in problem["errors"][0]["message"]


def test_running_job_is_deleted_by_force_alone(http: TestClient, job: str) -> None:
    assert_problem(http.delete(job), 409, "still-running")
    assert http.delete(f"{job}?force=true").status_code == 204
    assert_problem(http.get(job), 404, "not-found")
    assert_problem(http.delete(job), 404, "not-found")


def test_listener_that_is_not_allowed_is_refused(http: TestClient, job: str) -> None:
    notify = {"url": "http://169.254.169.254/latest", "secret": "s" * 16}
    for answer in (
        http.patch(job, json={"notify": notify}),
        http.post("/v1/jobs", json=BODY | {"notify": notify}),
    ):
        problem = assert_problem(answer, 422, "validation")
        assert problem["errors"][0]["code"] == "address-not-allowed"


# ---- tables and data sets


def test_trials_as_csv_are_those_of_the_list(shared: TestClient, path: str) -> None:
    answer = shared.get(f"{path}/trials", headers={"Accept": "text/csv"})
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    table = list(csv.DictReader(io.StringIO(answer.text)))
    listed = shared.get(f"{path}/trials", params={"page_size": 500}).json()["items"]
    assert {row["id"] for row in table} == {one["id"] for one in listed}
    for one in listed:
        row = next(row for row in table if row["id"] == one["id"])
        assert float(row["lr"]) == one["params"]["lr"]
        assert (row["value"] == "") == (one["value"] is None)
        rates = {name[5:]: float(row[name]) for name in row if name.startswith("rate:")}
        assert {site: rate for site, rate in rates.items() if rate} == {
            site: dropout["rate"] for site, dropout in one["sites"].items() if dropout["rate"]
        }
    only = shared.get(
        f"{path}/trials", params={"arm": "with"}, headers={"Accept": "text/csv, application/json"}
    )
    assert {row["arm"] for row in csv.DictReader(io.StringIO(only.text))} == {"with"}
    preferred = shared.get(f"{path}/trials", headers={"Accept": "application/json, text/csv"})
    assert preferred.json()["items"]
    refused = shared.get("/v1/jobs/job_0/trials", headers={"Accept": "text/csv"})
    assert_problem(refused, 404, "not-found")


def test_data_set_is_deleted_when_nobody_trains_on_it(
    http: TestClient, worker: factories.ToyWorker, service: Service
) -> None:
    rows = "\n".join(f"{i},{i % 2}" for i in range(400))
    file = {"file": ("tiny.csv", f"x,y\n{rows}\n")}
    uploaded = http.post("/v1/datasets", files=file, data={"target": "y"})
    assert uploaded.status_code == 201, uploaded.text
    where = uploaded.headers["Location"]
    made = http.post("/v1/jobs", json=SMALL | {"dataset": "tiny"})
    problem = assert_problem(http.delete(where), 409, "in-use")
    assert problem["jobs"] == [made.json()["id"]]
    http.post(f"{made.headers['Location']}/cancel")
    deadline = time.monotonic() + 20
    while not http.get(made.headers["Location"]).json()["done"]:
        assert time.monotonic() < deadline
    assert http.delete(where).status_code == 204
    assert_problem(http.get(where), 404, "not-found")
    assert http.post("/v1/datasets", files=file, data={"target": "y"}).status_code == 201
    assert_problem(http.delete("/v1/datasets/digits"), 409, "in-use")
    assert_problem(http.delete("/v1/datasets/nothing"), 404, "not-found")
