"""What every test stands on: an environment like any other, and the databases.

SQLite is a file, PostgreSQL a server of our own.
"""

import os
import shutil
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from uuid import uuid4

import hypothesis
import pytest
from tests.postgres import PostgresServer

from dropt.storage import migrate, projects
from dropt.storage.engine import Database, sqlite_url

SHARED = "dropt"
SHELL = ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS")
KEPT = ("DROPT_NATIVE",)  # lets all tests run without kernels

hypothesis.settings.load_profile("ci")  # the same examples at each run, however long one takes


def _forget_the_shell(environment: MutableMapping[str, str]) -> None:
    """Take out what changes output, settings or addresses: tests set what they are about."""
    for name in list(environment):
        is_ours = name.startswith("DROPT_") and name not in KEPT
        if is_ours or name in SHELL or name.lower().endswith("_proxy"):
            del environment[name]


_forget_the_shell(os.environ)


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
