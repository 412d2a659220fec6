import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient
from tests.factories import PROJECT, ToyWorker
from tests.service.api.probes import SMALL, assert_problem

from dropt.api.dashboard import PREFIXES, is_dashboard
from dropt.spec.job import Objective
from dropt.storage import arms
from dropt.storage.engine import optuna_url
from dropt.tuning import studies
from dropt.tuning.service import Service


@pytest.mark.slow  # importing the dashboard takes seconds
def test_dashboard_shows_studies_and_changes_none(
    app: FastAPI, http: TestClient, service: Service, worker: ToyWorker
) -> None:
    storage = studies.open_storage(optuna_url(app.state.settings.database_url))
    objective = Objective(metric="nll", direction="minimize")
    job = http.post("/v1/jobs", json=SMALL).json()["id"]
    study = studies.open_study(storage, job, "with", objective)
    nobodys = studies.open_study(storage, "job_1", "with", objective)
    with service.database.writing() as session:
        arms.insert(session, job, "with", project=PROJECT, searched=True, target=1)
        arms.set_study_id(session, job, "with", study, project=PROJECT)

    shown = http.get("/api/studies").json()["study_summaries"]
    assert [each["study_name"] for each in shown] == [f"{job}/with"]
    assert_problem(http.get(f"/api/studies/{nobodys}"), 404, "not-found")
    for method, path in [
        ("DELETE", f"/api/studies/{study}"),
        ("POST", "/api/studies"),
        ("POST", f"/api/studies/{study}/rename"),
        ("PUT", f"/api/studies/{study}/note"),
    ]:
        assert_problem(http.request(method, path, json={}), 405, "dashboard-read-only")
    assert http.get(f"/api/studies/{study}").status_code == 200
    assert http.get(f"/csv/{study}").text.startswith("Number,State")
    assert storage.get_study_name_from_id(study) == f"{job}/with"

    page = http.get("/dashboard/")
    assert (page.status_code, "Optuna Dashboard" in page.text) == (200, True)
    for path in ("/dashboard", "/dashboard/studies/1", "/favicon.ico"):
        assert http.get(path).status_code == 200
        assert http.head(path).status_code == 200
    del http.headers["accept-encoding"]
    bundle = http.get("/static/bundle.js")
    assert (bundle.status_code, len(bundle.content) > 1_000_000) == (200, True)


def test_only_its_own_prefixes_are_the_dashboard() -> None:
    assert all(is_dashboard(prefix) and is_dashboard(f"{prefix}/x") for prefix in PREFIXES)
    for path in ("/", "/v1/jobs", "/apix", "/v1/artifacts/x", "/dashboards", "//api"):
        assert not is_dashboard(path)


def test_nothing_of_ours_lives_under_its_prefixes(app: FastAPI) -> None:
    ours = app.openapi()["paths"]
    assert ours
    assert not [path for path in ours if is_dashboard(path)]
