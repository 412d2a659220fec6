"""What is told before a job: the sites of a model, and what the job would be."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from starlette.testclient import TestClient
from tests import factories
from tests.service.api.probes import BODY, SMALL, assert_problem

from dropt.spec.inspection import Inspection
from dropt.spec.preview import PreviewRead
from dropt.spec.protocol import InspectionFailure, InspectionReport, Lease
from dropt.storage import inspections
from dropt.tuning.service import Service

INSPECT = "/v1/models/mlp/inspect"
ASKED: dict[str, Any] = {"dataset": "digits"}


def fail_look(worker: factories.ToyWorker, lease: Lease, detail: str) -> None:
    failure = InspectionFailure(reason="error", detail=detail)
    worker.send(lease, 1, inspection=InspectionReport(failure=failure), done=True)


def test_model_is_looked_at_once_and_then_known(
    http: TestClient, worker: factories.ToyWorker
) -> None:
    first = http.post(INSPECT, json=ASKED)
    assert first.status_code == 202
    assert first.headers["Retry-After"] == "2"
    assert first.json()["state"] == "waiting"
    assert "Waiting for a worker that has time" in first.json()["reason"]
    lease = worker.lease()
    assert lease is not None
    assert (lease.kind, lease.job, lease.model.name) == ("inspect", "", "mlp")
    running = http.post(INSPECT, json=ASKED).json()
    assert running == {"state": "running", "reason": "A worker looks for the sites of the model."}
    worker.inspect(lease)
    found = http.post(INSPECT, json=ASKED)
    assert found.status_code == 200
    assert Inspection.model_validate(found.json()) == factories.inspection()
    assert worker.lease() is None
    assert http.post(INSPECT, json=ASKED | {"args": {"hidden": [4]}}).status_code == 202


def test_wait_ends_when_the_worker_has_looked(
    http: TestClient, worker: factories.ToyWorker
) -> None:
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(http.post, INSPECT, json=ASKED, headers={"Prefer": "wait=60"})
        while not worker.work_once():
            pass
        answer = asked.result(120)
    assert answer.status_code == 200
    assert answer.headers["Preference-Applied"] == "wait=60"


def test_job_uses_the_look_and_a_look_that_of_a_job(
    http: TestClient, service: Service, worker: factories.ToyWorker
) -> None:
    http.post(INSPECT, json=ASKED)
    assert worker.work_once()
    job_id = http.post("/v1/jobs", json=SMALL).json()["id"]
    factories.run_until_done(service, worker)
    assert http.get(f"/v1/jobs/{job_id}").json()["state"] == "succeeded"
    assert [lease.kind for lease in worker.leases].count("inspect") == 1
    assert http.post(INSPECT, json=ASKED).status_code == 200


def test_look_that_a_cancelled_job_left_waiting_is_made_for_who_asks(
    http: TestClient, service: Service, worker: factories.ToyWorker
) -> None:
    job_id = http.post("/v1/jobs", json=SMALL).json()["id"]
    factories.advance_all(service)
    http.post(f"/v1/jobs/{job_id}/cancel")
    factories.advance_all(service)
    assert worker.lease() is None
    assert http.post(INSPECT, json=ASKED).status_code == 202
    assert worker.work_once()
    assert http.post(INSPECT, json=ASKED).status_code == 200


def test_look_needs_a_worker_that_has_the_model(
    http: TestClient, service: Service, worker: factories.ToyWorker
) -> None:
    http.delete(f"/v1/workers/{worker.id}")
    pending = http.post(INSPECT, json=ASKED).json()
    assert pending["reason"] == "Waiting for a worker that offers model 'mlp'."


def test_model_that_fails_on_the_data_is_a_problem_with_its_reason(
    http: TestClient, service: Service, worker: factories.ToyWorker
) -> None:
    http.post(INSPECT, json=ASKED)
    lease = worker.lease()
    assert lease is not None
    fail_look(worker, lease, "mat1 and mat2 shapes cannot be multiplied")
    problem = assert_problem(http.post(INSPECT, json=ASKED), 422, "validation")
    assert "mat1 and mat2" in problem["detail"]
    assert problem["errors"][0]["code"] == "model-fails"
    problem = assert_problem(http.post("/v1/jobs/preview", json=BODY), 422, "validation")
    assert problem["errors"][0]["pointer"] == "/model"


def test_failure_is_looked_at_anew_after_a_minute(
    http: TestClient,
    service: Service,
    worker: factories.ToyWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    http.post(INSPECT, json=ASKED)
    lease = worker.lease()
    assert lease is not None
    fail_look(worker, lease, "no luck")
    assert http.post(INSPECT, json=ASKED).status_code == 422
    monkeypatch.setattr("dropt.jobs.looking.FAILURE_STANDS", timedelta(0))
    assert http.post(INSPECT, json=ASKED).status_code == 202
    assert worker.work_once()
    assert http.post(INSPECT, json=ASKED).status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "status", "code", "pointer"),
    [
        ("/v1/models/mlpp/inspect", ASKED, 404, "not-found", None),
        (INSPECT, {"dataset": "digit"}, 422, "validation", "/dataset"),
        (INSPECT, ASKED | {"args": {"hiden": [3]}}, 422, "validation", "/args/hiden"),
        (INSPECT, ASKED | {"arg": {}}, 422, "validation", "/arg"),
        (INSPECT, {}, 422, "validation", "/dataset"),
        ("/v1/jobs/preview", BODY | {"model": "mlpp"}, 422, "validation", "/model"),
        ("/v1/jobs/preview", BODY | {"serach": {}}, 422, "validation", "/serach"),
    ],
)
def test_wrong_names_are_refused_where_they_stand(
    http: TestClient, worker: factories.ToyWorker, path: str, body: dict[str, Any], status: int,
    code: str, pointer: str | None,
) -> None:  # fmt: skip
    problem = assert_problem(http.post(path, json=body), status, code)
    if pointer is None:
        assert "Did you mean 'mlp'?" in problem["detail"]
    else:
        assert [error["pointer"] for error in problem["errors"]] == [pointer]


def test_preview_tells_the_job_and_stores_none(
    http: TestClient, worker: factories.ToyWorker
) -> None:
    body = BODY | {
        "objective": {"metric": "accuracy"},
        "budget": {"trials": 4},
        "training": {"epochs": 10},
        "search": {"start_from": [{"layers.1:out": 0.35}]},
        "evidence": {"effort": "quick"},
    }
    early = http.post("/v1/jobs/preview", json=body)
    assert early.status_code == 202
    assert early.json()["space"] is None
    assert early.json()["estimate"]["device_seconds"] is None
    assert early.json()["spec"]["training"]["batch_size"] == 64
    assert worker.work_once()
    answer = http.post("/v1/jobs/preview", json=body)
    assert answer.status_code == 200
    seen = PreviewRead.model_validate(answer.json())
    assert seen.space is not None
    assert [group.group for group in seen.space.groups] == [
        "layers.0:in", "layers.1:out", "layers.3:out",
    ]  # fmt: skip
    assert seen.sites == factories.inspection().sites
    arms = {arm.arm: arm for arm in seen.arms}
    assert [arms[arm].trials for arm in ("without", "with", "textbook")] == [4, 4, 0]
    assert not arms["textbook"].searched
    first = arms["with"].first
    assert {site: one.rate for site, one in first[0].sites.items()} == {"layers.1:out": 0.35}
    assert all(one.rate == 0.2 for one in first[1].sites.values())
    assert arms["without"].first[0].sites == {}
    assert seen.estimate.trainings["search"] == 8
    assert seen.estimate.trainings["evidence"] > 0
    assert seen.estimate.detectable_effect is not None
    assert http.get("/v1/jobs").json()["items"] == []
    job = http.post("/v1/jobs", json=body).json()
    assert job["spec"] == answer.json()["spec"]


def test_preview_refuses_what_would_fail_the_job_later(
    http: TestClient, worker: factories.ToyWorker
) -> None:
    body = BODY | {"search": {"sites": [{"match": "layers.4:out"}]}}
    http.post("/v1/jobs/preview", json=body)
    assert worker.work_once()
    problem = assert_problem(http.post("/v1/jobs/preview", json=body), 422, "validation")
    error = problem["errors"][0]
    assert (error["pointer"], error["code"]) == ("/search/sites/0/match", "output-layer-site")


def test_look_is_given_back_when_its_worker_leaves(
    http: TestClient, service: Service, worker: factories.ToyWorker
) -> None:
    http.post(INSPECT, json=ASKED)
    assert worker.lease() is not None
    http.delete(f"/v1/workers/{worker.id}")
    other = factories.ToyWorker(service, name="other")
    assert other.work_once()
    assert http.post(INSPECT, json=ASKED).status_code == 200
    with service.database.reading() as session:
        assert inspections.list_free(session, project=factories.PROJECT) == []
