"""A service over a database of the test, and one job that has been carried out for all to read."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, event
from tests import factories
from tests.factories import ToyWorker, make_service

from dropt.spec.protocol import TrialAssignment
from dropt.storage import projects, tables
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


@pytest.fixture(scope="session")
def warm_sqlite(
    migrated_sqlite: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Database]:
    """One database for many tests: an engine of its own would compile every statement again."""
    folder = tmp_path_factory.mktemp("warm") / "state"
    shutil.copytree(migrated_sqlite, folder)
    with _opened(sqlite_url(folder)) as database:
        event.listen(database.engine, "connect", _hurry)
        database.engine.dispose()  # its connections are made anew
        yield database


@pytest.fixture
def sqlite_database(warm_sqlite: Database) -> Iterator[Database]:
    """A SQLite database that nobody else uses meanwhile, with the project `default` alone."""
    yield warm_sqlite
    with warm_sqlite.writing() as session:
        for table in reversed(tables.metadata.sorted_tables):
            session.execute(delete(table))
        projects.ensure(session, projects.DEFAULT)


@pytest.fixture
def service(sqlite_database: Database, tmp_path: Path) -> Service:
    return make_service(sqlite_database, tmp_path)


@pytest.fixture(params=["sqlite", "postgresql"])
def service_on_either(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Service]:
    """The same over SQLite and over PostgreSQL in turn."""
    if request.param == "sqlite":
        yield make_service(request.getfixturevalue("sqlite_database"), tmp_path)
        return
    with _opened(request.getfixturevalue("postgres_database_url")) as database:
        yield make_service(database, tmp_path)


@pytest.fixture(scope="session")
def done(migrated_sqlite: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Done]:
    """A job with three arms, pruning, and evidence: nobody may change it."""
    with _carried_out(
        migrated_sqlite, tmp_path_factory.mktemp("done"), factories.loss_of,
        search={"start_from": [{"layers.1:out": 0.35}]},
    ) as job:  # fmt: skip
        yield job


@pytest.fixture(scope="session")
def raced(migrated_sqlite: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Done]:
    """A job of default effort, with a race, a site that is taken out, and an ablation."""
    with _carried_out(
        migrated_sqlite, tmp_path_factory.mktemp("raced"), factories.loss_of_two_sites,
        evidence={"effort": "default"}, search={"pruner": {"name": "none"}},
    ) as job:  # fmt: skip
        yield job


@contextmanager
def _carried_out(
    migrated: Path, folder: Path, loss: Callable[[TrialAssignment, int], float], **fields: Any
) -> Iterator[Done]:
    shutil.copytree(migrated, folder / "state")
    with _opened(sqlite_url(folder / "state")) as database:
        service = make_service(database, folder)
        worker = ToyWorker(service, loss=loss)
        job_id = factories.submit(service, budget={"trials": 8}, **fields)
        factories.run_until_done(service, worker)
        job = factories.job_row(service, job_id)
        yield Done(service, worker, job)
        assert factories.job_row(service, job_id).revision == job.revision, (
            "a test changed the job"
        )
        assert factories.n_jobs(service) == 1, "a test submitted a job beside it"


def _hurry(connection: Any, record: object) -> None:
    """What a power cut would destroy may be lost here."""
    connection.execute("PRAGMA synchronous = OFF")


@contextmanager
def _opened(url: str) -> Iterator[Database]:
    database = Database.open(url)
    with database.writing() as session:
        projects.ensure(session, projects.DEFAULT)
    try:
        yield database
    finally:
        database.close()
