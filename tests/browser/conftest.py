"""A browser, and a service over HTTP with a job that ended and one that runs."""

import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest
import uvicorn
from tests import factories
from tests.browser.chromium import Page, browsing, executable
from tests.factories import PROJECT, ToyWorker

from dropt.api.app import create_app
from dropt.jobs import report as reports
from dropt.report.page import report_page
from dropt.settings import Settings
from dropt.tuning.service import Service

AXE = "axe_core_python"


@dataclass(frozen=True)
class Place:
    """A service with its address; `done` is a job whose report has all its figures."""

    url: str
    service: Service
    worker: ToyWorker
    done: str


@pytest.fixture(scope="session")
def browser() -> Iterator[Page]:
    program = executable()
    if program is None:
        pytest.skip("no Chromium on PATH; apt-get install chromium")
    with browsing(program) as page:
        yield page


@pytest.fixture(scope="session")
def axe() -> str:
    """The script of axe-core."""
    found = find_spec(AXE)
    if found is None or found.origin is None:
        pytest.skip("axe-core-python is not installed")
    return (Path(found.origin).parent / "axe.min.js").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def place(migrated_sqlite: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    state = tmp_path_factory.mktemp("browser") / "state"
    shutil.copytree(migrated_sqlite, state)
    app = create_app(Settings(state=state, limit_free_disk_bytes=0))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    service: Service = app.state.service
    worker = ToyWorker(service, loss=factories.loss_of_two_sites)
    done = factories.submit(
        service, budget={"trials": 16}, evidence={"effort": "default"},
        search={"pruner": {"name": "none"}}, labels={"team": "<b>vision</b>"},
    )  # fmt: skip
    factories.run_until_done(service, worker)
    yield Place(f"http://127.0.0.1:{port}", service, worker, done)
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="session")
def file(place: Place, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URL of the standalone page of the job that ended."""
    report = reports.report(place.service, place.done, project=PROJECT)
    assert set(report.empty) <= {"ties", "diagnosis"}
    path = tmp_path_factory.mktemp("standalone") / "report.html"
    path.write_text(report_page(report, standalone=True), encoding="utf-8")
    return path.as_uri()
