"""Connections: transactions that read and that write, and faults in our words."""

import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from sqlalchemy import insert, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError, StatementError
from tests.postgres import PostgresServer
from tests.service.storage.rows import PROJECT, add_job, spec

from dropt.errors import NotReady, StateInUse, StorageFull
from dropt.storage import engine, jobs, projects
from dropt.storage.engine import Database, optuna_url, own_state, sqlite_url
from dropt.storage.tables import project


def names(database: Database) -> list[str]:
    with database.reading() as session:
        return sorted(session.scalars(select(project.c.id)))


def test_a_writing_transaction_commits_at_its_end(database: Database) -> None:
    with database.writing() as session:
        projects.ensure(session, "b")
        projects.ensure(session, "b")
    assert names(database) == ["b", "default"]


def test_any_exception_rolls_a_writing_transaction_back(database: Database) -> None:
    def write_and_fail() -> None:
        with database.writing() as session:
            projects.ensure(session, "b")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_and_fail()
    assert names(database) == ["default"]


def test_a_reading_transaction_cannot_write(database: Database) -> None:
    with pytest.raises(DBAPIError), database.reading() as session:
        projects.ensure(session, "b")
    with database.writing() as session:  # the same connection writes again
        projects.ensure(session, "c")
    assert names(database) == ["c", "default"]


def test_a_reading_transaction_sees_one_state(database: Database) -> None:
    with database.reading() as reader:
        n_before = len(reader.scalars(select(project.c.id)).all())
        with database.writing() as writer:
            projects.ensure(writer, "b")
        assert len(reader.scalars(select(project.c.id)).all()) == n_before


def test_foreign_keys_are_enforced(database: Database) -> None:
    with pytest.raises(IntegrityError), database.writing() as session:
        add_job(session, project="unknown")


def test_numbers_that_are_not_finite_never_reach_a_document(database: Database) -> None:
    with database.writing() as session:
        job = add_job(session)
    with pytest.raises((StatementError, ValueError), match="JSON"), database.writing() as session:
        jobs.update(session, job.id, project=PROJECT, warnings=(float("nan"),))


def test_times_come_back_in_utc_whatever_zone_they_had(database: Database) -> None:
    here = datetime(2026, 11, 23, 1, 2, 3, 456789, timezone(timedelta(hours=5, minutes=30)))
    with database.writing() as session:
        session.execute(insert(project).values(id="b", created_at=here))
    with database.reading() as session:
        at = session.scalars(select(project.c.created_at).where(project.c.id == "b")).one()
    assert (at, at.tzinfo) == (datetime(2026, 11, 22, 19, 32, 3, 456789, UTC), UTC)


def test_a_time_without_zone_is_refused(database: Database) -> None:
    noon = datetime(2026, 11, 23, 12)  # noqa: DTZ001  # the fault under test
    with pytest.raises(StatementError, match="zone"), database.writing() as session:
        session.execute(insert(project).values(id="b", created_at=noon))


def test_absent_documents_are_null_in_sql(database: Database) -> None:
    with database.writing() as session:
        jobs.insert(session, spec(), project=PROJECT, name="x", labels={}, priority=0)
        found = session.execute(text("SELECT space IS NULL, labels IS NULL FROM job")).one()
    assert [bool(value) for value in found] == [True, False]


def test_sqlite_has_two_files_and_postgresql_one_database(tmp_path: Path) -> None:
    assert sqlite_url(tmp_path) == f"sqlite:///{tmp_path}/dropt.db"
    assert optuna_url(sqlite_url(tmp_path)) == f"sqlite:///{tmp_path}/optuna.db"
    for scheme in ("postgres", "postgresql", "postgresql+psycopg"):
        url = optuna_url(f"{scheme}://user:secret@host/dropt")
        assert url == "postgresql+psycopg://user:secret@host/dropt"


@pytest.mark.parametrize("url", ["mysql://host/dropt", "sqlite://", "sqlite:///:memory:"])
def test_other_databases_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"received mysql|needs a file"):
        engine.normal_url(url)


def test_sqlite_is_set_up_as_designed(sqlite_database_url: str) -> None:
    database = Database.open(sqlite_database_url)
    with database.writing() as session:
        settings = {
            name: session.scalars(text(f"PRAGMA {name}")).one()
            for name in ("journal_mode", "foreign_keys", "busy_timeout", "synchronous")
        }
    database.close()
    assert settings == {
        "journal_mode": "wal", "foreign_keys": 1, "busy_timeout": 30_000, "synchronous": 2,
    }  # fmt: skip


def test_a_writer_of_sqlite_waits_for_the_one_before(sqlite_database_url: str) -> None:
    database = Database.open(sqlite_database_url)
    order: list[str] = []

    def second() -> None:
        with database.writing() as session:
            projects.ensure(session, "b")
            order.append("second")

    with database.writing() as session:
        projects.ensure(session, "a")
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(timeout=0.2)
        order.append("first")
    thread.join(timeout=120)
    database.close()
    assert order == ["first", "second"]


def test_a_full_disk_is_said(sqlite_database_url: str) -> None:
    database = Database.open(sqlite_database_url)

    def fill() -> None:
        with database.writing() as session:
            projects.ensure(session, PROJECT)
            session.execute(text("PRAGMA max_page_count = 1"))
            for _ in range(99):
                add_job(session)

    with pytest.raises(StorageFull):
        fill()
    database.close()


def test_wrong_sql_is_no_fault_of_the_database(database: Database) -> None:
    with pytest.raises(DBAPIError), database.writing() as session:
        session.execute(text("SELECT * FROM nowhere"))


def test_a_server_that_is_away_is_said_within_its_timeout() -> None:
    with pytest.raises(NotReady, match="does not answer"):
        Database.open("postgresql://postgres@127.0.0.1:1/dropt")


@pytest.mark.slow
def test_postgresql_works_again_after_its_crash_with_all_it_committed() -> None:
    server = PostgresServer(durable=True)
    server.start()
    database = Database.open(server.url(), check_schema=False)
    try:
        with database.writing() as session:
            session.execute(text("CREATE TABLE kept AS SELECT 7 AS n"))
        for signum in (signal.SIGKILL, signal.SIGQUIT):
            server.kill(signum)
            with pytest.raises(NotReady), database.reading() as session:
                session.execute(text("SELECT n FROM kept"))
            server.start()
            with database.reading() as session:
                assert session.scalars(text("SELECT n FROM kept")).all() == [7]
    finally:
        database.close()
        server.close()


def test_a_connection_that_the_server_ended_is_replaced(postgres_database_url: str) -> None:
    database = Database.open(postgres_database_url)
    with database.reading(), database.writing() as session:
        session.execute(text("SELECT 1"))
    with database.writing() as session:
        session.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )
    assert [names(database) for _ in range(3)] == [[]] * 3
    database.close()


@pytest.mark.slow
def test_a_state_folder_has_one_owner(tmp_path: Path) -> None:
    take = (
        "import sys, pathlib; from dropt.storage.engine import own_state; "
        "own_state(pathlib.Path(sys.argv[1])).__enter__()"
    )
    arguments = [sys.executable, "-c", take, str(tmp_path / "state")]
    with own_state(tmp_path / "state"):
        other = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert "StateInUse" in other.stderr
    assert "in use by process" in other.stderr
    subprocess.run(arguments, check=True)
    with own_state(tmp_path / "state"):
        pass


def test_the_owner_is_refused_a_second_time_in_its_own_process(tmp_path: Path) -> None:
    with own_state(tmp_path), pytest.raises(StateInUse, match="--state"), own_state(tmp_path):
        pass


def test_a_file_that_is_no_database_is_said(tmp_path: Path) -> None:
    (tmp_path / "dropt.db").write_bytes(b"a letter to my aunt, " * 99)
    with pytest.raises(NotReady, match="not a database"):
        Database.open(sqlite_url(tmp_path))
