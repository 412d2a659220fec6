"""The databases of the tests: SQLite in a file, PostgreSQL on a server of our own."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from tests.postgres import PostgresServer

from dropt.storage import migrate, projects
from dropt.storage.engine import Database, sqlite_url

SHARED = "dropt"


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One server for the whole run; it forgets everything when it is killed."""
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def migrated_postgres(postgres_server: PostgresServer) -> str:
    """The URL of a migrated database that each test finds empty."""
    url = postgres_server.create(SHARED)
    migrate.upgrade(url)
    return url


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state folder with both SQLite files, from which each test gets a copy."""
    folder = tmp_path_factory.mktemp("migrated") / "state"
    migrate.upgrade(sqlite_url(folder))
    return folder


@pytest.fixture
def sqlite_database_url(migrated_sqlite: Path, tmp_path: Path) -> str:
    """A migrated SQLite database of this test."""
    shutil.copytree(migrated_sqlite, tmp_path / "state")
    return sqlite_url(tmp_path / "state")


@pytest.fixture
def postgres_database_url(
    postgres_server: PostgresServer, migrated_postgres: str
) -> Iterator[str]:
    """A migrated PostgreSQL database without a row."""
    yield migrated_postgres
    postgres_server.empty(SHARED)


@pytest.fixture
def new_postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """A PostgreSQL database of this test alone, without a table."""
    name = f"test_{uuid4().hex}"
    yield postgres_server.create(name)
    postgres_server.drop(name)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """A migrated database without a row, of both kinds in turn."""
    name = {"sqlite": "sqlite_database_url", "postgresql": "postgres_database_url"}
    url: str = request.getfixturevalue(name[request.param])
    return url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """The same, open, with the project `default`."""
    opened = Database.open(database_url)
    with opened.writing() as session:
        projects.ensure(session, projects.DEFAULT)
    yield opened
    opened.close()
