"""A service over a database of the test, and one job that has been carried out for all to read."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests import factories
from tests.factories import ToyWorker, make_service

from dropt.storage import projects
from dropt.storage.engine import Database, sqlite_url
from dropt.storage.jobs import JobRow
from dropt.storage.trials import TrialRow
from dropt.tuning.service import Service


@dataclass(frozen=True)
class Done:
    """A job at its end, with the worker that has done it."""

    service: Service
    worker: ToyWorker
    job: JobRow

    def trials(self, **filters: object) -> list[TrialRow]:
        return factories.trial_rows(self.service, self.job.id, **filters)


@pytest.fixture
def sqlite_database(sqlite_database_url: str) -> Iterator[Database]:
    """A SQLite database of the test, open, with the project `default`."""
    yield from _opened(sqlite_database_url)


@pytest.fixture
def service(sqlite_database: Database, tmp_path: Path) -> Service:
    return make_service(sqlite_database, tmp_path)


@pytest.fixture
def service_on_either(database: Database, tmp_path: Path) -> Service:
    """The same over SQLite and over PostgreSQL in turn."""
    return make_service(database, tmp_path)


@pytest.fixture(scope="session")
def done(migrated_sqlite: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Done]:
    """A job with three arms, pruning, and evidence: nobody may change it."""
    folder = tmp_path_factory.mktemp("done")
    shutil.copytree(migrated_sqlite, folder / "state")
    for database in _opened(sqlite_url(folder / "state")):
        service = make_service(database, folder)
        worker = ToyWorker(service)
        job_id = factories.submit(
            service, budget={"trials": 8}, search={"start_from": [{"layers.1:out": 0.35}]}
        )
        factories.run_until_done(service, worker)
        yield Done(service, worker, factories.job_row(service, job_id))


def _opened(url: str) -> Iterator[Database]:
    database = Database.open(url)
    with database.writing() as session:
        projects.ensure(session, projects.DEFAULT)
    yield database
    database.close()
