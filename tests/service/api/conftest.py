"""The real application over a SQLite database of the test, spoken to over HTTP in memory."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient
from tests import factories
from tests.service.api.probes import SMALL

from dropt.api.app import create_app
from dropt.settings import Settings
from dropt.tuning.service import Service


@pytest.fixture
def settings(sqlite_database_url: str, tmp_path: Path) -> Settings:
    return Settings(
        state=tmp_path / "state", database_url=sqlite_database_url, limit_free_disk_bytes=0
    )


@pytest.fixture
def app(settings: Settings) -> FastAPI:
    return create_app(settings)


@pytest.fixture
def http(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app, base_url="http://localhost") as client:
        yield client


@pytest.fixture(scope="module")
def shared(
    migrated_sqlite: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TestClient]:
    """One application for all tests of a module that leave nothing behind."""
    state = tmp_path_factory.mktemp("shared") / "state"
    shutil.copytree(migrated_sqlite, state)
    app = create_app(Settings(state=state, limit_free_disk_bytes=0))
    with TestClient(app, base_url="http://localhost") as client:
        yield client


@pytest.fixture
def service(app: FastAPI) -> Service:
    service: Service = app.state.service
    return service


@pytest.fixture
def worker(http: TestClient, service: Service) -> factories.ToyWorker:
    """A worker that offers `mlp` and `digits`; it trains when the test lets it."""
    return factories.ToyWorker(service)


@pytest.fixture(scope="module")
def path(shared: TestClient) -> str:
    """A job that has ended, with its verdict."""
    app = shared.app
    assert isinstance(app, FastAPI)
    worker = factories.ToyWorker(app.state.service)
    location = shared.post("/v1/jobs", json=SMALL).headers["Location"]
    factories.run_until_done(app.state.service, worker)
    assert shared.get(location).json()["state"] == "succeeded"
    return location
