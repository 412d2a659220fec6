import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from starlette.testclient import TestClient
from tests import factories
from tests.service.api.probes import BODY, SMALL, assert_problem

from dropt.tuning.service import Service

PATIENCE_S = 120.0


def test_two_fields_are_a_job(http: TestClient, worker: factories.ToyWorker) -> None:
    response = http.post("/v1/jobs", json=BODY)
    job = response.json()
    assert response.status_code == 202
    assert response.headers["Location"] == f"/v1/jobs/{job['id']}" == job["links"]["self"]
    assert response.headers["Retry-After"] == "2"
    assert (job["object"], job["state"], job["done"]) == ("job", "queued", False)
    assert job["name"] == "mlp on digits"
    assert job["created_at"].endswith("Z")
    spec = job["spec"]
    assert spec["schema"] == "dropt-job/1"
    assert spec["model"] == {"name": "mlp", "args": {}}
    assert spec["budget"]["trials"] == 64
    assert spec["objective"]["metric"] == "nll"
    assert http.get(response.headers["Location"]).json()["spec"] == spec


def test_job_waits_for_the_first_worker_before_it_judges_names(
    http: TestClient, service: Service
) -> None:
    with ThreadPoolExecutor() as pool:
        known = pool.submit(http.post, "/v1/jobs", json=BODY)
        unknown = pool.submit(http.post, "/v1/jobs", json=BODY | {"model": "mlpp"})
        time.sleep(0.3)
        assert not known.done()
        factories.ToyWorker(service)
        assert known.result(PATIENCE_S).status_code == 202
        assert_problem(unknown.result(PATIENCE_S), 422, "validation")


def test_one_key_makes_one_job(http: TestClient, worker: factories.ToyWorker) -> None:
    key = {"Idempotency-Key": "k"}
    first = http.post("/v1/jobs", json=BODY, headers=key)
    second = http.post("/v1/jobs", json=BODY, headers=key)
    assert (first.status_code, second.status_code) == (202, 202)
    assert first.json() == second.json()
    assert second.headers["Location"] == first.headers["Location"]
    assert second.headers["Idempotent-Replayed"] == "true"
    assert "Idempotent-Replayed" not in first.headers
    other = http.post("/v1/jobs", json=BODY | {"name": "x"}, headers=key)
    assert_problem(other, 422, "idempotency-key-reused")
    assert len(http.get("/v1/jobs").json()["items"]) == 1


def test_concurrent_senders_of_one_key_make_one_job(
    http: TestClient, worker: factories.ToyWorker
) -> None:
    def send(_: int) -> Any:
        return http.post("/v1/jobs", json=BODY, headers={"Idempotency-Key": "k"}).json()["id"]

    with ThreadPoolExecutor(10) as pool:
        assert len(set(pool.map(send, range(20)))) == 1
    assert len(http.get("/v1/jobs").json()["items"]) == 1


def test_refused_body_leaves_its_key_free(http: TestClient, worker: factories.ToyWorker) -> None:
    key = {"Idempotency-Key": "k"}
    assert http.post("/v1/jobs", json=BODY | {"model": "x"}, headers=key).status_code == 422
    assert http.post("/v1/jobs", json=BODY, headers=key).status_code == 202


@pytest.mark.parametrize("key", ["", "x" * 256])
def test_key_of_a_wrong_length_is_refused(
    http: TestClient, worker: factories.ToyWorker, key: str
) -> None:
    response = http.post("/v1/jobs", json=BODY, headers={"Idempotency-Key": key})
    assert "Idempotency-Key" in str(assert_problem(response, 422, "validation")["errors"])


def test_unchanged_job_is_not_sent_twice(http: TestClient, worker: factories.ToyWorker) -> None:
    path = http.post("/v1/jobs", json=BODY).headers["Location"]
    while http.get(path).json()["state"] == "queued":
        time.sleep(0.02)
    first = http.get(path)
    again = http.get(path, headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["ETag"] == first.headers["ETag"]
    http.post(f"{path}/cancel")
    changed = http.get(path, headers={"If-None-Match": first.headers["ETag"]})
    assert changed.status_code == 200


def test_wait_ends_when_the_job_does(http: TestClient, worker: factories.ToyWorker) -> None:
    path = http.post("/v1/jobs", json=BODY).headers["Location"]
    with ThreadPoolExecutor() as pool:
        started_at = time.monotonic()
        waiting = pool.submit(http.get, path, headers={"Prefer": "wait=60"})
        time.sleep(0.2)
        http.post(f"{path}/cancel")
        response = waiting.result(PATIENCE_S)
    assert time.monotonic() - started_at < 60
    assert response.json()["state"] == "cancelled"
    assert response.headers["Preference-Applied"] == "wait=60"
    assert "Retry-After" not in response.headers


@pytest.mark.slow
def test_wait_is_over_in_time(http: TestClient, worker: factories.ToyWorker) -> None:
    started_at = time.monotonic()
    response = http.post("/v1/jobs", json=BODY, headers={"Prefer": "wait=1"})
    assert 0.7 < time.monotonic() - started_at < 60, "the longest wait, should 1 not be heard"
    assert response.status_code == 202
    assert response.headers["Preference-Applied"] == "wait=1"


@pytest.mark.slow
def test_waiting_requests_keep_nobody_else_waiting(
    http: TestClient, worker: factories.ToyWorker
) -> None:
    path = http.post("/v1/jobs", json=BODY).headers["Location"]
    with ThreadPoolExecutor(60) as pool:
        try:
            wait = {"Prefer": "wait=60"}
            waiting = [pool.submit(lambda: http.get(path, headers=wait)) for _ in range(60)]
            time.sleep(1)
            assert http.get("/v1/models").status_code == 200
            n_over = sum(each.done() for each in waiting)
        finally:
            http.post(f"{path}/cancel")
        states = {each.result(PATIENCE_S).json()["state"] for each in waiting}
    assert n_over == 0, "60 requests that hold the 40 threads of the pool must end first"
    assert states == {"cancelled"}


def test_cancel_is_idempotent_by_state(http: TestClient, worker: factories.ToyWorker) -> None:
    path = http.post("/v1/jobs", json=BODY).headers["Location"]
    first = http.post(f"{path}/cancel", json={"reason": "wrong data"})
    assert (first.status_code, first.json()["reason"]) == (202, "wrong data")
    assert http.post(f"{path}/cancel").status_code == 200
    assert_problem(http.post(f"{path}/cancel", json={"why": "x"}), 422, "validation")
    assert_problem(http.post("/v1/jobs/job_x/cancel"), 404, "not-found")


@pytest.mark.slow
def test_finished_job_cannot_be_cancelled(
    http: TestClient, service: Service, worker: factories.ToyWorker
) -> None:
    path = http.post("/v1/jobs", json=SMALL).headers["Location"]
    factories.run_until_done(service, worker)
    assert_problem(http.post(f"{path}/cancel"), 409, "job-already-finished")


def test_pages_of_jobs_hold_each_job_once(http: TestClient, worker: factories.ToyWorker) -> None:
    made = [http.post("/v1/jobs", json=BODY).json()["id"] for _ in range(7)]
    seen, url = [], "/v1/jobs?page_size=3"
    while url:
        response = http.get(url)
        seen += [job["id"] for job in response.json()["items"]]
        url = response.links.get("next", {}).get("url", "")
        assert bool(url) == (response.json()["next_page_token"] is not None)
    assert seen == made[::-1]


def test_page_token_of_other_filters_is_refused(
    http: TestClient, worker: factories.ToyWorker
) -> None:
    for _ in range(2):
        http.post("/v1/jobs", json=BODY)
    token = http.get("/v1/jobs?page_size=1").json()["next_page_token"]
    assert http.get("/v1/jobs", params={"page_token": token}).status_code == 200
    other = http.get("/v1/jobs", params={"page_token": token, "model": "mlp"})
    assert_problem(other, 400, "bad-page-token")


def test_jobs_are_filtered(http: TestClient, worker: factories.ToyWorker) -> None:
    http.post("/v1/jobs", json=BODY | {"labels": {"team": "vision"}})
    http.post("/v1/jobs", json=BODY)

    def n_found(query: str) -> int:
        return len(http.get(f"/v1/jobs?{query}").json()["items"])

    assert n_found("label=team:vision") == 1
    assert n_found("label=team:audio") == 0
    assert n_found("model=mlp&dataset=digits") == 2
    assert n_found("model=cnn") == 0
    assert n_found("state=succeeded&state=failed") == 0
    assert n_found("created_after=2999-01-01T00:00:00Z") == 0


@pytest.mark.parametrize(
    "job", ["job_01KAR9V1X8W0E3Q4T5Y6Z7A8B9", "job_x", "x", "%2e%2e", "..%2f", "%00", "ü" * 300]
)
@pytest.mark.parametrize("part", ["", "/verdict", "/best", "/arms", "/trials", "/events"])
def test_job_that_is_not_there_is_not_found(shared: TestClient, job: str, part: str) -> None:
    assert_problem(shared.get(f"/v1/jobs/{job}{part}"), 404, "not-found")
