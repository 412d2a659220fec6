"""The worker protocol as it goes over the wire."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from starlette.testclient import TestClient
from tests import factories
from tests.service.api.probes import BODY, assert_problem

from dropt.spec.protocol import Lease, Registered, ReportAnswer


def register(http: TestClient, **changes: Any) -> Registered:
    body = factories.registration().model_dump(mode="json") | changes
    response = http.post("/v1/workers", json=body)
    assert response.status_code == 201, response.text
    return Registered.model_validate(response.json())


def ask(http: TestClient, worker: str, **headers: str) -> Any:
    return http.post("/v1/leases", json={"worker": worker, "slots": 8}, headers=headers)


def inspected(http: TestClient, worker: str) -> Lease:
    """The first `train` lease of a new job."""
    assert http.post("/v1/jobs", json=BODY).status_code == 202
    lease = Lease.model_validate(ask(http, worker, Prefer="wait=10").json())
    assert lease.kind == "inspect"
    report = {
        "worker": worker,
        "sequence": 1,
        "inspection": {"result": factories.inspection().model_dump(mode="json")},
        "done": True,
    }
    answer = http.post(f"/v1/leases/{lease.id}/reports", json=report)
    assert answer.status_code == 200, answer.text
    return Lease.model_validate(ask(http, worker, Prefer="wait=10").json())


def test_worker_is_registered_and_seen(http: TestClient) -> None:
    registered = register(http)
    assert registered.id.startswith("wrk_")
    assert (registered.heartbeat_seconds, registered.lease_seconds) == (10, 30)
    (worker,) = http.get("/v1/workers").json()["items"]
    assert (worker["id"], worker["state"], worker["slots_total"]) == (registered.id, "live", 16)
    assert [model["name"] for model in http.get("/v1/models").json()["items"]] == ["mlp"]
    assert http.get("/v1/models/mlp").json()["workers"] == 1
    assert_problem(http.get("/v1/models/mpl"), 404, "not-found")


def test_worker_of_another_protocol_is_told_which_one_is_spoken(http: TestClient) -> None:
    body = factories.registration().model_dump(mode="json") | {"protocol": 2}
    problem = assert_problem(http.post("/v1/workers", json=body), 422, "protocol-unsupported")
    assert problem["supported"] == [1]


def test_name_of_other_data_is_taken(http: TestClient) -> None:
    register(http)
    body = factories.registration().model_dump(mode="json")
    body["datasets"][0]["sha256"] = "f" * 64
    assert_problem(http.post("/v1/workers", json=body), 409, "name-taken")


def test_heartbeat_renews_and_unknown_workers_register_again(http: TestClient) -> None:
    worker = register(http).id
    answer = http.post(f"/v1/workers/{worker}/heartbeat", json={})
    assert answer.json() == {"drain": False, "leases": []}
    assert_problem(http.post("/v1/workers/wrk_x/heartbeat", json={}), 404, "not-found")
    assert http.delete(f"/v1/workers/{worker}").status_code == 204
    assert_problem(http.post(f"/v1/workers/{worker}/heartbeat", json={}), 404, "not-found")


def test_nothing_to_do_is_no_content(http: TestClient) -> None:
    response = ask(http, register(http).id)
    assert (response.status_code, response.content) == (204, b"")
    assert int(response.headers["Retry-After"]) > 0


def test_lease_is_waited_for(http: TestClient) -> None:
    worker = register(http).id
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(ask, http, worker, Prefer="wait=60")
        time.sleep(0.2)
        assert not waiting.done()
        http.post("/v1/jobs", json=BODY)
        response = waiting.result(120)
    assert response.json()["kind"] == "inspect"
    assert response.headers["Preference-Applied"] == "wait=60"


def test_same_key_gives_the_same_lease(http: TestClient) -> None:
    worker = register(http).id
    http.post("/v1/jobs", json=BODY)
    first = ask(http, worker, Prefer="wait=60", **{"Idempotency-Key": "k"})
    again = ask(http, worker, **{"Idempotency-Key": "k"})
    assert again.json()["id"] == first.json()["id"]
    assert ask(http, worker).status_code == 204


def test_report_is_taken_repeated_and_refused_by_its_sequence(http: TestClient) -> None:
    worker = register(http).id
    lease = inspected(http, worker)
    trial = lease.trials[0]
    measured = {
        "trial": trial.id, "attempt": trial.attempt, "epoch": 1, "train_loss": 0.5,
        "validation_loss": None, "metrics": {"nll": None}, "seconds": 0.1,
    }  # fmt: skip
    report = {"worker": worker, "sequence": 1, "measurements": [measured]}
    path = f"/v1/leases/{lease.id}/reports"
    first, again = http.post(path, json=report), http.post(path, json=report)
    assert ReportAnswer.model_validate(first.json()).sequence == 1
    assert again.json() == first.json()
    skipped = assert_problem(
        http.post(path, json=report | {"sequence": 5}), 409, "sequence-mismatch"
    )
    assert skipped["expected"] == 2


def test_report_of_an_old_attempt_is_lost(http: TestClient) -> None:
    worker = register(http).id
    lease = inspected(http, worker)
    trial = lease.trials[0]
    measured = {"trial": trial.id, "attempt": trial.attempt + 1, "epoch": 1}
    report = {"worker": worker, "sequence": 1, "measurements": [measured]}
    response = http.post(f"/v1/leases/{lease.id}/reports", json=report)
    assert assert_problem(response, 409, "lease-lost")["lost"] == [trial.id]


def test_given_back_lease_is_gone(http: TestClient) -> None:
    worker = register(http).id
    lease = inspected(http, worker)
    assert http.delete(f"/v1/leases/{lease.id}").status_code == 204
    assert_problem(http.delete(f"/v1/leases/{lease.id}"), 404, "not-found")
    again = Lease.model_validate(ask(http, worker).json())
    assert {trial.id for trial in again.trials} == {trial.id for trial in lease.trials}
    assert {trial.attempt for trial in again.trials} == {2}


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"worker": "w"}, "/slots"),
        ({"worker": "w", "slots": 0}, "/slots"),
        ({"worker": "w", "slots": 1, "slot": 1}, "/slot"),
    ],
)
def test_bad_request_for_a_lease_is_refused(
    shared: TestClient, body: dict[str, Any], pointer: str
) -> None:
    (field,) = assert_problem(shared.post("/v1/leases", json=body), 422, "validation")["errors"]
    assert field["pointer"] == pointer


def test_unknown_worker_gets_no_lease(shared: TestClient) -> None:
    assert_problem(ask(shared, "wrk_x", Prefer="wait=5"), 404, "not-found")


@pytest.mark.parametrize(
    ("prefer", "applied"),
    [
        ("wait=0", None),
        ("wait=x", None),
        ("respond-async", None),
        pytest.param("respond-async, wait=1; foo", "wait=1", marks=pytest.mark.slow),
        ("wait=999999999999", None),
    ],
)
def test_preferences_that_are_not_understood_are_ignored(
    http: TestClient, prefer: str, applied: str | None
) -> None:
    response = ask(http, register(http).id, Prefer=prefer)
    assert response.status_code == 204
    assert response.headers.get("Preference-Applied") == applied
