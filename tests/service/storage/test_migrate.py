"""Migrations: the schema that they make is the one that the tables describe."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect, text

import dropt
from dropt.errors import SchemaMismatch
from dropt.storage import migrate, schema
from dropt.storage.engine import Database, make_engine, optuna_url, sqlite_url
from dropt.storage.tables import metadata


@pytest.fixture(params=["sqlite", "postgresql"])
def new_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database without a table, of both kinds in turn."""
    if request.param == "sqlite":
        return sqlite_url(tmp_path / "new" / "folder")
    url: str = request.getfixturevalue("new_postgres_url")
    return url


@pytest.fixture
def opened(new_url: str) -> Iterator[Database]:
    migrate.upgrade(new_url)
    database = Database.open(new_url)
    yield database
    database.close()


def tables_of(url: str) -> set[str]:
    engine = make_engine(url)
    names = set(inspect(engine).get_table_names())
    engine.dispose()
    return names


def test_the_migrated_schema_is_that_of_the_tables(opened: Database) -> None:
    options = {
        "version_table": schema.VERSION_TABLE,
        "include_name": lambda name, kind, parents: kind != "table" or name in metadata.tables,
        "compare_type": True,
        "compare_server_default": True,
    }
    with opened.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, metadata) == []


def test_optuna_gets_its_schema_in_the_same_step(opened: Database) -> None:
    assert {"studies", "trials", "alembic_version"} <= tables_of(optuna_url(opened.url))
    assert {"job", "trial", schema.VERSION_TABLE} <= tables_of(opened.url)


def test_upgrading_again_changes_nothing(opened: Database) -> None:
    before = tables_of(opened.url)
    migrate.upgrade(opened.url)
    assert tables_of(opened.url) == before
    assert migrate.current(opened.url) == migrate.head()


def test_a_downgrade_takes_our_tables_and_leaves_those_of_optuna(opened: Database) -> None:
    url = opened.url
    migrate.downgrade(url, "base")
    assert migrate.current(url) is None
    assert tables_of(url) & metadata.tables.keys() == set()
    assert "studies" in tables_of(optuna_url(url))
    migrate.upgrade(url)
    assert metadata.tables.keys() <= tables_of(url)


def test_a_database_without_a_schema_is_refused_with_the_remedy(new_url: str) -> None:
    if new_url.startswith("sqlite"):
        Path(new_url.removeprefix("sqlite:///")).parent.mkdir(parents=True)
    with pytest.raises(SchemaMismatch, match=rf"no schema yet .*{schema.head()}.*db upgrade`"):
        Database.open(new_url)


def test_a_newer_database_is_refused_and_left_as_it_is(opened: Database) -> None:
    with opened.writing() as session:
        session.execute(text(f"UPDATE {schema.VERSION_TABLE} SET version_num = '9999'"))
    with pytest.raises(SchemaMismatch, match=rf"schema 9999.*schema {schema.head()}.*newer dropt"):
        Database.open(opened.url)
    with pytest.raises(SchemaMismatch, match=r"schema 9999"):
        migrate.upgrade(opened.url)
    assert migrate.current(opened.url) == "9999"
    Database.open(opened.url, check_schema=False).close()


def test_an_older_database_is_refused_with_the_remedy(
    opened: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = schema.head()
    monkeypatch.setattr(schema, "head", lambda: "9998")  # as a later version of the program
    with pytest.raises(SchemaMismatch, match=rf"schema {older}.*needs 9998.*db upgrade`"):
        Database.open(opened.url)


def test_a_newer_optuna_schema_is_refused(opened: Database) -> None:
    optuna = make_engine(optuna_url(opened.url))
    with optuna.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'v99.a'"))
    optuna.dispose()
    with pytest.raises(SchemaMismatch, match=r"v99\.a.*newer than the installed Optuna"):
        migrate.upgrade(opened.url)


def test_those_that_upgrade_at_once_all_succeed(new_url: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(migrate.upgrade, [new_url] * 4)) == [None] * 4
    assert migrate.current(new_url) == migrate.head()


def test_migrations_of_a_wheel_are_found_beside_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = tmp_path / "dropt" / "migrations"
    shipped.mkdir(parents=True)
    monkeypatch.setattr(dropt, "__file__", str(tmp_path / "dropt" / "__init__.py"))
    assert schema.config().get_main_option("script_location") == str(shipped)


@pytest.mark.slow
def test_developers_reach_a_database_through_alembic_itself(tmp_path: Path) -> None:
    root = Path(__file__).parents[3]
    url = sqlite_url(tmp_path)
    command = [sys.executable, "-m", "alembic", "-x", f"url={url}", "upgrade", "head"]
    environment = {**os.environ, "PYTHONPATH": str(root / "service")}
    subprocess.run(command, cwd=root, env=environment, check=True)
    assert migrate.current(url) == migrate.head()
