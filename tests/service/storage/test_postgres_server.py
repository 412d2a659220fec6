"""The PostgreSQL server of the tests leaves nothing behind."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest
from tests.postgres import PostgresServer

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
def test_a_killed_test_run_leaves_no_server() -> None:
    code = (
        "from tests.postgres import PostgresServer; server = PostgresServer(); server.start(); "
        "print(server.url(), server.folder, flush=True); input()"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert run.stdout is not None
    url, folder = run.stdout.readline().split()
    psycopg.connect(url).close()
    run.kill()
    run.communicate()
    deadline = time.monotonic() + 120
    while _answers(url):
        assert time.monotonic() < deadline
    while Path(folder).exists():  # its processes still remove files of their own
        shutil.rmtree(folder, ignore_errors=True)
        assert time.monotonic() < deadline


def _answers(url: str) -> bool:
    try:
        psycopg.connect(url, connect_timeout=1).close()
    except psycopg.OperationalError:
        return False
    return True


def test_an_emptied_database_keeps_its_schema(postgres_server: PostgresServer) -> None:
    url = postgres_server.create("emptied")
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE parent AS SELECT 1 AS id")
        connection.execute("ALTER TABLE parent ADD PRIMARY KEY (id)")
        connection.execute("CREATE TABLE child (id integer REFERENCES parent)")
        connection.execute("INSERT INTO child VALUES (1)")
    left_open = psycopg.connect(url)
    left_open.execute("LOCK TABLE child")
    postgres_server.empty("emptied")
    left_open.close()
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT * FROM parent, child").fetchall() == []
    postgres_server.drop("emptied")
