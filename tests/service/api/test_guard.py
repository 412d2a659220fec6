"""Who may do what: every route and every mount, taken from the application itself."""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from httpx2 import Response
from sqlalchemy import Select, Table, select
from starlette.testclient import TestClient
from tests import factories
from tests.factories import PROJECT
from tests.postgres import PostgresServer
from tests.service.api.probes import SMALL, assert_problem

from dropt.api import examples
from dropt.api.app import create_app
from dropt.api.dashboard import PREFIXES
from dropt.api.scopes import is_open, needed
from dropt.jobs import keys
from dropt.settings import Settings
from dropt.spec.keys import Scope
from dropt.spec.protocol import Registration
from dropt.storage import migrate, tables
from dropt.storage.engine import Database, sqlite_url
from dropt.tuning import scheduler
from dropt.tuning.service import Service

OTHER = "other"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
ID = re.compile(r"\b(job|trl|wrk|lea|ds|key)_[0-9A-Z]{26}\b")
MIRRORED = {"study", "study_id", "optuna_id", "mirrored"}


@dataclass
class Guarded:
    """A service that asks for keys: what `default` has in it, and a key of each project."""

    http: TestClient
    mine: str
    others: str
    ids: dict[str, str]  # by name of a path parameter

    @property
    def app(self) -> FastAPI:
        assert isinstance(self.http.app, FastAPI)
        return self.http.app

    @property
    def service(self) -> Service:
        service: Service = self.app.state.service
        return service

    def ask(self, method: str, path: str, key: str | None = None, **more: Any) -> Response:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        return self.http.request(method, path, headers=headers, follow_redirects=False, **more)

    def key(self, *scopes: Scope, project: str = PROJECT) -> str:
        return make_key(self.service.database, *scopes, project=project)

    def requests(self) -> Iterator[tuple[str, str, Any]]:
        """Every method, path and JSON body that the routes take, with the things of `default`."""
        document = self.app.openapi()
        for route in iter_route_contexts(self.app.routes):
            path = route.path or ""
            if path in PREFIXES:
                continue
            filled = re.sub(r"\{(\w+)(:\w+)?\}", lambda found: self.ids[found[1]], path)
            for method in sorted(route.methods or ()):
                yield method, filled, self._body(document, path, method)

    def mounted(self) -> Iterator[str]:
        study = self.ids["study"]
        for prefix in PREFIXES:
            yield prefix
            yield f"{prefix}/"
            yield f"{prefix}/{study}"
            yield f"{prefix}/studies/{study}"

    def _body(self, document: dict[str, Any], path: str, method: str) -> Any:
        operation = document["paths"].get(path, {}).get(method.lower(), {})
        content = operation.get("requestBody", {}).get("content", {})
        if "application/json" not in content:
            return None
        text = json.dumps(content["application/json"]["schema"]["examples"][0])
        known = {value[:4]: value for value in self.ids.values() if ID.fullmatch(value)}
        return json.loads(ID.sub(lambda found: known.get(found[0][:4], found[0]), text))


def make_key(database: Database, *scopes: Scope, project: str = PROJECT) -> str:
    return keys.make(database, project=project, name="test", scopes=scopes or ("admin",)).key


def fill(http: TestClient, service: Service) -> dict[str, str]:
    """A job that has ended, one under way with an open lease, a data set, a file, a study."""
    worker = factories.ToyWorker(service)
    done = http.post("/v1/jobs", json=SMALL).json()["id"]
    factories.run_until_done(service, worker)
    look = {"model": {"name": "mlp", "args": {"hidden": [8]}}}  # not looked at so far
    assert http.post("/v1/jobs", json=SMALL | look).status_code == 202
    factories.advance_all(service)
    lease = worker.lease()
    assert lease is not None
    uploaded = http.post("/v1/datasets", files={"file": ("mine.csv", ROWS)}, data={"target": "y"})
    trial = factories.trial_rows(service, done)[0].id
    with service.database.reading() as session:
        sha256 = session.scalars(select(tables.artifact.c.sha256)).first()
    assert sha256 is not None
    return {
        "job": done, "trial": trial, "worker": worker.id, "lease": lease.id, "sha256": sha256,
        "dataset": uploaded.json()["name"], "model": "mlp", "code": "not-found",
    }  # fmt: skip


OTHERS_WORKER = Registration.model_validate(
    examples.REGISTRATION
    | {"models": [examples.REGISTRATION["models"][0] | {"name": "theirs"}], "datasets": []}
)
ROWS = "a,b,y\n" + "\n".join(f"{i},{-i},{i % 2}" for i in range(200))


@pytest.fixture(scope="module")
def new_sqlite(migrated_sqlite: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    state = tmp_path_factory.mktemp("guarded") / "state"
    shutil.copytree(migrated_sqlite, state)
    return sqlite_url(state)


@pytest.fixture(scope="module")
def new_postgres(postgres_server: PostgresServer) -> Iterator[str]:
    url = postgres_server.create("guarded")
    migrate.upgrade(url)
    yield url
    postgres_server.drop("guarded")


@pytest.fixture(scope="module", params=["new_sqlite", "new_postgres"])
def guarded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Guarded]:
    """Tests that change anything make what they change themselves."""
    state, url = tmp_path_factory.mktemp("guarded"), request.getfixturevalue(request.param)
    settings = Settings(state=state, database_url=url, limit_free_disk_bytes=0)
    app = create_app(settings)
    with TestClient(app, base_url="http://localhost") as http:
        service: Service = app.state.service
        ids = fill(http, service)
        mine = keys.make(service.database, project=PROJECT, name="mine", scopes=["admin"])
        others = make_key(service.database, project=OTHER)
        with service.database.writing() as session:
            arm = tables.arm.update().where(tables.arm.c.job_id == ids["job"])
            session.execute(arm.values(study_id=1))
        scheduler.register(service, OTHERS_WORKER, project=OTHER)
        yield Guarded(http, mine.key, others, ids | {"key": mine.id, "study": "1"})


def rows_of(service: Service, project: str) -> dict[str, list[Any]]:
    """Everything that a project has, but for what the mirror of Optuna notes meanwhile."""
    with service.database.reading() as session:
        return {
            name: sorted(map(repr, session.execute(_lasting(table).where(own == project))))
            for name, table in tables.metadata.tables.items()
            if (own := table.c.get("project")) is not None
        }


def _lasting(table: Table) -> Select[Any]:
    return select(*[column for column in table.c if column.name not in MIRRORED])


@pytest.mark.slow
def test_without_a_key_every_route_and_mount_is_401(guarded: Guarded) -> None:
    n_asked = 0
    for method, path, body in guarded.requests():
        response = guarded.ask(method, path, json=body)
        if is_open(path):
            continue
        n_asked += 1
        if method == "HEAD":
            assert response.status_code == 401, path
        else:
            problem = assert_problem(response, 401, "unauthorized")
            assert "dropt keys new" in problem["detail"]
        assert response.headers["WWW-Authenticate"] == "Bearer"
    for path in guarded.mounted():
        for method in METHODS:
            assert guarded.ask(method, path).status_code == 401, (method, path)
            n_asked += 1
    assert n_asked > 200


@pytest.mark.slow
def test_key_of_another_project_finds_nothing_and_changes_nothing(guarded: Guarded) -> None:
    before = rows_of(guarded.service, PROJECT)
    secrets = {guarded.ids[name] for name in ("job", "trial", "worker", "lease", "dataset", "key")}
    for method, path, body in guarded.requests():
        if is_open(path):
            continue
        response = guarded.ask(method, path, guarded.others, json=body)
        names_mine = any(value in path.split("/") for value in guarded.ids.values())
        if names_mine and method != "PUT":  # the same bytes are another file in another project
            assert response.status_code == 404, (method, path, response.text)
        assert response.status_code in (200, 201, 202, 404, 415, 422), (method, path)
        told = {one for one in secrets if one in response.text and one not in f"{path} {body}"}
        assert not told, (method, path)
    assert rows_of(guarded.service, PROJECT) == before


@pytest.mark.slow
def test_dashboard_of_another_project_shows_no_study(guarded: Guarded) -> None:
    study = guarded.ids["study"]
    assert guarded.ask("GET", "/api/studies", guarded.others).json() == {"study_summaries": []}
    for path in (
        f"/api/studies/{study}", f"/api/studies/{study}/param_importances",
        f"/api/studies/{study}/plot/contour", f"/csv/{study}", f"/csv/{study}/",
        f"/artifacts/{study}/0a", f"/artifacts/{study}/1/0a", "/csv/-1", "/api/studies/999",
    ):  # fmt: skip
        assert_problem(guarded.ask("GET", path, guarded.others), 404, "not-found")


def test_scopes_are_those_that_were_meant(shared: TestClient) -> None:
    app = shared.app
    assert isinstance(app, FastAPI)
    meant: dict[tuple[str, str], set[str]] = {
        ("POST", "/v1/workers"): {"worker"},
        ("POST", "/v1/workers/{worker}/heartbeat"): {"worker"},
        ("DELETE", "/v1/workers/{worker}"): {"worker"},
        ("POST", "/v1/leases"): {"worker"},
        ("POST", "/v1/leases/{lease}/reports"): {"worker"},
        ("DELETE", "/v1/leases/{lease}"): {"worker"},
        ("PUT", "/v1/artifacts/{sha256}"): {"worker"},
        ("HEAD", "/v1/artifacts/{sha256}"): {"worker", "jobs:read"},
        ("GET", "/v1/artifacts/{sha256}"): {"worker", "jobs:read"},
        ("GET", "/v1/datasets/{dataset}/content"): {"worker", "jobs:read"},
        ("HEAD", "/v1/datasets/{dataset}/content"): {"worker", "jobs:read"},
        ("POST", "/v1/jobs/preview"): {"jobs:read"},
        ("POST", "/v1/models/{model}/inspect"): {"jobs:read"},
        ("POST", "/v1/keys"): {"admin"},
        ("GET", "/v1/keys"): {"admin"},
        ("DELETE", "/v1/keys/{key}"): {"admin"},
        ("GET", "/version"): set(),
        ("GET", "/openapi.json"): set(),
        ("HEAD", "/openapi.json"): set(),
        ("POST", "/v1/workers/{worker}/drain"): {"admin"},
        ("GET", "/docs"): set(),
    }
    found = {
        (method, route.path or "")
        for route in iter_route_contexts(app.routes)
        for method in route.methods or ()
    }
    assert len(found & meant.keys()) > 15
    for method, path in found:
        usual = {"jobs:read"} if method in ("GET", "HEAD") else {"jobs:write"}
        assert set(needed(method, path)) == meant.get((method, path), usual), (method, path)
