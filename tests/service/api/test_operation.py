import re
import threading

import pytest
from starlette.testclient import TestClient
from tests.service.api.probes import assert_problem

import dropt
from dropt.api.app import create_app
from dropt.settings import Settings
from dropt.tuning.service import Service


def n_background() -> int:
    return [thread.name for thread in threading.enumerate()].count("background")


def test_versions_and_limits_are_told(shared: TestClient) -> None:
    version = shared.get("/version").json()
    assert (version["dropt"], version["api"], version["protocol"]) == (dropt.__version__, "v1", 1)
    assert version["limits"]["json_bytes"] == 1 << 20
    assert isinstance(version["limits"]["json_bytes"], int)


def test_service_is_alive_and_ready(shared: TestClient) -> None:
    assert shared.get("/healthz").json() == {"status": "alive"}
    assert shared.get("/readyz").json()["checks"] == {"database": "ok", "storage": "ok"}


def test_service_without_its_database_is_alive_and_not_ready(
    http: TestClient, service: Service, settings: Settings
) -> None:
    database, away = settings.state / "dropt.db", settings.state / "away.db"
    service.database.engine.dispose()
    database.rename(away)
    database.mkdir()
    for response in (http.get("/readyz"), http.get("/v1/jobs")):
        assert_problem(response, 503, "not-ready")
        assert response.headers["Retry-After"]
    assert http.get("/healthz").status_code == 200
    database.rmdir()
    away.rename(database)
    assert http.get("/readyz").status_code == 200


def test_making_an_application_starts_nothing(settings: Settings) -> None:
    before = set(threading.enumerate())
    create_app(settings)
    assert set(threading.enumerate()) <= before


def test_stopped_application_leaves_no_thread_of_its_own(settings: Settings) -> None:
    before = n_background()
    with TestClient(create_app(settings), base_url="http://localhost"):
        assert n_background() == before + 1
    assert n_background() == before


def test_each_request_is_logged_with_its_id(
    shared: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="dropt.api.gate")
    response = shared.get("/v1/jobs?page_size=2")
    (record,) = [each for each in caplog.records if each.message == "request.answered"]
    assert (record.__dict__["path"], record.__dict__["status"]) == ("/v1/jobs", 200)
    assert re.fullmatch(r"[0-9A-Z]{26}", response.headers["X-Request-Id"])


def test_two_requests_have_two_ids(shared: TestClient) -> None:
    ids = {shared.get("/healthz").headers["X-Request-Id"] for _ in range(10)}
    assert len(ids) == 10
    assert_problem(shared.get("/nope"), 404, "not-found")
